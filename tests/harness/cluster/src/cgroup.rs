//! The cgroup under which a node's pods are, so that they can be told from all else, and removed. Works with cgroup v2 and
//! with v1's many hierarchies.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const ROOT: &str = "/sys/fs/cgroup";
/// The kernel takes a moment to let go of a cgroup whose last process ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes it; a kubelet insists that its root exists.
pub fn create(name: &str) -> Result<()> {
    for folder in everywhere(name) {
        fs::create_dir_all(&folder).with_context(|| {
            format!(
                "creating {}: is {ROOT} mounted, and writable? (in a container: --privileged)",
                folder.display()
            )
        })?;
    }
    Ok(())
}

/// Removes it with all under it.
pub fn remove(name: &str) -> Result<()> {
    for folder in everywhere(name) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match remove_tree(&folder) {
                Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(20)),
                result => break result.with_context(|| format!("removing {}", folder.display()))?,
            }
        }
    }
    Ok(())
}

/// Its folder in each hierarchy.
fn everywhere(name: &str) -> Vec<PathBuf> {
    if Path::new(ROOT).join("cgroup.controllers").exists() {
        return vec![Path::new(ROOT).join(name)];
    }
    // Links, such as cpu for cpu,cpuacct, are the same hierarchy once more.
    let hierarchies = fs::read_dir(ROOT).into_iter().flatten().flatten();
    let hierarchies = hierarchies.filter(|it| it.file_type().is_ok_and(|kind| kind.is_dir()));
    hierarchies.map(|it| it.path().join(name)).collect()
}

/// The files in it go with it; only its own kind must go first.
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
