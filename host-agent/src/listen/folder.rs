//! Folders of Unix sockets: created private, and refused if another user can put a socket of their own there.

use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::sys::default_folder;

const ROOT: u32 = 0;
/// Write permission of group and others.
const WRITABLE: u32 = 0o022;
/// Write permission of others.
const WORLD_WRITABLE: u32 = 0o002;
/// Restricts deletion and renaming to the owners of files (chmod(2)).
const STICKY: u32 = 0o1000;

/// Reason why a folder is not used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The folder cannot be created or examined.
    #[error("cannot create or examine {}: {cause}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// The reason.
        cause: io::Error,
    },
    /// There is a file in its place.
    #[error("{} is not a folder; choose another path", .0.display())]
    NotAFolder(PathBuf),
    /// Another user can change the link's target.
    #[error(
        "{} is a symbolic link of user {owner}; remove it, or choose a path in a folder of your own", path.display()
    )]
    SymbolicLink {
        /// The link.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Another user owns the folder.
    #[error("{} belongs to user {owner}; remove it, or choose a path in a folder of your own", path.display())]
    Owner {
        /// The folder.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Other users have more permissions than they may.
    #[error(
        "other users can access {folder}, which has mode {mode:04o}; run `chmod {remedy} {folder}`",
        folder = path.display()
    )]
    Mode {
        /// The folder.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// Argument of chmod(1).
        remedy: &'static str,
    },
}

/// The folder of a socket.
pub fn of(socket: &Path) -> &Path {
    match socket.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Creates a folder with mode 0700 if there is none, and [checks](check) it.
///
/// # Errors
/// It cannot be created, or is not safe.
pub fn prepare(folder: &Path) -> Result<(), FolderError> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    created.map_err(|cause| FolderError::Io { path: folder.to_owned(), cause })?;
    check(folder)
}

/// Checks that only this user and root can create files in a folder: it belongs to one of them, others cannot
/// write to it, and it is no symbolic link, except root's. /tmp itself is accepted: its sticky bit keeps sockets
/// from being replaced. The default folder, whose name in /tmp is known in advance, must have mode 0700 there.
///
/// # Errors
/// The folder does not exist, or is not safe.
pub fn check(folder: &Path) -> Result<(), FolderError> {
    let io = |cause| FolderError::Io { path: folder.to_owned(), cause };
    let link = fs::symlink_metadata(folder).map_err(io)?;
    let target = fs::metadata(folder).map_err(io)?;
    if !target.is_dir() {
        return Err(FolderError::NotAFolder(folder.to_owned()));
    }
    let parent = fs::metadata(folder.join("..")).map_err(io)?;
    let is_private = folder == default_folder() && parent.mode() & WORLD_WRITABLE != 0;
    let user = rustix::process::getuid().as_raw();
    judge(folder, Facts::new(&link), Facts::new(&target), is_private, user)
}

/// Owner and permissions of a file.
#[derive(Debug, Clone, Copy)]
struct Facts {
    is_link: bool,
    owner: u32,
    mode: u32,
}

impl Facts {
    fn new(metadata: &Metadata) -> Self {
        Self { is_link: metadata.is_symlink(), owner: metadata.uid(), mode: metadata.mode() & 0o7777 }
    }
}

fn judge(folder: &Path, link: Facts, target: Facts, is_private: bool, user: u32) -> Result<(), FolderError> {
    let path = folder.to_owned();
    let Facts { owner, mode, .. } = target;
    if link.is_link && link.owner != ROOT {
        return Err(FolderError::SymbolicLink { path, owner: link.owner });
    }
    if owner != user && owner != ROOT {
        return Err(FolderError::Owner { path, owner });
    }
    let is_shared = owner == ROOT && mode & STICKY != 0;
    if mode & WRITABLE != 0 && !is_shared {
        return Err(FolderError::Mode { path, mode, remedy: "go-w" });
    }
    if is_private && mode & 0o077 != 0 {
        return Err(FolderError::Mode { path, mode, remedy: "0700" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    const USER: u32 = 1000;
    const OTHER: u32 = 1001;
    const TMP: Facts = Facts { is_link: false, owner: ROOT, mode: 0o1777 };
    const OWN: Facts = Facts { is_link: false, owner: USER, mode: 0o700 };

    fn judged(link: Facts, target: Facts, is_private: bool) -> Result<(), FolderError> {
        judge(Path::new("/x"), link, target, is_private, USER)
    }

    #[test]
    fn folder_of_another_user_is_refused() {
        let foreign = Facts { owner: OTHER, ..OWN };
        assert!(matches!(judged(foreign, foreign, true), Err(FolderError::Owner { owner: OTHER, .. })));
        judged(OWN, OWN, true).expect("own folder");
        judged(TMP, TMP, false).expect("/tmp itself");
    }

    #[test]
    fn symbolic_link_of_another_user_is_refused() {
        let link = |owner| Facts { is_link: true, owner, mode: 0o777 };
        assert!(matches!(judged(link(OTHER), OWN, true), Err(FolderError::SymbolicLink { .. })));
        judged(link(ROOT), OWN, false).expect("a link of root, as /var/run");
    }

    #[test]
    fn folder_that_others_can_write_to_is_refused() {
        for mode in [0o770, 0o702, 0o1777] {
            let open = Facts { mode, ..OWN };
            assert!(matches!(judged(open, open, false), Err(FolderError::Mode { .. })), "{mode:o}");
        }
        let readable = Facts { mode: 0o755, ..OWN };
        judged(readable, readable, false).expect("others can only read");
        assert!(matches!(judged(readable, readable, true), Err(FolderError::Mode { .. })), "private");
    }

    #[test]
    fn created_folder_is_private_and_accepted() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let new = folder.path().join("a/b");
        prepare(&new).expect("created");
        assert_eq!(fs::metadata(&new).expect("metadata read").permissions().mode() & 0o777, 0o700);
        prepare(&new).expect("accepted again");
    }

    #[test]
    fn mode_error_names_the_command_that_corrects_it() {
        let folder = tempfile::tempdir().expect("temporary folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("mode set");
        let error = check(folder.path()).expect_err("open to others").to_string();
        assert!(error.contains(&format!("`chmod go-w {}`", folder.path().display())), "{error}");
    }

    #[test]
    fn file_in_place_of_a_folder_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("file");
        fs::write(&file, "").expect("file written");
        assert!(matches!(check(&file), Err(FolderError::NotAFolder(_))));
        let dangling = folder.path().join("link");
        symlink("/nonexistent", &dangling).expect("link created");
        assert!(check(&dangling).is_err());
    }
}
