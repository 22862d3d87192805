//! State folder of a VM and its owner.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Forward, GRACE, VmConfig};
use crate::cache;
use crate::host::ProcessId;
use crate::progress::say;

/// Folder in the cache for the state of VMs if `XDG_RUNTIME_DIR` is not set.
pub(crate) const RUN_FOLDER: &str = "run";
/// Maximum path length of a state folder, bytes: Unix socket paths have at most 107 bytes, and ssh appends a suffix.
const MAX_FOLDER_LENGTH: usize = 75;

/// State of a VM, stored in `vm.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) config: VmConfig,
    /// QEMU first, then the processes that it depends on: the order in which they are ended.
    pub(super) processes: Vec<ProcessId>,
    /// Process whose handle owns the VM; `None` if the VM was detached.
    pub(super) owner: Option<ProcessId>,
    pub(super) ssh_port: u16,
    pub(super) forwards: Vec<Forward>,
    pub(super) accelerator: String,
    pub(super) boot_seconds: f64,
}

impl State {
    /// Creates an empty folder for a VM that does not run.
    pub(super) fn create_folder(name: &str) -> Result<PathBuf> {
        ensure!(
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)),
            "a VM name must consist of letters, digits, - and _"
        );
        let folder = root()?.join(name);
        ensure!(
            folder.as_os_str().len() <= MAX_FOLDER_LENGTH,
            "the path {} is too long for Unix sockets: set XDG_RUNTIME_DIR to a shorter path",
            folder.display()
        );
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("clearing {}", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        Ok(folder)
    }

    /// All running VMs, sorted by name.
    pub(super) fn all() -> Result<Vec<Self>> {
        let mut found: Vec<Self> = known()?.into_iter().filter(Self::is_running).collect();
        found.sort_by(|a, b| a.config.name.cmp(&b.config.name));
        Ok(found)
    }

    /// The running VM of this name.
    pub(super) fn find(name: &str) -> Result<Option<Self>> {
        Ok(Self::all()?.into_iter().find(|state| state.config.name == name))
    }

    pub(super) fn folder(&self) -> Result<PathBuf> {
        Ok(root()?.join(&self.config.name))
    }

    pub(super) fn save(&self) -> Result<()> {
        let file = self.folder()?.join("vm.json");
        let new = file.with_extension("new");
        fs::write(&new, serde_json::to_vec_pretty(self)?)?;
        fs::rename(&new, &file).with_context(|| format!("writing {}", file.display()))
    }

    pub(super) fn remove(&self) -> Result<()> {
        let folder = self.folder()?;
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))
    }

    pub(super) fn end_processes(&self) {
        for process in &self.processes {
            process.end(GRACE);
        }
    }

    fn is_running(&self) -> bool {
        self.processes.first().is_some_and(|qemu| qemu.is_alive())
    }

    fn is_orphan(&self) -> bool {
        self.owner.is_some_and(|owner| !owner.is_alive())
    }
}

/// Ends VMs whose owner has exited, and removes state of VMs that ended more than a day ago.
pub(super) fn sweep() -> Result<()> {
    for state in known()? {
        if state.is_running() && !state.is_orphan() {
            continue;
        }
        if state.is_running() {
            say!("ending VM {}: its owner has exited", state.config.name);
        }
        state.end_processes();
        // The logs are kept for a day.
        let folder = state.folder()?;
        let age = fs::metadata(&folder)?
            .modified()
            .ok()
            .and_then(|time| SystemTime::now().duration_since(time).ok());
        if age.is_some_and(|age| age.as_secs() > 24 * 3600) {
            state.remove()?;
        }
    }
    Ok(())
}

/// All VMs with a readable `vm.json`, running or not.
fn known() -> Result<Vec<State>> {
    let Ok(folders) = fs::read_dir(root()?) else { return Ok(Vec::new()) };
    let files = folders.flatten().filter_map(|folder| fs::read(folder.path().join("vm.json")).ok());
    Ok(files.filter_map(|bytes| serde_json::from_slice(&bytes).ok()).collect())
}

fn root() -> Result<PathBuf> {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty()) {
        Some(runtime) => Ok(PathBuf::from(runtime).join("desktopstream")),
        None => Ok(cache::folder()?.join(RUN_FOLDER)),
    }
}
