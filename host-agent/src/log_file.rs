//! A log file that keeps to its share of the disk: when it is full it becomes `FILE.1`, what was that `FILE.2`, and so
//! on, and the oldest goes. Nobody else does that for a Mac's user: newsyslog is root's.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// When a log file is full.
pub const LARGEST: u64 = 8 << 20;
/// How many full ones are kept.
pub const KEPT: u32 = 4;

/// See the module. Each write is one whole line, and stays in one file.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    largest: u64,
    kept: u32,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
}

impl LogFile {
    /// Opens it, or goes on with what is there, in a folder that is made if need be.
    pub fn open(path: &Path, largest: u64, kept: u32) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let open = Mutex::new(Open::append(path)?);
        Ok(Self { path: path.to_owned(), largest, kept, open })
    }

    fn older(&self, age: u32) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(format!(".{age}"));
        name.into()
    }

    /// Begins a new file.
    fn turn_over(&self) -> io::Result<Open> {
        for age in (1..self.kept).rev() {
            let there = self.older(age);
            if there.exists() {
                std::fs::rename(there, self.older(age + 1))?;
            }
        }
        if self.kept == 0 {
            std::fs::remove_file(&self.path)?;
        } else {
            std::fs::rename(&self.path, self.older(1))?;
        }
        Open::append(&self.path)
    }
}

impl Open {
    fn append(path: &Path) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { file, bytes })
    }
}

impl Write for &LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // What it holds is whole after every step.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.bytes > 0 && open.bytes + line.len() as u64 > self.largest {
            match self.turn_over() {
                Ok(new) => *open = new,
                // Tried again when as much has come once more: a log that is too long is better than none.
                Err(_) => open.bytes = 0,
            }
        }
        open.file.write_all(line)?;
        open.bytes += line.len() as u64;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What goes to stderr is for a supervisor to keep, and launchd's never ends: begins it anew if it is a long file.
pub fn shorten_stderr() {
    let Ok(stderr) = io::stderr().as_fd().try_clone_to_owned() else { return };
    let file = File::from(stderr);
    let long = |file: &File| file.metadata().is_ok_and(|about| about.is_file() && about.len() > LARGEST);
    if long(&file) {
        // One that can't be cut off is as long as it is.
        let _cut = file.set_len(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(folder: &Path) -> Vec<(String, u64)> {
        let mut all: Vec<_> = std::fs::read_dir(folder)
            .expect("there")
            .map(|entry| entry.expect("there"))
            .map(|entry| {
                (entry.file_name().to_string_lossy().into_owned(), entry.metadata().expect("there").len())
            })
            .collect();
        all.sort();
        all
    }

    #[test]
    fn it_stays_within_its_share_and_loses_the_oldest() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("logs/host-agent.log");
        let log = LogFile::open(&path, 100, 2).expect("opens");
        for number in 0..100 {
            writeln!(&log, "line {number:04}").expect("written");
        }
        let found = lengths(&folder.path().join("logs"));
        let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["host-agent.log", "host-agent.log.1", "host-agent.log.2"]);
        assert!(found.iter().all(|(_, bytes)| *bytes <= 100), "{found:?}");
        let all: String = [log.older(2), log.older(1), path.clone()]
            .iter()
            .map(|path| std::fs::read_to_string(path).expect("there"))
            .collect();
        let lines: Vec<_> = all.lines().collect();
        let wanted: Vec<_> = (100 - lines.len()..100).map(|number| format!("line {number:04}")).collect();
        assert_eq!(lines, wanted, "the newest, whole, in order");
        assert!(lines.len() >= 20);

        drop(log);
        let again = LogFile::open(&path, 100, 2).expect("opens again");
        let before = std::fs::metadata(&path).expect("there").len();
        writeln!(&again, "line 0100").expect("written");
        let after = std::fs::metadata(&path).expect("there").len();
        assert!(after == before + 10 || after == 10, "it goes on where it was: {before}, {after}");
    }

    #[test]
    fn a_line_longer_than_a_file_is_written_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let log = LogFile::open(&path, 10, 1).expect("opens");
        for _ in 0..3 {
            (&log).write_all(&[b'x'; 50]).expect("written");
        }
        assert_eq!(lengths(folder.path()), [("log".to_owned(), 50), ("log.1".to_owned(), 50)]);
    }

    #[test]
    fn a_file_that_cannot_be_turned_over_is_written_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let log = LogFile::open(&path, 20, 1).expect("opens");
        // Nothing can be renamed onto a folder that has something in it.
        std::fs::create_dir_all(folder.path().join("log.1/kept")).expect("made");
        for _ in 0..5 {
            (&log).write_all(b"0123456789").expect("written");
        }
        assert_eq!(std::fs::metadata(&path).expect("there").len(), 50);
    }
}
