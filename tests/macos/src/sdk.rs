//! The stub SDK: text-based stubs (`.tbd`), which contain all that a linker needs of a library.
//!
//! Each file of `sdk/` describes a library: the install name in the first line, then one exported symbol per line. The
//! lists of libSystem and VideoToolbox were compared with Apple's stubs (macOS 11.3 and later); symbols of other frameworks
//! are listed under the framework whose header declares them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::repository;

/// A stub library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// Name of the list: `VideoToolbox`, `libSystem`.
    pub name: String,
    /// Install name: path on macOS.
    pub install_name: String,
    /// Exported symbols, sorted.
    pub symbols: Vec<String>,
}

impl Library {
    fn parse(name: &str, text: &str) -> Result<Self> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let install_name = lines.next().context("the first line must be the install name")?.to_owned();
        let symbols: Vec<_> = lines.map(str::to_owned).collect();
        ensure!(symbols.is_sorted(), "the symbols must be sorted");
        Ok(Self { name: name.to_owned(), install_name, symbols })
    }

    /// Text of the stub (TAPI format, version 4).
    pub fn stub(&self) -> String {
        let symbols: Vec<_> = self.symbols.iter().map(|symbol| format!("'{symbol}'")).collect();
        format!(
            "--- !tapi-tbd\ntbd-version: 4\ntargets: [ arm64-macos ]\ninstall-name: '{}'\nexports:\n  \
             - targets: [ arm64-macos ]\n    symbols: [ {} ]\n...\n",
            self.install_name,
            symbols.join(", ")
        )
    }

    /// Path in an SDK.
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

/// Reads all lists.
///
/// # Errors
/// Fails on malformed lists.
pub fn libraries() -> Result<Vec<Library>> {
    let mut libraries = Vec::new();
    for entry in fs::read_dir(repository().join("tests/macos/sdk"))? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|stem| stem.to_str()).context("a list without a file name")?;
        let text = fs::read_to_string(&path)?;
        libraries.push(Library::parse(name, &text).with_context(|| path.display().to_string())?);
    }
    libraries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(libraries)
}

/// Writes an SDK of these libraries.
///
/// # Errors
/// Fails if a file cannot be written.
pub fn write(libraries: &[Library], folder: &Path) -> Result<()> {
    for library in libraries {
        let path = folder.join(library.path());
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, library.stub()).with_context(|| path.display().to_string())?;
    }
    // The standard library links these names.
    let system = folder.join("usr/lib/libSystem.tbd");
    for name in ["libc", "libm", "libpthread"] {
        fs::copy(&system, folder.join(format!("usr/lib/{name}.tbd"))).context("the lists lack libSystem")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_is_converted_to_a_stub() {
        let library = Library::parse("X", "# why\n/usr/lib/X.dylib\n_a\n_b\n").expect("parses");
        assert!(library.stub().contains("install-name: '/usr/lib/X.dylib'"));
        assert!(library.stub().contains("symbols: [ '_a', '_b' ]"));
        assert!(Library::parse("X", "/x\n_b\n_a\n").is_err(), "unsorted");
        assert!(Library::parse("X", "").is_err());
    }
}
