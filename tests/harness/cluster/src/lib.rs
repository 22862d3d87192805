//! A real Kubernetes on this machine, for tests: apiserver, etcd, controllers, scheduler, kubelets, containerd, runc, CNI,
//! kube-proxy and CoreDNS, all built from Go modules by their pinned versions.
//!
//! ```text
//!        the machine's own network: tests, kubectl, helm
//!                       │ 127.0.0.1, forwarded
//!  ┌ hub ───────────────┴───────────────┐
//!  │ etcd apiserver controllers         │
//!  │ scheduler coredns      10.88.0.1   │
//!  └────────── bridge ──────────────────┘
//!       │ 10.88.0.11          │ 10.88.0.12
//!  ┌ n1 ┴─────────────┐  ┌ n2 ┴─────────────┐
//!  │ containerd       │  │ …                │
//!  │ kubelet          │  │                  │
//!  │ kube-proxy       │  │                  │
//!  │ pods 10.244.1.0  │  │ pods 10.244.2.0  │
//!  └──────────────────┘  └──────────────────┘
//! ```
//!
//! - [`tools`] builds the programs, once, into the lab's cache.
//! - [`machine`] makes hub and nodes: namespaces of their own for network, processes, mounts and host name. All that runs and
//!   is mounted in a machine ends with its first process, so nothing can be left behind.
//! - [`pki`], [`control_plane`], [`node`] are what runs there, [`daemon`] how.
//! - [`vm`] adds VMs of the lab to the nodes.
//! - [`Cluster`] brings it up and is what tests use; [`image`] makes images of folders.
//! - [`product`] puts our programs into one: the only module that knows of desktops and streams.
//!
//! As networks are the clusters' own, several run side by side with the same addresses. No packet leaves the machine: there
//! is no way out of the bridge.

mod addresses;
pub mod cgroup;
pub mod cluster;
mod control_plane;
pub mod daemon;
pub mod forward;
pub mod image;
pub mod machine;
mod node;
mod pki;
pub mod product;
pub mod state;
pub mod tools;
pub mod vm;

pub use cluster::{Cluster, Config, Output};
pub use daemon::Daemon;
pub use image::Image;
pub use lab::Result;

/// Says what is being done, on stderr: stdout belongs to results.
macro_rules! say {
    ($($words:tt)*) => { eprintln!("cluster: {}", format_args!($($words)*)) };
}
pub(crate) use say;
