//! A real Docker Engine on this machine, for tests: dockerd, Compose and buildx built from Go modules by their pinned
//! versions, or Debian's docker.io as the oldest that we support.
//!
//! ```text
//!  tests, docker, compose, buildx
//!       │ unix socket            │ 127.0.0.1, forwarded
//!  ┌ a machine of its own ───────┴────┐
//!  │ containerd ◀── dockerd           │
//!  │                  │ docker0, …    │
//!  │              containers          │
//!  └──────────────────────────────────┘
//! ```
//!
//! The machine is one of tests/harness/cluster's: namespaces for network, mounts and processes, with `/var/lib` and `/run` of its own.
//! The computer's own Docker, if there is one, is neither asked nor disturbed, several engines run side by side, and all of
//! an engine ends with its machine's first process.
//!
//! - [`tools`] builds the programs, once, into the lab's cache.
//! - [`Engine`] is what tests use; [`registry`] is where one may pull from.
//! - [`vm`] is another one, inside a VM of the lab, where there is a GPU: `./x lab docker`.

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

/// Says what is being done, on stderr: stdout belongs to results.
macro_rules! say {
    ($($words:tt)*) => { eprintln!("docker: {}", format_args!($($words)*)) };
}
pub(crate) use say;
