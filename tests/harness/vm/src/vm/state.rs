//! The folder of a VM's state, and who it belongs to.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Forward, GRACE, VmConfig};
use crate::cache;
use crate::host::ProcessId;
use crate::progress::say;

/// In the cache, when there is no runtime folder.
pub(crate) const RUN_FOLDER: &str = "run";
/// Unix sockets live in the folder, and their paths end at 107 bytes; ssh appends to its own.
const LONGEST_FOLDER: usize = 75;

/// What is known of a VM; `vm.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) config: VmConfig,
    /// QEMU first, then what it depends on: the order in which they end.
    pub(super) processes: Vec<ProcessId>,
    /// The process with whose handle it ends; none when it was left running.
    pub(super) owner: Option<ProcessId>,
    pub(super) ssh_port: u16,
    pub(super) forwards: Vec<Forward>,
    pub(super) accelerator: String,
    pub(super) boot_seconds: f64,
}

impl State {
    /// A fresh folder for a VM that doesn't run.
    pub(super) fn create_folder(name: &str) -> Result<PathBuf> {
        ensure!(
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)),
            "a VM's name is letters, digits, - and _"
        );
        let folder = root()?.join(name);
        ensure!(
            folder.as_os_str().len() <= LONGEST_FOLDER,
            "{} is too long a path for sockets: set XDG_RUNTIME_DIR to a shorter one",
            folder.display()
        );
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("clearing {}", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        Ok(folder)
    }

    /// All VMs that run, by name.
    pub(super) fn all() -> Result<Vec<Self>> {
        let mut found: Vec<Self> = known()?.into_iter().filter(Self::is_running).collect();
        found.sort_by(|a, b| a.config.name.cmp(&b.config.name));
        Ok(found)
    }

    /// The one of that name, if it runs.
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

/// Ends VMs whose owner died without ending them, and forgets those that died themselves.
pub(super) fn sweep() -> Result<()> {
    for state in known()? {
        if state.is_running() && !state.is_orphan() {
            continue;
        }
        if state.is_running() {
            say!("VM {} has lost its owner: ending it", state.config.name);
        }
        state.end_processes();
        // Its logs may still be read; a day later nobody will.
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

/// All that have a `vm.json` that we understand, running or not.
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
