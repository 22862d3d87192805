//! What the apiserver asks us before it stores something.
//!
//! - `/validate`: does a DesktopStream make sense? The controller's own validator, so that what is admitted can
//!   be reconciled. Fail-closed.
//! - `/inject`: puts the sidecar into pods of others that ask for it. Fail-open: a pod that we can't help is
//!   admitted as it is, with a warning, whatever goes wrong.

pub mod cert;
pub mod inject;
mod serve;
pub mod validate;

pub use serve::{Options, run};
