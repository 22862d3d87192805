//! The parent cgroup of a node's pods. Supports cgroup v2 and the hierarchies of v1.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const ROOT: &str = "/sys/fs/cgroup";
/// The kernel removes a cgroup some time after its last process ended.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(30);

/// Creates the cgroup `name`. A kubelet requires that its root exists.
///
/// # Errors
/// If the cgroup file system is not mounted or not writable.
pub fn create(name: &str) -> Result<()> {
    for folder in folders(name) {
        fs::create_dir_all(&folder).with_context(|| {
            format!("creating {}: mount {ROOT} writable (in a container: --privileged)", folder.display())
        })?;
    }
    Ok(())
}

/// Removes the cgroup `name` and its children.
///
/// # Errors
/// If a cgroup still has processes after [`REMOVE_TIMEOUT`].
pub fn remove(name: &str) -> Result<()> {
    for folder in folders(name) {
        let deadline = Instant::now() + REMOVE_TIMEOUT;
        loop {
            match remove_tree(&folder) {
                Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(20)),
                result => break result.with_context(|| format!("removing {}", folder.display()))?,
            }
        }
    }
    Ok(())
}

/// The cgroup's folder in each hierarchy.
fn folders(name: &str) -> Vec<PathBuf> {
    if Path::new(ROOT).join("cgroup.controllers").exists() {
        return vec![Path::new(ROOT).join(name)];
    }
    // v1 links such as `cpu` point to a hierarchy that is listed as `cpu,cpuacct`.
    let hierarchies = fs::read_dir(ROOT).into_iter().flatten().flatten();
    let hierarchies = hierarchies.filter(|it| it.file_type().is_ok_and(|kind| kind.is_dir()));
    hierarchies.map(|it| it.path().join(name)).collect()
}

/// Removes a cgroup's child folders, then the cgroup. Its control files disappear with it.
fn remove_tree(folder: &Path) -> std::io::Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}
