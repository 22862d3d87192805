//! Tar archives: how files get into containers.

use std::collections::BTreeMap;

/// Files of root's that everybody in the container may read, under the folders that their paths name.
pub fn files(files: &BTreeMap<String, String>) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut folders = std::collections::BTreeSet::new();
    for (path, content) in files {
        if let Some((folder, _)) = path.rsplit_once('/')
            && folders.insert(folder)
        {
            append(&mut archive, &format!("{folder}/"), None, (0, 0))?;
        }
        append(&mut archive, path, Some(content), (0, 0))?;
    }
    archive.into_inner()
}

/// Folders that a user owns; what is in them already stays.
pub fn folders(paths: &[String], owner: (i64, i64)) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for path in paths {
        append(&mut archive, &format!("{}/", path.trim_matches('/')), None, owner)?;
    }
    archive.into_inner()
}

fn append(
    archive: &mut tar::Builder<Vec<u8>>,
    path: &str,
    content: Option<&str>,
    (user, group): (i64, i64),
) -> std::io::Result<()> {
    let mut header = tar::Header::new_ustar();
    let kind = if content.is_some() { tar::EntryType::Regular } else { tar::EntryType::Directory };
    header.set_entry_type(kind);
    header.set_mode(if content.is_some() { 0o444 } else { 0o755 });
    header.set_uid(user.cast_unsigned());
    header.set_gid(group.cast_unsigned());
    let content = content.unwrap_or_default().as_bytes();
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, path, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_what_comes_out() {
        let wanted = [("host-agent/token".to_owned(), "t".to_owned())].into();
        let bytes = files(&wanted).expect("packs");
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
        let bytes = folders(&["/home/desktop".to_owned()], (1000, 1001)).expect("packs");
        let mut archive = tar::Archive::new(&bytes[..]);
        let entry = archive.entries().expect("reads").next().expect("one").expect("an entry");
        assert_eq!((entry.header().uid().ok(), entry.header().gid().ok()), (Some(1000), Some(1001)));
        assert_eq!(entry.path().expect("a path").to_str(), Some("home/desktop/"));
    }
}
