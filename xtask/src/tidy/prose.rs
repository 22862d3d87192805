//! Rules for prose: words and openings that this project does not use.

use super::lexer::{Kind, Piece, pieces};

/// Words that stand for a missing noun, or for "again".
const WORDS: [&str; 4] = ["nobody", "anew", "whoever", "whom"];

/// Openings of doc comments without a subject.
const OPENINGS: [&str; 2] = ["What ", "See the module"];

/// Files that quote these words.
const EXEMPT: [&str; 3] = ["LICENSE-APACHE", "LICENSE-MIT", "xtask/src/tidy/prose.rs"];

/// Violations in a file: in comments and strings of Rust, in all of other files.
pub fn violations(name: &str, text: &str) -> Vec<String> {
    if EXEMPT.contains(&name) {
        return Vec::new();
    }
    let found = if super::has_extension(name, &["rs"]) { in_rust(text) } else { in_text(text) };
    found.into_iter().map(|(line, violation)| format!("{name}:{line}: {violation}")).collect()
}

fn in_text(text: &str) -> Vec<(usize, String)> {
    text.lines().enumerate().flat_map(|(at, line)| words(line).map(move |word| (at + 1, word))).collect()
}

fn in_rust(source: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let pieces = pieces(source);
    for piece in pieces.iter().filter(|piece| piece.kind != Kind::Code) {
        for (at, line) in piece.text.lines().enumerate() {
            found.extend(words(line).map(|word| (piece.line + at, word)));
        }
    }
    for (line, doc) in docs(&pieces) {
        if doc.split_whitespace().count() == 1 {
            found.push((line, format!("say more than {doc:?}: what the item is, its unit, its range")));
        }
        if let Some(opening) = OPENINGS.iter().find(|opening| doc.starts_with(**opening)) {
            found.push((line, format!("begin with a noun or a verb, not with {:?}", opening.trim())));
        }
    }
    found
}

/// Doc comments: consecutive lines as one text, with the line of their beginning.
fn docs(pieces: &[Piece<'_>]) -> Vec<(usize, String)> {
    let mut docs: Vec<(usize, String)> = Vec::new();
    let mut last = None;
    for piece in pieces.iter().filter(|piece| piece.kind == Kind::Doc) {
        match docs.last_mut().filter(|_| last.is_some_and(|last| last + 1 == piece.line)) {
            Some((_, doc)) => format!("{doc} {}", piece.text.trim()).trim().clone_into(doc),
            None => docs.push((piece.line, piece.text.trim().to_owned())),
        }
        last = Some(piece.line);
    }
    docs
}

fn words(line: &str) -> impl Iterator<Item = String> {
    let line = line.to_lowercase();
    let words = line.split(|letter: char| !letter.is_alphanumeric() && letter != '_' && letter != '-');
    let found: Vec<_> =
        words.filter(|word| WORDS.contains(word)).map(|word| format!("rephrase {word:?}")).collect();
    found.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(source: &str) -> Vec<usize> {
        in_rust(source).into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn refused_words_are_found_in_comments_and_strings_alone() {
        let source = "// Nobody waits.\nlet nobody = \"for whom\";\n/// Renew all.\nfn anew() {}\n";
        assert_eq!(lines(source), [1, 2]);
        assert_eq!(violations("a.md", "fine\nmade anew\n"), ["a.md:2: rephrase \"anew\""]);
        assert_eq!(violations("a.md", "user: nobody-else nobody_1\n"), [""; 0]);
    }

    #[test]
    fn doc_of_one_word_is_refused() {
        assert_eq!(
            lines("/// Height.\nheight: u32,\n/// Height in pixels.\n/// Height\n/// in pixels.\n"),
            [1]
        );
    }

    #[test]
    fn doc_without_a_subject_is_refused() {
        assert_eq!(lines("/// What is known.\nfn f() {}\n//! See the module.\n\n/// Whatever.\n"), [1, 3, 5]);
        assert_eq!(lines("/// Says\n/// What is known.\n// What\n"), [0; 0]);
    }
}
