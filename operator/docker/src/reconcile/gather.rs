//! Gathers the state of a stream from the Engine and the sidecar.

use std::time::{Duration, Instant};

use contract::SidecarStatus;
use operator_api::names::SIDECAR_ADMIN_PORT;
use operator_sidecar_client::{RequestError, sidecar_status};

use super::Pass;
use super::memory::Poll;
use crate::container::{Container, Detail, State};
use crate::engine::EngineError;
use crate::names::Role;

/// Time after trouble during which running containers are inspected, too.
const INSPECTION_TIME: Duration = Duration::from_secs(60);
/// Poll interval before the first encoded frame.
const STARTING_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The sidecar's status, or the reason why there is none.
pub(super) type SidecarReport = Result<SidecarStatus, RequestError>;

/// State of a stream.
pub(super) struct Gathered<'g> {
    /// User's container that the stream attaches to.
    pub(super) attach_request: Option<&'g Container>,
    /// Desktop, the user's container if the stream attaches to one.
    pub(super) desktop: Option<Container>,
    /// Sidecar container.
    pub(super) sidecar: Option<Container>,
    /// Sidecar's report; `None` if it does not run.
    pub(super) report: Option<SidecarReport>,
}

impl Gathered<'_> {
    /// The sidecar's status, if it answered.
    pub(super) fn status(&self) -> Option<&SidecarStatus> {
        self.report.as_ref().and_then(|report| report.as_ref().ok())
    }

    /// True if the sidecar has delivered frames.
    pub(super) fn is_streaming(&self) -> bool {
        self.status().is_some_and(has_frames)
    }
}

fn has_frames(status: &SidecarStatus) -> bool {
    status.frames.encoded > 0
}

impl<'p> Pass<'p> {
    pub(super) async fn gather(&self) -> Result<Gathered<'p>, EngineError> {
        let request = self.world.attach_requests.get(&self.key.stream);
        let attach_request = request.filter(|_| self.valid.spec.attach.is_some());
        let desktop = match attach_request {
            Some(container) => self.inspect_if_needed(container).await?,
            None => self.container(Role::Desktop).await?,
        };
        let sidecar = self.container(Role::Sidecar).await?;
        let report = self.poll(sidecar.as_ref()).await;
        Ok(Gathered { attach_request, desktop, sidecar, report })
    }

    async fn container(&self, role: Role) -> Result<Option<Container>, EngineError> {
        match self.world.view.container(&self.key, role) {
            Some(container) => self.inspect_if_needed(container).await,
            None => Ok(None),
        }
    }

    /// Inspects a container that does not run, and for a while after that. `None` if it is gone.
    async fn inspect_if_needed(&self, container: &Container) -> Result<Option<Container>, EngineError> {
        let mut container = container.clone();
        let now = Instant::now();
        let is_running = container.state == State::Running;
        if !is_running {
            self.update_memory(|memory| memory.inspect_until = Some(now + INSPECTION_TIME));
        }
        if !is_running || self.memory().inspect_until.is_some_and(|until| until > now) {
            match self.context.engine.inspect(&container.id).await {
                Ok(found) => container.detail = Some(Detail::from(&found)),
                Err(error) if error.is_missing() => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(container))
    }

    /// Polls the sidecar at most once per interval, at its published address or at its address in the project's network,
    /// whichever is reachable from here.
    async fn poll(&self, sidecar: Option<&Container>) -> Option<SidecarReport> {
        let Some(sidecar) = sidecar.filter(|it| it.state == State::Running) else {
            self.update_memory(|memory| memory.poll = None);
            return None;
        };
        let memory = self.memory();
        if let Some(Poll { at, report }) = memory.poll {
            let is_steady = report.as_ref().is_ok_and(has_frames);
            let interval = if is_steady { self.context.poll } else { STARTING_POLL_INTERVAL };
            if at.elapsed() < interval {
                return Some(report);
            }
        }
        let inside = sidecar.networks.get(&self.key.object(Role::Network)).filter(|ip| !ip.is_empty());
        let mut addresses: Vec<String> = memory.address.into_iter().collect();
        addresses.extend(sidecar.admin.map(|address| address.to_string()));
        addresses.extend(inside.map(|ip| format!("{ip}:{SIDECAR_ADMIN_PORT}")));
        // Viewers' port: the only one that a container on a remote Engine publishes to this machine.
        addresses.extend(sidecar.local_address().map(|address| address.to_string()));
        let token = self.context.folder.viewer_token(&self.key.stream);
        let mut report = Err(RequestError::Connection("the sidecar has no address".to_owned()));
        let mut answered = None;
        for address in addresses {
            report = sidecar_status(&address, token.as_deref()).await;
            if report.is_ok() {
                answered = Some(address);
                break;
            }
        }
        self.update_memory(|memory| {
            memory.address = answered;
            memory.poll = Some(Poll { at: Instant::now(), report: report.clone() });
        });
        Some(report)
    }
}
