//! The folder of a cluster's state, and who it belongs to: what another process needs to find it, and to end it when its
//! owner could not.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use lab::cache;
use lab::host::ProcessId;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::{cgroup, say};

/// In the cache; hidden, as it is none of its entries.
const FOLDER: &str = ".clusters";
/// Folders that machines replace by their own: the state must not be hidden from them.
const REPLACED: [&str; 3] = ["/var/lib", "/var/log", "/run"];

/// What is known of a cluster; `cluster.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) name: String,
    /// The process with whose handle it ends; none when it was left running.
    pub(crate) owner: Option<ProcessId>,
    pub(crate) nodes: u8,
    /// The hub first.
    pub(crate) machines: Vec<Machine>,
}

impl State {
    /// A fresh folder for a cluster that doesn't run.
    pub(crate) fn create(name: &str, nodes: u8) -> Result<Self> {
        ensure!(
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'),
            "a cluster's name is letters, digits and -"
        );
        sweep()?;
        ensure!(
            Self::find(name)?.is_none(),
            "cluster {name} is up already: take another name, or end it with ./x cluster down --name {name}"
        );
        let state = Self {
            name: name.to_owned(),
            owner: Some(ProcessId::of(std::process::id())?),
            nodes,
            machines: Vec::new(),
        };
        let folder = state.folder()?;
        ensure!(
            !REPLACED.iter().any(|replaced| folder.starts_with(replaced)),
            "{}: nodes have folders of their own at {REPLACED:?}; set XDG_CACHE_HOME to somewhere else",
            folder.display()
        );
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("clearing {}", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        // The administrator's key is in it.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        state.save()?;
        Ok(state)
    }

    /// The one of that name, if it runs.
    pub(crate) fn find(name: &str) -> Result<Option<Self>> {
        Ok(Self::all()?.into_iter().find(|state| state.name == name))
    }

    /// All that run.
    pub(crate) fn all() -> Result<Vec<Self>> {
        Ok(known()?.into_iter().filter(Self::is_running).collect())
    }

    pub(crate) fn folder(&self) -> Result<PathBuf> {
        Ok(root()?.join(&self.name))
    }

    pub(crate) fn save(&self) -> Result<()> {
        let file = self.folder()?.join("cluster.json");
        let new = file.with_extension("new");
        fs::write(&new, serde_json::to_vec_pretty(self)?)?;
        fs::rename(&new, &file).with_context(|| format!("writing {}", file.display()))
    }

    /// Its cgroup for the pods of a node.
    pub(crate) fn cgroup(&self, number: u8) -> String {
        format!("desktopstream-{}-n{number}", self.name)
    }

    /// Ends all that runs; its logs stay.
    pub(crate) fn end(&self) -> Result<()> {
        // Nodes first: a node that lost its apiserver would only complain.
        for machine in self.machines.iter().rev() {
            machine.end();
        }
        for number in 1..=self.nodes {
            cgroup::remove(&self.cgroup(number))?;
        }
        Ok(())
    }

    /// Forgets all of it.
    pub(crate) fn remove(&self) -> Result<()> {
        let folder = self.folder()?;
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))
    }

    fn is_running(&self) -> bool {
        self.machines.iter().any(Machine::is_alive)
    }
}

/// Ends and forgets clusters whose owner died without doing so, and forgets what failed ones left.
fn sweep() -> Result<()> {
    for state in known()? {
        if state.owner.is_none_or(ProcessId::is_alive) && state.is_running() {
            continue;
        }
        if state.owner.is_some_and(ProcessId::is_alive) {
            // On its way up, in another thread or process.
            continue;
        }
        say!("cluster {} has lost its owner: ending it", state.name);
        state.end()?;
        state.remove()?;
    }
    Ok(())
}

/// All that have a `cluster.json` that we understand, running or not.
fn known() -> Result<Vec<State>> {
    let Ok(folders) = fs::read_dir(root()?) else { return Ok(Vec::new()) };
    let files = folders.flatten().filter_map(|folder| fs::read(folder.path().join("cluster.json")).ok());
    Ok(files.filter_map(|bytes| serde_json::from_slice(&bytes).ok()).collect())
}

fn root() -> Result<PathBuf> {
    Ok(cache::folder()?.join(FOLDER))
}
