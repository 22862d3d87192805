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

/// Folders that machines replace by their own: the state must not be hidden from them.
const REPLACED: [&str; 3] = ["/var/lib", "/var/log", "/run"];

/// What kind of thing lives in machines of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A Kubernetes cluster.
    #[default]
    Cluster,
    /// A Docker Engine, of tests/harness/docker.
    Engine,
}

impl Kind {
    /// In the cache; hidden, as it is none of its entries.
    fn folder(self) -> &'static str {
        match self {
            Self::Cluster => ".clusters",
            Self::Engine => ".engines",
        }
    }

    /// What people call it, and how they end it.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Cluster => ("cluster", "./x cluster down"),
            Self::Engine => ("engine", "./x docker down"),
        }
    }
}

/// What is known of a cluster; `cluster.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// Its name among those of its kind.
    pub name: String,
    /// What it is.
    #[serde(default)]
    pub kind: Kind,
    /// The process with whose handle it ends; none when it was left running.
    pub owner: Option<ProcessId>,
    /// How many nodes it has.
    pub nodes: u8,
    /// The hub first.
    pub machines: Vec<Machine>,
}

impl State {
    /// A fresh folder for one that doesn't run.
    pub fn create(kind: Kind, name: &str, nodes: u8) -> Result<Self> {
        let (word, down) = kind.words();
        ensure!(
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'),
            "names are letters, digits and -"
        );
        sweep(kind)?;
        ensure!(
            Self::find(kind, name)?.is_none(),
            "{word} {name} is up already: take another name, or end it with {down} --name {name}"
        );
        let state = Self {
            name: name.to_owned(),
            kind,
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
    pub fn find(kind: Kind, name: &str) -> Result<Option<Self>> {
        Ok(Self::all(kind)?.into_iter().find(|state| state.name == name))
    }

    /// All that run.
    pub fn all(kind: Kind) -> Result<Vec<Self>> {
        Ok(known(kind)?.into_iter().filter(Self::is_running).collect())
    }

    /// Where its machines' folders are.
    pub fn folder(&self) -> Result<PathBuf> {
        Ok(root(self.kind)?.join(&self.name))
    }

    /// Writes down what has changed.
    pub fn save(&self) -> Result<()> {
        let file = self.folder()?.join("cluster.json");
        let new = file.with_extension("new");
        fs::write(&new, serde_json::to_vec_pretty(self)?)?;
        fs::rename(&new, &file).with_context(|| format!("writing {}", file.display()))
    }

    /// Its cgroup for the pods of a node.
    pub fn cgroup(&self, number: u8) -> String {
        let kind = if self.kind == Kind::Engine { "docker-" } else { "" };
        format!("desktopstream-{kind}{}-n{number}", self.name)
    }

    /// Ends all that runs; its logs stay.
    pub fn end(&self) -> Result<()> {
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
    pub fn remove(&self) -> Result<()> {
        let folder = self.folder()?;
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))
    }

    fn is_running(&self) -> bool {
        self.machines.iter().any(Machine::is_alive)
    }
}

/// Ends and forgets clusters whose owner died without doing so, and forgets what failed ones left.
fn sweep(kind: Kind) -> Result<()> {
    for state in known(kind)? {
        if state.owner.is_none_or(ProcessId::is_alive) && state.is_running() {
            continue;
        }
        if state.owner.is_some_and(ProcessId::is_alive) {
            // On its way up, in another thread or process.
            continue;
        }
        say!("{} {} has lost its owner: ending it", kind.words().0, state.name);
        state.end()?;
        state.remove()?;
    }
    Ok(())
}

/// All that have a `cluster.json` that we understand, running or not.
fn known(kind: Kind) -> Result<Vec<State>> {
    let Ok(folders) = fs::read_dir(root(kind)?) else { return Ok(Vec::new()) };
    let files = folders.flatten().filter_map(|folder| fs::read(folder.path().join("cluster.json")).ok());
    Ok(files.filter_map(|bytes| serde_json::from_slice(&bytes).ok()).collect())
}

fn root(kind: Kind) -> Result<PathBuf> {
    Ok(cache::folder()?.join(kind.folder()))
}
