//! Things that take long to make, kept under the hash of what they are made from.
//!
//! An entry is a folder `NAME-HASH` in the user's cache. It is made under another name and renamed when complete, so that
//! an entry that exists is whole; a lock keeps two processes from making the same one twice. Nothing is ever updated: other
//! inputs are another entry, and the old one waits for `./x clean`.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::progress::say;

/// The folder that holds it all: `$XDG_CACHE_HOME/desktopstream`, or under `~/.cache`.
pub fn folder() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let base = match base {
        Some(base) => base,
        None => std::env::home_dir()
            .context("no home directory to keep a cache in: set XDG_CACHE_HOME")?
            .join(".cache"),
    };
    Ok(base.join("desktopstream"))
}

/// A name and everything that the result depends on.
pub struct Recipe {
    name: String,
    hash: Sha256,
}

impl Recipe {
    /// `format` is the version of how the result is laid out: raise it when code that uses entries changes its mind.
    pub fn new(name: &str, format: u32) -> Self {
        Self { name: name.to_owned(), hash: Sha256::new() }.input("format", &format.to_le_bytes())
    }

    /// One thing that the result depends on.
    #[must_use]
    pub fn input(mut self, label: &str, bytes: &[u8]) -> Self {
        for part in [label.as_bytes(), bytes] {
            self.hash.update((part.len() as u64).to_le_bytes());
            self.hash.update(part);
        }
        self
    }

    /// A file's contents, or those of all files in a folder; what doesn't exist is an input too.
    pub fn path(mut self, path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            self = self.input("folder", name.as_bytes());
            let mut entries = fs::read_dir(path)?.collect::<std::io::Result<Vec<_>>>()?;
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                self = self.path(&entry.path())?;
            }
            Ok(self.input("end", name.as_bytes()))
        } else if path.exists() {
            let executable = fs::metadata(path)?.mode() & 0o111 != 0;
            let contents = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
            Ok(self
                .input(if executable { "program" } else { "file" }, name.as_bytes())
                .input("contents", &contents))
        } else {
            Ok(self.input("absent", name.as_bytes()))
        }
    }

    /// The entry's name.
    pub fn id(&self) -> String {
        let hash =
            self.hash.clone().finalize().iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte));
        format!("{}-{hash:016x}", self.name)
    }

    /// Where the entry is, or will be.
    pub fn location(&self) -> Result<PathBuf> {
        Ok(folder()?.join(self.id()))
    }

    /// Returns the entry; has `make` fill a new folder first if it isn't there yet.
    pub fn build(&self, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let entry = self.location()?;
        if entry.exists() {
            return Ok(entry);
        }
        let root = folder()?;
        fs::create_dir_all(root.join(".locks")).with_context(|| format!("creating {}", root.display()))?;
        let lock = File::create(root.join(".locks").join(self.id()))?;
        if lock.try_lock().is_err() {
            say!("{}: another process is making it; waiting", self.name);
            lock.lock()?;
        }
        if entry.exists() {
            return Ok(entry);
        }
        say!("{}: making it, once", self.name);
        let started = Instant::now();
        let unfinished = root.join(format!(".unfinished-{}", self.id()));
        if unfinished.exists() {
            remove(&unfinished)?;
        }
        fs::create_dir(&unfinished)?;
        make(&unfinished).with_context(|| format!("making {}", self.id()))?;
        fs::rename(&unfinished, &entry)?;
        say!("{}: made in {} s, {}", self.name, started.elapsed().as_secs(), Size(disk_usage(&entry)));
        Ok(entry)
    }
}

/// Something that the cache holds.
pub struct Entry {
    /// `NAME-HASH`.
    pub id: String,
    /// Its folder.
    pub path: PathBuf,
    /// What it takes on disk.
    pub size: Size,
    /// When it was made.
    pub made: SystemTime,
    /// Left behind by a process that was interrupted, or being made right now.
    pub unfinished: bool,
}

impl Entry {
    /// Deletes it. A VM that runs from it keeps its open files.
    pub fn remove(&self) -> Result<()> {
        remove(&self.path)
    }
}

/// All entries, the biggest first.
pub fn entries() -> Result<Vec<Entry>> {
    let mut found = Vec::new();
    let Ok(folder) = fs::read_dir(folder()?) else { return Ok(found) };
    for entry in folder {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let unfinished = name.strip_prefix(".unfinished-");
        if name == crate::vm::RUN_FOLDER || (name.starts_with('.') && unfinished.is_none()) {
            continue;
        }
        found.push(Entry {
            id: unfinished.unwrap_or(&name).to_owned(),
            size: Size(disk_usage(&entry.path())),
            made: entry.metadata()?.modified()?,
            unfinished: unfinished.is_some(),
            path: entry.path(),
        });
    }
    found.sort_by_key(|entry| std::cmp::Reverse(entry.size.0));
    Ok(found)
}

/// Bytes, printed for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = self.0 as f64 / f64::from(1 << 20);
        if mib < 1000.0 { write!(f, "{mib:.0} MiB") } else { write!(f, "{:.2} GiB", mib / 1024.0) }
    }
}

/// What a file or folder takes on disk; holes take nothing.
pub fn disk_usage(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    let own = metadata.blocks() * 512;
    if !metadata.is_dir() {
        return own;
    }
    let inside = fs::read_dir(path).into_iter().flatten().flatten();
    own + inside.map(|entry| disk_usage(&entry.path())).sum::<u64>()
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_dir_all(path).with_context(|| format!("removing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Recipe {
        Recipe::new("thing", 1)
    }

    #[test]
    fn a_name_says_what_it_was_made_from() {
        assert_eq!(recipe().input("a", b"b").id(), recipe().input("a", b"b").id());
        assert_ne!(
            recipe().input("a", b"b").id(),
            recipe().input("ab", b"").id(),
            "inputs don't run together"
        );
        assert_ne!(recipe().id(), Recipe::new("thing", 2).id());
        assert!(recipe().id().starts_with("thing-"));
    }

    #[test]
    fn folders_count_by_name_contents_and_permission() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("f");
        let id = || recipe().path(folder.path()).expect("readable").id();
        let empty = id();
        fs::write(&file, "one").expect("writable");
        let one = id();
        fs::write(&file, "two").expect("writable");
        let two = id();
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
        let ids = [empty, one, two, id()];
        for (index, id) in ids.iter().enumerate() {
            assert!(!ids[..index].contains(id), "{ids:?}");
        }
    }
}
