//! Disk with the programs under test: a folder on the host appears at `/payload` in the guest and, read-only, at
//! `/opt/desktopstream` in containers. Built at each boot.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::host;

/// Path in the guest; [`crate::Guest::copy_to`] can replace files.
pub const IN_GUEST: &str = "/payload";
/// Path in containers.
pub const IN_CONTAINER: &str = "/opt/desktopstream";

/// Creates an ext4 image `disk` with the contents of `folder`; file owners are kept.
pub fn make_disk(folder: &Path, disk: &Path) -> Result<()> {
    let (bytes, files) =
        measure(folder).with_context(|| format!("reading the payload folder {}", folder.display()))?;
    let kibibytes = bytes / 1024 * 9 / 8 + files * 4 + 4096;
    let mut mke2fs = Command::new("mke2fs");
    mke2fs
        .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-E", "root_owner=0:0", "-N"])
        .arg((files + files / 10 + 100).to_string())
        .arg("-d")
        .args([folder, disk])
        .arg(format!("{kibibytes}k"))
        // Debian installs mke2fs in /usr/sbin, which is not in the PATH of users.
        .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
    host::run(&mut mke2fs)?;
    Ok(())
}

fn measure(folder: &Path) -> std::io::Result<(u64, u64)> {
    let mut total = (0, 1);
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let inside =
            if entry.file_type()?.is_dir() { measure(&entry.path())? } else { (entry.metadata()?.len(), 1) };
        total = (total.0 + inside.0, total.1 + inside.1);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_contains_the_files_of_the_folder() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let source = folder.path().join("source");
        fs::create_dir_all(source.join("bin")).expect("writable");
        fs::write(source.join("bin/program"), vec![1; 3_000_000]).expect("writable");
        let disk = folder.path().join("disk");
        make_disk(&source, &disk).expect("mke2fs");
        let listing = Command::new("/usr/sbin/debugfs")
            .args(["-R", "ls -p /bin"])
            .arg(&disk)
            .output()
            .expect("debugfs runs");
        assert!(String::from_utf8_lossy(&listing.stdout).contains("/program/3000000/"));
    }
}
