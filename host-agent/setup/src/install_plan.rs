//! The actions of an installation. Planning changes nothing, so that a plan can be printed (`--dry-run`) or
//! executed.

use std::fmt;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One action on the file system or one program to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Create a folder and its parents.
    CreateFolder(PathBuf),
    /// Write a file; an existing one is overwritten.
    WriteFile {
        /// The file.
        path: PathBuf,
        /// Its contents.
        contents: Vec<u8>,
    },
    /// Copy a file or a folder tree; fails if the target exists.
    Copy {
        /// Path of the source.
        from: PathBuf,
        /// Path of the copy.
        to: PathBuf,
    },
    /// Copy a file over an existing one.
    Replace {
        /// Path of the source.
        from: PathBuf,
        /// File to overwrite.
        to: PathBuf,
    },
    /// Rename a file or folder within one file system.
    Rename {
        /// Old path.
        from: PathBuf,
        /// New path.
        to: PathBuf,
    },
    /// Remove a file or a folder tree; succeeds if it does not exist.
    Remove(PathBuf),
    /// Run a program; fails unless it exits with status 0.
    Run(Vec<String>),
    /// Run a program and ignore its failure, which means that there was nothing to do.
    RunIgnoringFailure(Vec<String>),
}

/// An action that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}: {cause}")]
pub struct ActionError {
    action: Action,
    cause: std::io::Error,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateFolder(path) => write!(f, "create folder {}", path.display()),
            Self::WriteFile { path, .. } => write!(f, "write {}", path.display()),
            Self::Copy { from, to } => write!(f, "copy {} to {}", from.display(), to.display()),
            Self::Replace { from, to } => {
                write!(f, "replace {} with a copy of {}", to.display(), from.display())
            }
            Self::Rename { from, to } => write!(f, "rename {} to {}", from.display(), to.display()),
            Self::Remove(path) => write!(f, "remove {}", path.display()),
            Self::Run(command) => write!(f, "run {}", command.join(" ")),
            Self::RunIgnoringFailure(command) => write!(f, "run {} (failure is ignored)", command.join(" ")),
        }
    }
}

impl Action {
    /// Executes the action.
    ///
    /// # Errors
    /// The operating system refused it, or a program that must succeed did not; the error has the program's
    /// stderr.
    pub fn execute(&self) -> Result<(), ActionError> {
        let outcome = match self {
            Self::CreateFolder(path) => fs::create_dir_all(path),
            Self::WriteFile { path, contents } => fs::write(path, contents),
            Self::Copy { to, .. } if to.exists() => Err(std::io::Error::other("the target already exists")),
            Self::Copy { from, to } => copy_tree(from, to),
            Self::Replace { from, to } => fs::copy(from, to).map(drop),
            Self::Rename { from, to } => fs::rename(from, to),
            Self::Remove(path) => remove_tree(path),
            Self::Run(command) => run(command),
            Self::RunIgnoringFailure(command) => {
                let _ignored = run(command);
                Ok(())
            }
        };
        outcome.map_err(|cause| ActionError { action: self.clone(), cause })
    }
}

/// Executes a plan in order; stops at the first action that fails.
///
/// # Errors
/// The first action that failed. Actions before it stay done.
pub fn execute(plan: &[Action]) -> Result<(), ActionError> {
    plan.iter().try_for_each(Action::execute)
}

fn remove_tree(path: &Path) -> std::io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Copies a tree and preserves symbolic links, which macOS bundles consist of. On APFS `fs::copy` clones:
/// both files share their blocks.
fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    let metadata = fs::symlink_metadata(from)?;
    if metadata.is_symlink() {
        return symlink(fs::read_link(from)?, to);
    }
    if !metadata.is_dir() {
        return fs::copy(from, to).map(drop);
    }
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy_tree(&entry.path(), &to.join(entry.file_name()))?;
    }
    fs::set_permissions(to, metadata.permissions())
}

fn run(command: &[String]) -> std::io::Result<()> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(std::io::Error::other(format!("{}: {}", output.status, stderr.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[test]
    fn copy_of_a_bundle_keeps_symbolic_links() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("App/Versions/A")).expect("folder created");
        fs::write(at("App/Versions/A/lib"), "code").expect("file written");
        symlink("A", at("App/Versions/Current")).expect("link created");
        Action::Copy { from: at("App"), to: at("Copy") }.execute().expect("copied");
        assert_eq!(fs::read_to_string(at("Copy/Versions/Current/lib")).expect("file read"), "code");
        assert!(at("Copy/Versions/Current").is_symlink());
    }

    #[test]
    fn copy_onto_an_existing_target_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::write(&from, "new").expect("file written");
        fs::write(&to, "old").expect("file written");
        let error = Action::Copy { from, to: to.clone() }.execute().expect_err("target exists");
        assert!(error.to_string().contains("already exists"), "{error}");
        assert_eq!(fs::read_to_string(to).expect("file read"), "old");
    }

    #[test]
    fn removal_of_a_missing_file_succeeds() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let tree = folder.path().join("tree");
        fs::create_dir_all(tree.join("inner")).expect("folder created");
        for _ in 0..2 {
            Action::Remove(tree.clone()).execute().expect("removed");
            assert!(!tree.exists());
        }
    }

    #[test]
    fn failed_program_is_reported_with_its_stderr() {
        let error =
            Action::Run(shell("echo unknown session >&2; exit 3")).execute().expect_err("exits with 3");
        assert!(error.to_string().contains("unknown session"), "{error}");
    }

    #[test]
    fn ignored_failure_succeeds() {
        Action::RunIgnoringFailure(shell("exit 3")).execute().expect("exit status ignored");
        Action::RunIgnoringFailure(vec!["/missing/program".to_owned()]).execute().expect("absence ignored");
    }
}
