//! Containers of a stream as an engine reports them.
//!
//! Adapters fill this: `kubernetes::observe` from a pod, `operator-docker` from two containers.

use k8s_openapi::jiff::Timestamp;

/// Text of `ENOSPC`, which engines pass on in their messages.
pub const NO_SPACE: &str = "no space left on device";

/// State of the containers that a stream's desktop and sidecar run in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observation {
    /// Name of the pod, or of the desktop's container.
    pub name: String,
    /// Node that runs the containers; `None` until one is assigned.
    pub node: Option<String>,
    /// Reason why no node can be assigned.
    pub unplaced: Option<Unplaced>,
    /// Reason for which the containers are evicted from their node.
    pub evicted: Option<String>,
    /// True while the containers are being deleted.
    pub is_terminating: bool,
    /// True if all containers succeeded and none will be restarted.
    pub has_ended: bool,
    /// Names of the GPUs that the engine reports to have allocated to the desktop; empty if it reports none.
    pub desktop_gpus: Vec<String>,
    /// Containers that exist or wait to be created.
    pub containers: Vec<Container>,
}

/// Reason why no node can be assigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unplaced {
    /// Kind of missing resource.
    pub cause: UnplacedCause,
    /// Message of the scheduler.
    pub message: String,
}

/// Kind of resource whose lack keeps a node from being assigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnplacedCause {
    /// A volume is not bound.
    Volume,
    /// Devices, other resources, or nodes that match.
    Resources,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Name of the container.
    pub name: String,
    /// Image reference.
    pub image: String,
    /// True for the sidecar, false for the desktop and any container beside it.
    pub is_sidecar: bool,
    /// Number of restarts.
    pub restarts: u32,
    /// State of the container.
    pub state: ContainerState,
}

/// State of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// Waits to be started, for a reason that passes by itself.
    Starting,
    /// Cannot be started without user action.
    Blocked {
        /// Kind of obstacle.
        cause: BlockedCause,
        /// Message of the engine.
        message: String,
    },
    /// The process runs.
    Running {
        /// Time of the last start, if the engine reports it.
        since: Option<Timestamp>,
    },
    /// Ended repeatedly; the engine waits before it restarts it.
    Crashing {
        /// Last end, if the engine reports it.
        last: Option<Exit>,
    },
    /// The process ended.
    Exited(Exit),
}

/// Obstacle to a container's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockedCause {
    /// The image cannot be pulled.
    Image,
    /// The container cannot be created or started from its configuration.
    Config,
    /// The disk is full.
    DiskFull,
}

/// End of a container's process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exit {
    /// Reason, such as `Error` or `OOMKilled`.
    pub reason: String,
    /// Exit code.
    pub code: i32,
    /// Termination message; often empty.
    pub message: String,
}

impl ContainerState {
    /// Number of restarts from which a container that does not run counts as crashing.
    pub const CRASHING_RESTARTS: u32 = 2;
}
