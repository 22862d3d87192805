//! Writer of initramfs archives in the kernel's `newc` format. All entries are owned by root.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// An archive under construction.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    pub(crate) fn directory(&mut self, path: &str) {
        self.entry(path, 0o040_755, &[]);
    }

    pub(crate) fn file(&mut self, path: &str, permissions: u32, contents: &[u8]) {
        self.entry(path, 0o100_000 | (permissions & 0o777), contents);
    }

    /// Adds a folder and its contents under `path` in the archive.
    pub(crate) fn tree(&mut self, path: &str, from: &Path) -> io::Result<()> {
        self.directory(path);
        let mut entries = fs::read_dir(from)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let inside = format!("{path}/{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                self.tree(&inside, &entry.path())?;
            } else {
                self.file(&inside, entry.metadata()?.permissions().mode(), &fs::read(entry.path())?);
            }
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.inode += 1;
        let links = if mode & 0o040_000 == 0 { 1 } else { 2 };
        let fields =
            [self.inode, mode, 0, 0, links, 0, contents.len() as u32, 0, 0, 0, 0, path.len() as u32 + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_follows_the_kernel_documentation() {
        let mut archive = Archive::default();
        archive.file("init", 0o755, b"hello");
        let bytes = archive.finish();
        let header = "070701\
            00000001000081ed000000000000000000000001000000000000000500000000000000000000000000000000\
            0000000500000000";
        assert_eq!(&bytes[..110], header.as_bytes());
        assert_eq!(&bytes[110..124], b"init\0\0hello\0\0\0", "name and contents are padded to four bytes");
        assert_eq!(bytes.len() % 4, 0);
    }
}
