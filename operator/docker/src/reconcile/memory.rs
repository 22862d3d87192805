//! State of a stream that one reconcile pass hands to the next.

use std::collections::BTreeMap;
use std::time::Instant;

use contract::Endpoint;
use operator_plan::status::Obstacle;

use super::gather::SidecarReport;

/// Memory of one stream.
/// Has no `Debug` output, because it has tokens and keys.
#[derive(Default, Clone)]
pub struct Memory {
    /// Last poll of the sidecar.
    pub(super) poll: Option<Poll>,
    /// Address at which the sidecar answered.
    pub(super) address: Option<String>,
    /// Host-agent that the stream occupies.
    pub(super) host_agent: Option<String>,
    /// Identity of the host-agent's Unix socket that the sidecar has mounted.
    pub(super) socket: Option<String>,
    /// Files that were uploaded into the sidecar.
    pub(super) upload: Option<Upload>,
    /// Host-agent token in use.
    pub(super) token: Option<IssuedToken>,
    /// Obstacle that the last attempt met.
    pub(super) obstacle: Option<HeldObstacle>,
    /// End of the time during which running containers are inspected, too.
    pub(super) inspect_until: Option<Instant>,
    /// Last line that announced the viewer URL.
    pub(super) announced: Option<String>,
    /// Recreation of a user's container that failed. It is not repeated for the same container.
    pub(super) failed_recreation: Option<FailedRecreation>,
}

/// A poll of the sidecar.
#[derive(Debug, Clone)]
pub(super) struct Poll {
    pub(super) at: Instant,
    pub(super) report: SidecarReport,
}

/// Files in the sidecar's secrets folder.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Upload {
    pub(super) container_id: String,
    /// Content by path relative to the folder.
    pub(super) files: BTreeMap<String, String>,
}

/// A host-agent token.
#[derive(Clone)]
pub(super) struct IssuedToken {
    pub(super) host_agent: String,
    pub(super) endpoint: Endpoint,
    pub(super) token: String,
    /// Private key that it is bound to, in PEM; empty for a plaintext endpoint.
    pub(super) key: String,
    /// Unix time at which the token is replaced, seconds.
    pub(super) renew_at: u64,
}

/// An obstacle, and when to try again.
#[derive(Debug, Clone)]
pub(super) struct HeldObstacle {
    pub(super) obstacle: Obstacle,
    /// Generation of the spec that met it.
    pub(super) generation: i64,
    pub(super) retry_at: Instant,
}

/// A recreation that did not start.
#[derive(Debug, Clone)]
pub(super) struct FailedRecreation {
    pub(super) container_id: String,
    pub(super) cause: String,
}
