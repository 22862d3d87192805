//! Rules of the repository that no compiler checks: prose, length of files, modules that no crate includes, unsafe code
//! outside its fences, arrows between crates.

mod arrows;
mod lexer;
mod modules;
mod prose;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::workspace;

/// Most lines of a file that people write.
const MAX_LINES: usize = 500;

/// Where unsafe code may be: fences of the product, one call in the GStreamer plugin, OpenGL of the test pattern.
const FENCES: [&str; 6] = [
    "sidecar/virtgpu",
    "sidecar/pipewire-buffers",
    "sidecar/gst/src/dmabuf.rs",
    "host-agent/tap",
    "host-agent/videotoolbox",
    "tests/fixtures/pattern",
];

/// Folders that are built, downloaded or generated.
const SKIPPED_FOLDERS: [&str; 7] =
    [".git", "target", "node_modules", "bench", "seeds", "corpus", "artifacts"];
/// Extensions of files that tools write.
const GENERATED: [&str; 4] = ["lock", "sum", "json", "svg"];

/// A text file of the repository.
struct File {
    /// Path relative to the repository's root.
    name: String,
    text: String,
}

impl File {
    fn is_rust(&self) -> bool {
        has_extension(&self.name, &["rs"])
    }
}

/// Checks the repository and prints every violation.
///
/// # Errors
/// If there is a violation.
pub fn run() -> Result<()> {
    let files = files()?;
    let mut violations = modules::unreachable(&files)?;
    violations.extend(arrows::violations(&workspace::metadata()?));
    for file in &files {
        violations.extend(length(file));
        violations.extend(prose::violations(&file.name, &file.text));
        if file.is_rust() {
            violations.extend(header(file));
            violations.extend(fence(file));
        }
    }
    for violation in &violations {
        eprintln!("x: {violation}");
    }
    ensure!(violations.is_empty(), "{} violations of the repository's rules", violations.len());
    Ok(())
}

/// True if a doc comment of the product or its tests contains code that rustdoc compiles.
///
/// # Errors
/// If a source file cannot be read.
pub fn has_doctests() -> Result<bool> {
    Ok(files()?
        .iter()
        .any(|file| file.is_rust() && !file.name.starts_with("xtask/") && lexer::doctests(&file.text)))
}

fn length(File { name, text }: &File) -> Option<String> {
    let generated = ["crds/", "charts/desktopstream/crds/"].iter().any(|path| name.starts_with(path));
    let lines = text.lines().count();
    (lines > MAX_LINES && !generated).then(|| format!("{name}: {lines} lines; split it: at most {MAX_LINES}"))
}

fn header(File { name, text }: &File) -> Option<String> {
    let test = name.contains("/tests/") || name.ends_with("/tests.rs");
    let present = text.starts_with("//!") || text.starts_with("#!");
    (!present && !test).then(|| format!("{name}: add a module header (//!) that states the purpose"))
}

fn fence(File { name, text }: &File) -> Option<String> {
    let fenced = FENCES.iter().any(|fence| name.starts_with(fence));
    let code = lexer::code(text);
    let found = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"].iter().any(|it| code.contains(it));
    (found && !fenced).then(|| format!("{name}: move unsafe code into one of the fences {FENCES:?}"))
}

fn has_extension(name: &str, extensions: &[&str]) -> bool {
    Path::new(name).extension().is_some_and(|extension| extensions.iter().any(|it| extension == *it))
}

/// All text files that people write.
fn files() -> Result<Vec<File>> {
    let root = workspace::root()?;
    let mut files = Vec::new();
    collect(&root, &root, &mut files)?;
    Ok(files)
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<File>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if !SKIPPED_FOLDERS.iter().any(|skipped| name == *skipped) || path.ends_with("src/bench") {
                collect(root, &path, files)?;
            }
        } else if kind.is_file() {
            let name = path.strip_prefix(root)?.display().to_string();
            if !has_extension(&name, &GENERATED)
                && let Ok(text) = fs::read_to_string(&path)
            {
                files.push(File { name, text });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: impl Into<String>) -> File {
        File { name: name.to_owned(), text: text.into() }
    }

    #[test]
    fn long_file_is_refused() {
        assert_eq!(length(&file("a.rs", "\n".repeat(MAX_LINES))), None);
        assert!(length(&file("a.rs", "\n".repeat(MAX_LINES + 1))).is_some());
        assert_eq!(length(&file("crds/a.yaml", "\n".repeat(MAX_LINES + 1))), None);
    }

    #[test]
    fn unsafe_code_outside_the_fences_is_refused() {
        let text = "//! A module.\nfn f() { unsafe { g() } }\n";
        assert!(fence(&file("operator/src/a.rs", text)).is_some());
        assert_eq!(fence(&file("host-agent/tap/src/a.rs", text)), None);
        assert_eq!(
            fence(&file("operator/src/a.rs", "// unsafe { }\nconst A: &str = \"unsafe fn\";\n")),
            None
        );
    }

    #[test]
    fn source_without_a_header_is_refused() {
        assert!(header(&file("a/src/b.rs", "fn f() {}")).is_some());
        assert_eq!(header(&file("a/src/b.rs", "//! A module.\n")), None);
        assert_eq!(header(&file("a/tests/b.rs", "fn f() {}")), None);
    }
}
