//! Admission webhook.
//!
//! - `/validate` refuses invalid DesktopStreams with the controller's own validator, so that every admitted stream can be
//!   reconciled, and streams whose author lacks the rights that the operator uses for them. It fails closed.
//! - `/inject` adds the sidecar to pods that request it. It fails open: a pod that cannot be injected is admitted unchanged,
//!   with a warning.

mod admission;
mod authorize;
mod cache;
mod cert;
mod certificate;
mod connections;
mod inject;
mod serve;
mod server;
mod tls;
mod validate;

pub use serve::{Options, run};
