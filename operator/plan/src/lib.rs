//! Decides, without IO, client or clock: the meaning of a stream's spec, its host-agent, its objects and its status.
//!
//! ```text
//! DesktopStream ──validate──▶ Validated ─┬─pair──▶ Pairing ─┐
//! Pod, containers ──adapter──▶ Observation ─────────────────┼──workload──▶ Workload ──render──▶ objects
//! sidecar's /status ─────────▶ SidecarStatus ───────────────┴──status────▶ DesktopStreamStatus
//! ```
//!
//! Kubernetes and Docker share everything but the adapter at the left and the renderer at the right. Those of Kubernetes
//! are pure too: [`kubernetes`]. Those of Docker are in `operator-docker`.

pub mod drift;
pub mod duration;
pub mod facts;
pub mod host_agent;
pub mod kubernetes;
pub mod lifecycle;
pub mod observation;
pub mod pair;
pub mod quantity;
pub mod rights;
pub mod status;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod validate;
pub mod workload;
