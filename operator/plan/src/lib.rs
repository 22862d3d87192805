//! Decides: what a stream's spec means, which host-agent serves it, which objects should be there, and what
//! its status says. Pure: no IO, no client, no clock of its own. Kubernetes and Docker share all of it but
//! the last step, which is [`kubernetes`].
//!
//! ```text
//! DesktopStream ─validate─▶ Validated ─┬─pair─▶ Pairing ─┐
//!                          what is there ────────────────┼─workload─▶ Workload ─kubernetes─▶ objects
//!                                                        └─status──▶ DesktopStreamStatus
//! ```

pub mod drift;
pub mod duration;
pub mod facts;
pub mod kubernetes;
pub mod lifecycle;
pub mod pair;
pub mod status;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod validate;
pub mod workload;
