//! A real Docker Engine on this machine, for tests: dockerd, Compose and buildx built from Go modules at pinned versions, or
//! Debian's docker.io as the oldest supported engine.
//!
//! ```text
//!  tests, docker, compose, buildx
//!       │ unix socket            │ 127.0.0.1, forwarded
//!  ┌ machine ────────────────────┴────┐
//!  │ containerd ◀── dockerd           │
//!  │                  │ docker0, …    │
//!  │              containers          │
//!  └──────────────────────────────────┘
//! ```
//!
//! The machine is one of tests/harness/cluster: namespaces for network, mounts and processes, with its own `/var/lib` and
//! `/run`. The host's own Docker is not used, several engines run side by side, and an engine ends with the first process of
//! its machine.
//!
//! - [`tools`] builds the programs and keeps them in the lab's cache.
//! - [`Engine`] is the API that tests use; [`registry`] serves images to pull.
//! - [`vm`] runs an engine in a VM of the lab, which has a GPU: `./x lab docker`.

mod bring_up;
pub mod engine;
pub mod images;
pub mod registry;
mod seed;
pub mod tools;
pub mod vm;

pub use cluster::cluster::Output;
pub use cluster::{Daemon, Image, Result};
pub use engine::{Engine, Version};

/// Prints progress to stderr; stdout is for results.
macro_rules! progress {
    ($($message:tt)*) => { eprintln!("docker: {}", format_args!($($message)*)) };
}
pub(crate) use progress;
