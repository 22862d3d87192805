//! Reconciles one stream: gather what exists, decide what should, apply the difference, write the status.
//!
//! ```text
//!  DesktopStream ─validate─▶ Validated ─┐
//!  Engine, sidecar ─gather─▶ Gathered ──┴─decide─▶ Decision ─apply─▶ Applied ─▶ status
//! ```
//! A pass that changed something writes no new status; the next pass observes the result.

mod announce;
mod apply;
mod attach;
mod credentials;
mod decide;
mod gather;
mod memory;
mod status;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use contract::StreamName;
use k8s_openapi::jiff::Timestamp;
use operator_api::{DesktopStream, HostAgent};
use operator_plan::facts::{Gpu, Node};
use operator_plan::kubernetes::SidecarImage;
use operator_plan::validate::Validated;
use parking_lot::Mutex;
use stream_token::Signer;

use self::memory::Memory;
pub use self::status::write_orphaned;
use crate::container::Container;
use crate::engine::Engine;
use crate::machine::Machine;
use crate::names::{Project, StreamKey};
use crate::pulls::Pulls;
use crate::state::{Record, StateFolder};
use crate::unsupported::validate;
use crate::view::{Network, View};

/// Requeue interval while a stream starts.
const STARTING_INTERVAL: Duration = Duration::from_secs(2);
/// Requeue interval when an object cannot be created or started.
const OBSTACLE_INTERVAL: Duration = Duration::from_secs(10);

/// Settings and clients of the operator, and its memory.
pub struct Context {
    /// Client of the Engine.
    pub engine: Arc<Engine>,
    /// Project name.
    pub project: Project,
    /// Image and resources of sidecars.
    pub sidecar: SidecarImage,
    /// Interval at which running sidecars are polled.
    pub poll: Duration,
    /// Lifetime of host-agent tokens.
    pub token_life: Duration,
    /// Persistent state.
    pub folder: StateFolder,
    /// Signs host-agent tokens.
    pub signer: Signer,
    /// The Engine's machine.
    pub machine: Machine,
    /// Image pulls.
    pub pulls: Pulls,
    /// Names of users' containers that may be recreated.
    pub recreatable: BTreeSet<String>,
    /// Held while a user's container is recreated: one at a time, and not interrupted by our end.
    pub recreation: Arc<tokio::sync::Mutex<()>>,
    /// Memory by stream, lost with the process and rebuilt by the next passes.
    pub memory: Mutex<HashMap<StreamName, Memory>>,
}

impl Context {
    fn memory(&self, stream: &StreamName) -> Memory {
        self.memory.lock().get(stream).cloned().unwrap_or_default()
    }

    fn update_memory(&self, stream: &StreamName, change: impl FnOnce(&mut Memory)) {
        change(self.memory.lock().entry(stream.clone()).or_default());
    }

    /// Removes all state of a deleted stream.
    pub fn forget(&self, stream: &StreamName) {
        self.memory.lock().remove(stream);
        self.folder.remove(stream);
    }
}

/// State of the Engine and its surroundings at the beginning of a pass.
#[derive(Debug)]
pub struct World {
    /// Objects of the project.
    pub view: View,
    /// GPUs of the machine.
    pub gpus: Vec<Gpu>,
    /// The machine, with the host-agents that it reaches.
    pub node: Node,
    /// Host-agents that this machine can reach, with their state.
    pub host_agents: Vec<HostAgent>,
    /// The project's network. The first stream that needs it creates it.
    pub network: tokio::sync::Mutex<Option<Network>>,
    /// Users' containers that ask for a sidecar, by stream.
    pub attach_requests: HashMap<StreamName, Container>,
}

/// Outcome of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Something was changed; the next pass should follow at once.
    pub changed: bool,
    /// Longest time until the next pass.
    pub requeue_after: Duration,
}

/// Reconciles the stream of this name.
///
/// # Errors
///
/// If the Engine is unreachable or the state folder cannot be written. Errors that the Engine answers become conditions.
pub async fn reconcile(
    context: &Context,
    world: &World,
    name: &StreamName,
    stream: &DesktopStream,
) -> anyhow::Result<Outcome> {
    let now = Timestamp::now();
    let record = Record::next(stream, context.folder.record(name), now)?;
    let mut stream = stream.clone();
    stream.metadata.uid = Some(record.uid.clone());
    stream.metadata.generation = Some(record.generation);
    match validate(&stream, &context.project) {
        Ok(valid) => {
            let key = StreamKey::new(&context.project, name);
            let pass = Pass { context, world, stream: &stream, valid, key, record, now };
            Box::pin(pass.run()).await
        }
        Err(invalid) => {
            status::write_invalid(context, name, &record, &invalid, now)?;
            Ok(Outcome { changed: false, requeue_after: Duration::MAX })
        }
    }
}

/// A pass over one valid stream.
struct Pass<'p> {
    context: &'p Context,
    world: &'p World,
    stream: &'p DesktopStream,
    valid: Validated,
    key: StreamKey,
    record: Record,
    now: Timestamp,
}

impl Pass<'_> {
    async fn run(mut self) -> anyhow::Result<Outcome> {
        let gathered = self.gather().await?;
        let decision = self.decide(&gathered);
        self.record.ended |= decision.has_expired();
        let applied = self.apply(&gathered, &decision).await?;
        let requeue_after = self.requeue_after(&gathered, &decision, applied.obstacle.is_some());
        if applied.changed && applied.obstacle.is_none() {
            status::write(self.context, &self.key.stream, &self.record, self.record.status.clone())?;
        } else {
            self.update_status(&gathered, &decision, applied.obstacle.as_ref())?;
        }
        Ok(Outcome { changed: applied.changed, requeue_after })
    }

    fn memory(&self) -> Memory {
        self.context.memory(&self.key.stream)
    }

    fn update_memory(&self, change: impl FnOnce(&mut Memory)) {
        self.context.update_memory(&self.key.stream, change);
    }
}
