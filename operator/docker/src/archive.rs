//! Tar archives for `PUT /containers/ID/archive`.

use std::collections::{BTreeMap, BTreeSet};

/// Owner of an archive entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User ID.
    pub uid: i64,
    /// Group ID.
    pub gid: i64,
}

impl Owner {
    /// User and group 0.
    pub const ROOT: Self = Self { uid: 0, gid: 0 };
}

/// Files by relative path, owned by root with mode 0444, preceded by their parent folders.
///
/// # Errors
///
/// If a path is too long for a tar header.
pub fn files(files: &BTreeMap<String, String>) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut folders = BTreeSet::new();
    for (path, content) in files {
        if let Some((folder, _)) = path.rsplit_once('/')
            && folders.insert(folder)
        {
            append(&mut archive, &format!("{folder}/"), None, Owner::ROOT)?;
        }
        append(&mut archive, path, Some(content), Owner::ROOT)?;
    }
    archive.into_inner()
}

/// Folders with mode 0755 and the given owner. Unpacking keeps their present content.
///
/// # Errors
///
/// If a path is too long for a tar header.
pub fn folders(paths: &[String], owner: Owner) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for path in paths {
        append(&mut archive, &format!("{}/", path.trim_matches('/')), None, owner)?;
    }
    archive.into_inner()
}

/// Appends a file, or a folder if there is no content.
fn append(
    archive: &mut tar::Builder<Vec<u8>>,
    path: &str,
    content: Option<&str>,
    owner: Owner,
) -> std::io::Result<()> {
    let (kind, mode) = match content {
        Some(_) => (tar::EntryType::Regular, 0o444),
        None => (tar::EntryType::Directory, 0o755),
    };
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner.uid.cast_unsigned());
    header.set_gid(owner.gid.cast_unsigned());
    let content = content.unwrap_or_default().as_bytes();
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, path, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_packed_after_their_folders() {
        let content = [("host-agent/token".to_owned(), "t".to_owned())].into();
        let bytes = files(&content).expect("packs");
        let mut archive = tar::Archive::new(&bytes[..]);
        let found: Vec<_> = archive
            .entries()
            .expect("reads")
            .map(|entry| {
                let entry = entry.expect("an entry");
                let path = entry.path().expect("a path").display().to_string();
                (path, entry.header().mode().expect("a mode"), entry.size())
            })
            .collect();
        assert_eq!(found, [("host-agent/".to_owned(), 0o755, 0), ("host-agent/token".to_owned(), 0o444, 1)]);
    }

    #[test]
    fn folders_have_the_given_owner() {
        let bytes = folders(&["/home/desktop".to_owned()], Owner { uid: 1000, gid: 1001 }).expect("packs");
        let mut archive = tar::Archive::new(&bytes[..]);
        let entry = archive.entries().expect("reads").next().expect("one").expect("an entry");
        assert_eq!((entry.header().uid().ok(), entry.header().gid().ok()), (Some(1000), Some(1001)));
        assert_eq!(entry.path().expect("a path").to_str(), Some("home/desktop/"));
    }
}
