//! A folder whose entries are opened relative to it. Symbolic links are not followed.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawMode};
use rustix::io::Errno;

/// Largest file that is read, bytes. A record has some ten kilobytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Flags of a folder that is opened.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// An open folder.
#[derive(Debug)]
pub(super) struct Dir(OwnedFd);

impl Dir {
    /// Opens the folder at a path that the user chose, which may contain symbolic links.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::openat(CWD, path, FOLDER, Mode::empty())?))
    }

    /// Opens a folder in this one, with mode 0700 if it has to be created.
    pub(super) fn create_folder(&self, name: &Path) -> io::Result<Self> {
        match rustix::fs::mkdirat(&self.0, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => self.folder(name),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a folder in this one.
    pub(super) fn folder(&self, name: &Path) -> io::Result<Self> {
        Ok(Self(self.open_entry(name, FOLDER)?))
    }

    /// Opens a file for a lock, with mode 0600 if it has to be created.
    pub(super) fn lock_file(&self, name: &str) -> io::Result<File> {
        Ok(self.open_entry(Path::new(name), OFlags::WRONLY | OFlags::CREATE)?.into())
    }

    /// The content of a file.
    pub(super) fn read(&self, name: &str) -> io::Result<String> {
        let file = File::from(self.open_entry(Path::new(name), OFlags::RDONLY | OFlags::NONBLOCK)?);
        let mut text = String::new();
        file.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
        Ok(text)
    }

    /// True if there is a regular file of this name.
    pub(super) fn has_file(&self, name: &str) -> bool {
        let found = rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW);
        found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode as RawMode).is_file())
    }

    /// Replaces a file atomically.
    pub(super) fn write(&self, name: &str, mode: Mode, content: &[u8]) -> io::Result<()> {
        let next = format!("{name}.new");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let mut file = File::from(self.open_entry(Path::new(&next), flags)?);
        file.write_all(content)?;
        rustix::fs::fchmod(&file, mode)?;
        Ok(rustix::fs::renameat(&self.0, &next, &self.0, name)?)
    }

    /// Removes a file, or a symbolic link.
    pub(super) fn remove_file(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    /// Removes an empty folder.
    pub(super) fn remove_folder(&self, name: &Path) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)?)
    }

    fn open_entry(&self, name: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR).map_err(|error| match error {
            Errno::LOOP => io::Error::other("it is a symbolic link; replace it by a file or folder"),
            Errno::NOTDIR => io::Error::other("it is a symbolic link or a file; replace it by a folder"),
            error => error.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbolic_links_are_neither_read_nor_written_nor_followed() {
        let root = tempfile::tempdir().expect("a folder");
        let outside = tempfile::tempdir().expect("a folder");
        let file = outside.path().join("file");
        std::fs::write(&file, "theirs").expect("writes");
        for (link, target) in [("file", &*file), ("new.new", &*file), ("folder", outside.path())] {
            std::os::unix::fs::symlink(target, root.path().join(link)).expect("a link");
        }
        let dir = Dir::open(root.path()).expect("opens");
        assert!(dir.read("file").is_err() && !dir.has_file("file") && dir.lock_file("file").is_err());
        assert!(dir.write("new", Mode::RUSR, b"ours").is_err());
        let error = dir.create_folder(Path::new("folder")).expect_err("a link").to_string();
        assert!(error.contains("symbolic link"), "{error}");
        assert_eq!(std::fs::read_to_string(&file).expect("reads"), "theirs");
        dir.write("file", Mode::RUSR, b"ours").expect("replaces the link itself");
        assert_eq!(dir.read("file").expect("reads"), "ours");
        assert_eq!(std::fs::read_to_string(&file).expect("reads"), "theirs");
    }
}
