//! Admission webhook.
//!
//! - `/validate` refuses invalid DesktopStreams with the controller's own validator, so that every admitted stream can be
//!   reconciled. It fails closed.
//! - `/inject` adds the sidecar to pods that request it. It fails open: a pod that cannot be injected is admitted unchanged,
//!   with a warning.

mod admission;
mod cert;
mod certificate;
mod inject;
mod serve;
mod validate;

pub use serve::{Options, run};
