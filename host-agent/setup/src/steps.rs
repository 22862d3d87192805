//! What an installation does, as a list: it is made without touching anything, can be shown, and is then carried out.

use std::fmt;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make a folder and those that it lies in.
    Folder(PathBuf),
    /// Write a file, whatever was there.
    Write(PathBuf, String),
    /// Copy a file or a whole folder, which must not be there.
    Copy(PathBuf, PathBuf),
    /// Copy a file over another.
    Replace(PathBuf, PathBuf),
    /// Rename, within a disk.
    Rename(PathBuf, PathBuf),
    /// Remove a file or a whole folder, if it is there.
    Remove(PathBuf),
    /// Run a program, which must succeed.
    Run(Vec<String>),
    /// Run a program whose failure says that there was nothing to do.
    Try(Vec<String>),
}

/// What went wrong with a step.
#[derive(Debug, thiserror::Error)]
#[error("can't {step}: {why}")]
pub struct StepError {
    step: Step,
    why: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "make the folder {}", path.display()),
            Self::Write(path, _) => write!(f, "write {}", path.display()),
            Self::Copy(from, to) => write!(f, "copy {} to {}", from.display(), to.display()),
            Self::Replace(from, to) => write!(f, "copy {} over {}", from.display(), to.display()),
            Self::Rename(from, to) => write!(f, "rename {} to {}", from.display(), to.display()),
            Self::Remove(path) => write!(f, "remove {}", path.display()),
            Self::Run(words) => write!(f, "run {}", words.join(" ")),
            Self::Try(words) => write!(f, "run {}, whatever it says", words.join(" ")),
        }
    }
}

impl Step {
    /// Does it.
    pub fn carry_out(&self) -> Result<(), StepError> {
        let done = match self {
            Self::Folder(path) => fs::create_dir_all(path),
            Self::Write(path, text) => fs::write(path, text),
            Self::Copy(_, to) if to.exists() => Err(std::io::Error::other("it is there already")),
            Self::Copy(from, to) => copy(from, to),
            Self::Replace(from, to) => fs::copy(from, to).map(drop),
            Self::Rename(from, to) => fs::rename(from, to),
            Self::Remove(path) => remove(path),
            Self::Run(words) => run(words, true),
            Self::Try(words) => run(words, false),
        };
        done.map_err(|error| StepError { step: self.clone(), why: error.to_string() })
    }
}

/// Does all of them; the first that fails ends it.
pub fn carry_out(steps: &[Step]) -> Result<(), StepError> {
    steps.iter().try_for_each(Step::carry_out)
}

fn remove(path: &Path) -> std::io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Links stay links, as bundles need them. APFS shares the files' blocks.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    let meta = fs::symlink_metadata(from)?;
    if meta.is_symlink() {
        return symlink(fs::read_link(from)?, to);
    }
    if !meta.is_dir() {
        return fs::copy(from, to).map(drop);
    }
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    fs::set_permissions(to, meta.permissions())
}

fn run(words: &[String], must: bool) -> std::io::Result<()> {
    let Some((program, arguments)) = words.split_first() else { return Ok(()) };
    let out = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    match out {
        Ok(out) if out.status.success() || !must => Ok(()),
        Ok(out) => {
            let said = String::from_utf8_lossy(&out.stderr);
            Err(std::io::Error::other(format!("{}; {}", out.status, said.trim())))
        }
        Err(_) if !must => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundles_are_copied_whole_and_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("App/Versions/A")).expect("made");
        fs::write(at("App/Versions/A/lib"), "code").expect("written");
        symlink("A", at("App/Versions/Current")).expect("linked");
        let copy = Step::Copy(at("App"), at("Copy"));
        copy.carry_out().expect("copied");
        assert_eq!(fs::read_to_string(at("Copy/Versions/Current/lib")).expect("there"), "code");
        assert!(at("Copy/Versions/Current").is_symlink());
        assert!(copy.carry_out().expect_err("a backup is not written over").to_string().contains("already"));
        for _ in 0..2 {
            Step::Remove(at("Copy")).carry_out().expect("gone");
        }
    }

    #[test]
    fn a_failing_program_is_told_with_its_words() {
        let shell = |text: &str| ["sh", "-c", text].map(str::to_owned).to_vec();
        let failed = Step::Run(shell("echo no such session >&2; exit 3")).carry_out().expect_err("fails");
        assert!(failed.to_string().contains("no such session"), "{failed}");
        Step::Try(shell("exit 3")).carry_out().expect("need not succeed");
        Step::Try(vec!["/no/such/program".to_owned()]).carry_out().expect("need not be there");
    }
}
