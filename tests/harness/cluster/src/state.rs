//! The state of a cluster or engine on disk: the facts that another process needs to find it, and to end it when its owner was
//! killed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use lab::cache;
use lab::host::ProcessId;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::{cgroup, progress};

/// Folders that each machine replaces by its own. State below them would be hidden from machines.
const REPLACED: [&str; 3] = ["/var/lib", "/var/log", "/run"];

/// Kind of an instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A Kubernetes cluster.
    #[default]
    Cluster,
    /// A Docker Engine of tests/harness/docker.
    Engine,
}

impl Kind {
    /// Folder in the cache. It is hidden, as it is not a cache entry.
    fn folder(self) -> &'static str {
        match self {
            Self::Cluster => ".clusters",
            Self::Engine => ".engines",
        }
    }

    /// Noun for messages.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Engine => "engine",
        }
    }

    /// Command of `./x` that starts and ends such instances.
    pub fn command(self) -> &'static str {
        match self {
            Self::Cluster => "./x cluster",
            Self::Engine => "./x docker",
        }
    }
}

/// Content of `cluster.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    /// Name, unique per user and kind.
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) kind: Kind,
    /// The process whose handle ends the instance; `None` if the instance was detached.
    pub(crate) owner: Option<ProcessId>,
    /// Number of nodes.
    pub(crate) nodes: u8,
    /// The machines, the hub first.
    pub(crate) machines: Vec<Machine>,
}

impl State {
    /// Creates an empty folder for an instance that does not run yet, after ending instances whose owner was killed.
    ///
    /// # Errors
    /// If the name is invalid or in use.
    pub(crate) fn create(kind: Kind, name: &str, nodes: u8) -> Result<Self> {
        ensure!(
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'),
            "{name:?}: a name must consist of letters, digits and -"
        );
        sweep(kind)?;
        ensure!(
            Self::find(kind, name)?.is_none(),
            "{} {name} is already running: choose another name, or end it with {} down --name {name}",
            kind.noun(),
            kind.command()
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
            "{}: set XDG_CACHE_HOME to a folder outside of {REPLACED:?}, which machines replace by their own",
            folder.display()
        );
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("clearing {}", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        // The folder holds the administrator's key.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        state.save()?;
        Ok(state)
    }

    /// The running instance of that name.
    pub(crate) fn find(kind: Kind, name: &str) -> Result<Option<Self>> {
        Ok(Self::running(kind)?.into_iter().find(|state| state.name == name))
    }

    /// All running instances of a kind.
    pub(crate) fn running(kind: Kind) -> Result<Vec<Self>> {
        Ok(known(kind)?.into_iter().filter(Self::is_running).collect())
    }

    /// The folder that holds the machines' folders.
    pub(crate) fn folder(&self) -> Result<PathBuf> {
        Ok(root(self.kind)?.join(&self.name))
    }

    /// Writes `cluster.json`.
    pub(crate) fn save(&self) -> Result<()> {
        let file = self.folder()?.join("cluster.json");
        let new = file.with_extension("new");
        fs::write(&new, serde_json::to_vec_pretty(self)?)?;
        fs::rename(&new, &file).with_context(|| format!("writing {}", file.display()))
    }

    /// Name of the parent cgroup of the pods of node `number`.
    pub(crate) fn cgroup(&self, number: u8) -> String {
        let kind = if self.kind == Kind::Engine { "docker-" } else { "" };
        format!("desktopstream-{kind}{}-n{number}", self.name)
    }

    /// Ends all machines. Their logs stay.
    pub(crate) fn end(&self) -> Result<()> {
        // Nodes first: a node without an apiserver fills its log with errors.
        for machine in self.machines.iter().rev() {
            machine.end();
        }
        for number in 1..=self.nodes {
            cgroup::remove(&self.cgroup(number))?;
        }
        Ok(())
    }

    /// Removes the folder.
    pub(crate) fn remove(&self) -> Result<()> {
        let folder = self.folder()?;
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))
    }

    fn is_running(&self) -> bool {
        self.machines.iter().any(Machine::is_alive)
    }
}

/// Ends instances whose owner was killed, and removes the folders that failed runs left.
fn sweep(kind: Kind) -> Result<()> {
    for state in known(kind)? {
        let detached = state.owner.is_none() && state.is_running();
        // An owner that is alive may still be bringing its instance up.
        if detached || state.owner.is_some_and(ProcessId::is_alive) {
            continue;
        }
        progress!("ending {} {}, whose process is gone", kind.noun(), state.name);
        state.end()?;
        state.remove()?;
    }
    Ok(())
}

/// All states with a readable `cluster.json`, running or not.
fn known(kind: Kind) -> Result<Vec<State>> {
    let Ok(folders) = fs::read_dir(root(kind)?) else { return Ok(Vec::new()) };
    let files = folders.flatten().filter_map(|folder| fs::read(folder.path().join("cluster.json")).ok());
    Ok(files.filter_map(|bytes| serde_json::from_slice(&bytes).ok()).collect())
}

fn root(kind: Kind) -> Result<PathBuf> {
    Ok(cache::folder()?.join(kind.folder()))
}
