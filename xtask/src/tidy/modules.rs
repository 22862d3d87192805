//! Rust files that no crate includes: cargo compiles only what `mod` declarations lead to.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::File;
use super::lexer::{Kind, pieces};
use crate::workspace;

/// Rust files that are neither the root of a target nor declared as a module.
pub fn unreachable(files: &[File]) -> Result<Vec<String>> {
    let root = workspace::root()?;
    let mut reached = BTreeSet::new();
    for manifest in ["Cargo.toml", "fuzz/Cargo.toml"] {
        for package in workspace::metadata_of(&root.join(manifest))?.packages {
            for target in package.targets {
                reach(target.src_path.as_std_path(), true, &mut reached);
            }
        }
    }
    let lost = files.iter().filter(|file| file.is_rust() && !reached.contains(&root.join(&file.name)));
    Ok(lost.map(|file| format!("{}: declare it as a module, or delete it", file.name)).collect())
}

/// Adds a file and the modules that it declares. `root` is true for the first file of a target.
fn reach(file: &Path, root: bool, reached: &mut BTreeSet<PathBuf>) {
    let Ok(source) = std::fs::read_to_string(file) else { return };
    let file = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    if !reached.insert(file.clone()) {
        return;
    }
    let folder = file.parent().unwrap_or_else(|| Path::new(""));
    let own = if root || file.file_name().is_some_and(|name| name == "mod.rs") {
        folder.to_owned()
    } else {
        file.with_extension("")
    };
    for module in declared(&source) {
        if let Some(path) = module.path {
            reach(&folder.join(path), true, reached);
        } else {
            let base = own.join(&module.name);
            reach(&base.with_extension("rs"), false, reached);
            reach(&base.join("mod.rs"), false, reached);
        }
    }
}

/// A `mod NAME;`.
#[derive(Debug, PartialEq, Eq)]
struct Module {
    /// Name, with those of inline modules around it: `outer/name`.
    name: String,
    /// Value of its `#[path]` attribute.
    path: Option<String>,
}

/// Module declarations without a body.
fn declared(source: &str) -> Vec<Module> {
    let mut modules = Vec::new();
    // Inline modules around the current position, each with the depth of braces outside of it.
    let mut around: Vec<(String, usize)> = Vec::new();
    let mut depth = 0_usize;
    let mut path = None;
    let tokens = tokens(source);
    for (at, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                around.retain(|(_, outside)| *outside < depth);
            }
            "path" if tokens.get(at + 1).is_some_and(|it| it == "=") => {
                path = tokens.get(at + 2).and_then(|it| it.strip_prefix('"')).map(str::to_owned);
            }
            "mod" => {
                let (Some(name), Some(next)) = (tokens.get(at + 1), tokens.get(at + 2)) else { continue };
                if next == "{" {
                    around.push((name.clone(), depth));
                } else if next == ";" {
                    let outer = around.iter().map(|(name, _)| name.as_str());
                    let name = outer.chain([name.as_str()]).collect::<Vec<_>>().join("/");
                    modules.push(Module { name, path: path.take() });
                }
            }
            _ => {}
        }
    }
    modules
}

/// Words, punctuation, and strings with a quote before them.
fn tokens(source: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    for piece in pieces(source) {
        match piece.kind {
            Kind::Text => tokens.push(format!("\"{}", piece.text)),
            Kind::Code => {
                let mut word = String::new();
                for letter in piece.text.chars().chain([' ']) {
                    if letter.is_alphanumeric() || letter == '_' {
                        word.push(letter);
                        continue;
                    }
                    if !word.is_empty() {
                        tokens.push(std::mem::take(&mut word));
                    }
                    if !letter.is_whitespace() {
                        tokens.push(letter.to_string());
                    }
                }
            }
            Kind::Comment | Kind::Doc => {}
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_are_found_with_paths_and_outer_modules() {
        let source =
            "pub mod a;\n#[path = \"x/b.rs\"]\nmod b;\nmod c { mod d; fn f() { } }\n// mod e;\nmod g;\n";
        let found: Vec<_> = declared(source).into_iter().map(|it| (it.name, it.path)).collect();
        let expected = [("a", None), ("b", Some("x/b.rs")), ("c/d", None), ("g", None)];
        assert_eq!(found, expected.map(|(name, path)| (name.to_owned(), path.map(str::to_owned))));
    }

    #[test]
    fn file_without_a_declaration_is_not_reached() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().canonicalize().expect("it exists");
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("created");
            std::fs::write(path, text).expect("written");
        };
        write("lib.rs", "mod a;\nmod b;\n");
        write("a.rs", "mod c;\n");
        write("a/c.rs", "");
        write("b/mod.rs", "mod d;\n");
        write("b/d.rs", "");
        write("lost.rs", "");
        let mut reached = BTreeSet::new();
        reach(&folder.join("lib.rs"), true, &mut reached);
        let expected = ["a.rs", "a/c.rs", "b/d.rs", "b/mod.rs", "lib.rs"].map(|name| folder.join(name));
        assert_eq!(reached, expected.into());
    }
}
