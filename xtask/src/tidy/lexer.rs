//! Splits Rust source into comments, strings and code, by line.

/// Kind of a piece of source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Code,
    /// A comment that is not documentation, without its slashes.
    Comment,
    /// `///` or `//!`, without its marker.
    Doc,
    /// Contents of a string literal.
    Text,
}

/// A piece of source: a comment, a string, or the code between two of those.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    pub kind: Kind,
    /// Line on which it begins, from 1.
    pub line: usize,
    pub text: &'a str,
}

/// Splits `source`. Quotes and comment markers are in no piece.
pub fn pieces(source: &str) -> Vec<Piece<'_>> {
    let mut lexer = Lexer { source, at: 0, line: 1, code: 0, pieces: Vec::new() };
    while lexer.at < source.len() {
        lexer.step();
    }
    lexer.end_code(source.len());
    lexer.pieces
}

/// Code of `source` alone.
pub fn code(source: &str) -> String {
    pieces(source).iter().filter(|piece| piece.kind == Kind::Code).map(|piece| piece.text).collect()
}

/// True if a doc comment of `source` has a code block that rustdoc runs.
pub fn doctests(source: &str) -> bool {
    let mut inside = false;
    pieces(source).iter().filter(|piece| piece.kind == Kind::Doc).any(|piece| {
        let Some(language) = piece.text.trim().strip_prefix("```") else { return false };
        let begins = !inside;
        inside = !inside;
        let rustdoc = ["rust", "no_run", "should_panic", "compile_fail", "edition"];
        begins && (language.is_empty() || rustdoc.iter().any(|it| language.starts_with(it)))
    })
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: usize,
    /// Start of the code that is not yet in a piece.
    code: usize,
    pieces: Vec<Piece<'a>>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn step(&mut self) {
        let rest = self.rest();
        if rest.starts_with("//") {
            let end = rest.find('\n').unwrap_or(rest.len());
            let text = &rest[..end];
            let doc = ["///", "//!"].iter().find_map(|marker| text.strip_prefix(marker));
            match doc.filter(|doc| !doc.starts_with('/')) {
                Some(doc) => self.take(Kind::Doc, doc, end),
                None => self.take(Kind::Comment, text.trim_start_matches('/'), end),
            }
        } else if rest.starts_with("/*") {
            let end = block_comment(rest);
            self.take(Kind::Comment, rest[..end].trim_start_matches("/*").trim_end_matches("*/"), end);
        } else if let Some((text, end)) = raw_string(rest).filter(|_| !self.inside_a_word()) {
            self.take(Kind::Text, text, end);
        } else if rest.starts_with('"') {
            let (text, end) = string(rest);
            self.take(Kind::Text, text, end);
        } else if rest.starts_with('\'') {
            self.advance(char_literal(rest));
        } else {
            self.advance(rest.chars().next().map_or(1, char::len_utf8));
        }
    }

    /// True after a letter, digit or underscore: an `r` here does not begin a raw string.
    fn inside_a_word(&self) -> bool {
        self.source[..self.at].chars().next_back().is_some_and(|it| it.is_alphanumeric() || it == '_')
    }

    fn advance(&mut self, bytes: usize) {
        self.line += self.rest()[..bytes].matches('\n').count();
        self.at += bytes;
    }

    fn take(&mut self, kind: Kind, text: &'a str, bytes: usize) {
        self.end_code(self.at);
        self.pieces.push(Piece { kind, line: self.line, text });
        self.advance(bytes);
        self.code = self.at;
    }

    fn end_code(&mut self, end: usize) {
        let text = &self.source[self.code..end];
        if !text.is_empty() {
            let line = self.line - text.matches('\n').count();
            self.pieces.push(Piece { kind: Kind::Code, line, text });
        }
    }
}

/// Length of a block comment, which may contain others.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// Contents and length of `r"…"`, `r#"…"#`, `br"…"` and the like.
fn raw_string(rest: &str) -> Option<(&str, usize)> {
    let letters = ["r", "br", "cr"].iter().find_map(|it| {
        rest.strip_prefix(it).filter(|after| after.starts_with(['#', '"'])).map(|_| it.len())
    })?;
    let hashes = rest[letters..].bytes().take_while(|byte| *byte == b'#').count();
    let begin = letters + hashes + 1;
    rest[letters + hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let length = rest[begin..].find(&close)?;
    Some((&rest[begin..begin + length], begin + length + close.len()))
}

/// Contents and length of `"…"`.
fn string(rest: &str) -> (&str, usize) {
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return (&rest[1..at], at + 1),
            _ => {}
        }
    }
    (&rest[1..], rest.len())
}

/// Length of a character literal, or of the quote that begins a lifetime.
fn char_literal(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            rest[2..].char_indices().skip(1).find(|(_, it)| *it == '\'').map_or(1, |(at, _)| at + 3)
        }
        Some(_) => chars.next().filter(|(_, it)| *it == '\'').map_or(1, |(at, _)| at + 1),
        None => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(source: &str) -> Vec<(Kind, usize, &str)> {
        pieces(source).into_iter().map(|Piece { kind, line, text }| (kind, line, text)).collect()
    }

    #[test]
    fn comments_strings_and_code_are_told_apart() {
        let source = "//! Doc.\n// Comment.\nlet a = \"text\\\"\"; /* b /* c */ */ x\n//// Rule\n";
        let expected = vec![
            (Kind::Doc, 1, " Doc."),
            (Kind::Code, 1, "\n"),
            (Kind::Comment, 2, " Comment."),
            (Kind::Code, 2, "\nlet a = "),
            (Kind::Text, 3, "text\\\""),
            (Kind::Code, 3, "; "),
            (Kind::Comment, 3, " b /* c */ "),
            (Kind::Code, 3, " x\n"),
            (Kind::Comment, 4, " Rule"),
            (Kind::Code, 4, "\n"),
        ];
        assert_eq!(all(source), expected);
    }

    #[test]
    fn raw_strings_end_at_their_own_quote() {
        assert_eq!(all("r#\"a \" // b\"#"), [(Kind::Text, 1, "a \" // b")]);
        assert_eq!(code("for\"a\""), "for");
    }

    #[test]
    fn characters_and_lifetimes_begin_no_string() {
        let source = "fn f<'a>(x: &'a str) { ['\"', '\\'', '\\u{1F600}', '/', 'é'] } // end";
        assert_eq!(all(source).last(), Some(&(Kind::Comment, 1, " end")));
        assert_eq!(all(source).len(), 2);
    }

    #[test]
    fn only_code_blocks_for_rustdoc_are_doctests() {
        assert!(!doctests("//! ```text\n//! a\n//! ```\n"));
        assert!(doctests("/// ```\n/// f();\n/// ```\n"));
        assert!(!doctests("const A: &str = \"```\";\n"));
    }
}
