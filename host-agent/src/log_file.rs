//! A log file with rotation by size: a full file is renamed to `FILE.1`, an earlier `FILE.1` to `FILE.2`,
//! and so on; the oldest is removed.
//!
//! No crate does this job: `tracing-appender` rotates by time only, and `file-rotate` stops logging after a
//! failed rename.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

/// Size at which a log file is rotated, bytes.
pub const MAX_BYTES: u64 = 8 << 20;
/// Number of rotated files that are kept.
pub const ROTATED_FILES: u32 = 4;

/// A rotated log file. Each write is one line and is never split between files.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    max_bytes: u64,
    rotated_files: u32,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    file: File,
    bytes: u64,
}

impl LogFile {
    /// Opens a file for appending; creates it and its folder if necessary.
    ///
    /// # Errors
    /// The folder or the file cannot be created.
    pub fn open(path: &Path, max_bytes: u64, rotated_files: u32) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let current = Mutex::new(Current::append_to(path)?);
        Ok(Self { path: path.to_owned(), max_bytes, rotated_files, current })
    }

    fn rotated_path(&self, age: u32) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(format!(".{age}"));
        name.into()
    }

    fn rotate(&self) -> io::Result<Current> {
        for age in (1..self.rotated_files).rev() {
            let path = self.rotated_path(age);
            if path.exists() {
                std::fs::rename(path, self.rotated_path(age + 1))?;
            }
        }
        if self.rotated_files == 0 {
            std::fs::remove_file(&self.path)?;
        } else {
            std::fs::rename(&self.path, self.rotated_path(1))?;
        }
        Current::append_to(&self.path)
    }
}

impl Current {
    fn append_to(path: &Path) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { file, bytes })
    }
}

impl Write for &LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut current = self.current.lock();
        if current.bytes > 0 && current.bytes + line.len() as u64 > self.max_bytes {
            match self.rotate() {
                Ok(next) => *current = next,
                // Goes on with the same file and retries after another `max_bytes`.
                Err(_) => current.bytes = 0,
            }
        }
        current.file.write_all(line)?;
        current.bytes += line.len() as u64;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Truncates stderr if it is a file longer than [`MAX_BYTES`]: launchd never rotates the file that it
/// redirects stderr to.
pub fn truncate_long_stderr() {
    let Ok(stderr) = io::stderr().as_fd().try_clone_to_owned() else { return };
    let file = File::from(stderr);
    if file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() > MAX_BYTES) {
        // A file that cannot be truncated keeps its length.
        let _truncated = file.set_len(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(folder: &Path) -> Vec<(String, u64)> {
        let entries = std::fs::read_dir(folder).expect("folder read").map(|entry| entry.expect("entry read"));
        let mut sizes: Vec<_> = entries
            .map(|entry| {
                let bytes = entry.metadata().expect("metadata read").len();
                (entry.file_name().to_string_lossy().into_owned(), bytes)
            })
            .collect();
        sizes.sort();
        sizes
    }

    #[test]
    fn rotation_keeps_the_newest_lines_within_the_limit() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("logs/host-agent.log");
        let log = LogFile::open(&path, 100, 2).expect("opened");
        for number in 0..100 {
            writeln!(&log, "line {number:04}").expect("line written");
        }
        let sizes = sizes(&folder.path().join("logs"));
        let names: Vec<_> = sizes.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["host-agent.log", "host-agent.log.1", "host-agent.log.2"]);
        assert!(sizes.iter().all(|(_, bytes)| *bytes <= 100), "{sizes:?}");
        let text: String = [log.rotated_path(2), log.rotated_path(1), path]
            .iter()
            .map(|path| std::fs::read_to_string(path).expect("file read"))
            .collect();
        let lines: Vec<_> = text.lines().collect();
        let newest: Vec<_> = (100 - lines.len()..100).map(|number| format!("line {number:04}")).collect();
        assert_eq!(lines, newest, "whole lines, in order");
        assert!(lines.len() >= 20);
    }

    #[test]
    fn reopened_file_is_continued() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("log");
        for number in 0..2 {
            let log = LogFile::open(&path, 100, 2).expect("opened");
            writeln!(&log, "line {number}").expect("line written");
        }
        assert_eq!(std::fs::read_to_string(&path).expect("file read"), "line 0\nline 1\n");
    }

    #[test]
    fn line_longer_than_the_limit_is_written_whole() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("log");
        let log = LogFile::open(&path, 10, 1).expect("opened");
        for _ in 0..3 {
            (&log).write_all(&[b'x'; 50]).expect("line written");
        }
        assert_eq!(sizes(folder.path()), [("log".to_owned(), 50), ("log.1".to_owned(), 50)]);
    }

    #[test]
    fn failed_rotation_continues_the_same_file() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("log");
        let log = LogFile::open(&path, 20, 1).expect("opened");
        // A file cannot be renamed onto a folder.
        std::fs::create_dir_all(folder.path().join("log.1/entry")).expect("folder created");
        for _ in 0..5 {
            (&log).write_all(b"0123456789").expect("line written");
        }
        assert_eq!(std::fs::metadata(&path).expect("metadata read").len(), 50);
    }
}
