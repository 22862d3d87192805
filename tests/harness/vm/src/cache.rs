//! Cache of build results, addressed by the hash of their inputs.
//!
//! An entry is a folder `NAME-HASH` in the user's cache. It is built under a temporary name and renamed when complete, so
//! every existing entry is complete. A lock prevents two processes from building the same entry. Entries are immutable:
//! changed inputs give a new entry, and `./x clean` removes the old one.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::progress::say;

/// Root of the cache: `$XDG_CACHE_HOME/desktopstream`, by default under `~/.cache`.
pub fn folder() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let base = match base {
        Some(base) => base,
        None => std::env::home_dir()
            .context("no home directory for the cache: set XDG_CACHE_HOME")?
            .join(".cache"),
    };
    Ok(base.join("desktopstream"))
}

/// Name and inputs of an entry.
pub struct Recipe {
    name: String,
    hash: Sha256,
}

impl Recipe {
    /// `format` is the version of the layout of the entry: increment it when the code that reads entries changes.
    pub fn new(name: &str, format: u32) -> Self {
        Self { name: name.to_owned(), hash: Sha256::new() }.input("format", &format.to_le_bytes())
    }

    /// Adds an input.
    #[must_use]
    pub fn input(mut self, label: &str, bytes: &[u8]) -> Self {
        for part in [label.as_bytes(), bytes] {
            self.hash.update((part.len() as u64).to_le_bytes());
            self.hash.update(part);
        }
        self
    }

    /// Adds the contents of a file or of all files in a folder. A missing path is an input too.
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

    /// Name of the entry, `NAME-HASH`.
    pub fn id(&self) -> String {
        let hash =
            self.hash.clone().finalize().iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte));
        format!("{}-{hash:016x}", self.name)
    }

    /// Path of the entry, whether it exists or not.
    pub fn location(&self) -> Result<PathBuf> {
        Ok(folder()?.join(self.id()))
    }

    /// Path of the entry. Calls `make` to fill a new folder if the entry does not exist.
    pub fn build(&self, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let entry = self.location()?;
        if entry.exists() {
            return Ok(entry);
        }
        let root = folder()?;
        fs::create_dir_all(root.join(".locks")).with_context(|| format!("creating {}", root.display()))?;
        let lock = File::create(root.join(".locks").join(self.id()))?;
        if lock.try_lock().is_err() {
            say!("{}: waiting for another process that builds it", self.name);
            lock.lock()?;
        }
        if entry.exists() {
            return Ok(entry);
        }
        say!("{}: building", self.name);
        let started = Instant::now();
        let unfinished = root.join(format!(".unfinished-{}", self.id()));
        if unfinished.exists() {
            remove(&unfinished)?;
        }
        fs::create_dir(&unfinished)?;
        make(&unfinished).with_context(|| format!("building {}", self.id()))?;
        fs::rename(&unfinished, &entry)?;
        say!("{}: built in {} s, {}", self.name, started.elapsed().as_secs(), Size(disk_usage(&entry)));
        Ok(entry)
    }
}

/// An entry of the cache.
pub struct Entry {
    /// Folder name in the cache: `NAME-HASH`.
    pub id: String,
    /// Folder of the entry.
    pub path: PathBuf,
    /// Disk usage.
    pub size: Size,
    /// Modification time.
    pub made: SystemTime,
    /// Incomplete: in progress, or left by an interrupted process.
    pub unfinished: bool,
}

impl Entry {
    /// Deletes the entry. A running VM keeps its open files.
    pub fn remove(&self) -> Result<()> {
        remove(&self.path)
    }
}

/// All entries, largest first.
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

/// Size in bytes, displayed in MiB or GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = self.0 as f64 / f64::from(1 << 20);
        if mib < 1000.0 { write!(f, "{mib:.0} MiB") } else { write!(f, "{:.2} GiB", mib / 1024.0) }
    }
}

/// Disk usage of a file or folder, bytes. Holes of sparse files do not count.
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
    fn id_depends_on_every_input() {
        assert_eq!(recipe().input("a", b"b").id(), recipe().input("a", b"b").id());
        assert_ne!(recipe().input("a", b"b").id(), recipe().input("ab", b"").id(), "inputs are separated");
        assert_ne!(recipe().id(), Recipe::new("thing", 2).id());
        assert!(recipe().id().starts_with("thing-"));
    }

    #[test]
    fn id_of_a_folder_depends_on_names_contents_and_permissions() {
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
