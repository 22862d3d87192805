//! The stub SDK: text-based stubs (`.tbd`), which are all that a linker wants of a system's libraries.
//!
//! Each file of `sdk/` is a library: its install name in the first line, one exported symbol in each line after.
//! libSystem's and VideoToolbox's were held against Apple's own stubs (macOS 11.3 and later); the other frameworks'
//! are in the library whose header declares them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::repository;

/// A library that exists by name only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// The list's name: `VideoToolbox`, `libSystem`.
    pub name: String,
    /// Where a Mac has it.
    pub install_name: String,
    /// What it exports.
    pub symbols: Vec<String>,
}

impl Library {
    fn parse(name: &str, text: &str) -> Result<Self> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let install_name = lines.next().context("its first line is the install name")?.to_owned();
        let symbols: Vec<_> = lines.map(str::to_owned).collect();
        ensure!(symbols.is_sorted(), "its symbols are not sorted");
        Ok(Self { name: name.to_owned(), install_name, symbols })
    }

    /// The stub's text (TAPI's format, version 4).
    pub fn stub(&self) -> String {
        let symbols: Vec<_> = self.symbols.iter().map(|symbol| format!("'{symbol}'")).collect();
        format!(
            "--- !tapi-tbd\ntbd-version: 4\ntargets: [ arm64-macos ]\ninstall-name: '{}'\nexports:\n  \
             - targets: [ arm64-macos ]\n    symbols: [ {} ]\n...\n",
            self.install_name,
            symbols.join(", ")
        )
    }

    /// Where the linker looks for it, in an SDK.
    fn path(&self) -> PathBuf {
        if self.install_name.starts_with('@') {
            format!("{}.tbd", self.name).into()
        } else if self.install_name.contains(".framework/") {
            format!("System/Library/Frameworks/{0}.framework/{0}.tbd", self.name).into()
        } else {
            format!("usr/lib/{}.tbd", self.name).into()
        }
    }
}

/// Reads the lists.
pub fn libraries() -> Result<Vec<Library>> {
    let mut libraries = Vec::new();
    for entry in fs::read_dir(repository().join("tests/macos/sdk"))? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|stem| stem.to_str()).context("a file without a name")?;
        let text = fs::read_to_string(&path)?;
        libraries.push(Library::parse(name, &text).with_context(|| path.display().to_string())?);
    }
    libraries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(libraries)
}

/// Writes an SDK of these libraries.
pub fn write(libraries: &[Library], folder: &Path) -> Result<()> {
    for library in libraries {
        let path = folder.join(library.path());
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, library.stub()).with_context(|| path.display().to_string())?;
    }
    // The names by which rustc's own libraries ask for it.
    let system = folder.join("usr/lib/libSystem.tbd");
    for name in ["libc", "libm", "libpthread"] {
        fs::copy(&system, folder.join(format!("usr/lib/{name}.tbd"))).context("there is no libSystem")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_becomes_a_stub() {
        let library = Library::parse("X", "# why\n/usr/lib/X.dylib\n_a\n_b\n").expect("parses");
        assert!(library.stub().contains("install-name: '/usr/lib/X.dylib'"));
        assert!(library.stub().contains("symbols: [ '_a', '_b' ]"));
        assert!(Library::parse("X", "/x\n_b\n_a\n").is_err(), "an unsorted list is hard to read");
        assert!(Library::parse("X", "").is_err());
    }
}
