//! A real Kubernetes on this machine, for tests: apiserver, etcd, controllers, scheduler, kubelets, containerd, runc, CNI,
//! kube-proxy and CoreDNS, built from Go modules at pinned versions.
//!
//! ```text
//!        host network: tests, kubectl, helm
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
//! - [`tools`] builds the programs and keeps them in the lab's cache.
//! - [`machine`] creates hub and nodes: namespaces for network, processes, mounts and host name. The kernel ends every process
//!   and mount of a machine together with its first process.
//! - [`instance`] is the handle of a running cluster or engine, which ends it.
//! - [`pki`], [`control_plane`] and [`node`] configure the daemons; [`daemon`] runs them.
//! - [`vm`] joins VMs of the lab as nodes.
//! - [`Cluster`] is the API that tests use; [`image`] makes container images of folders.
//! - [`suite`] runs tests that share one cluster.
//! - [`product`] installs desktopstream in a cluster. No other module refers to desktops or streams.
//!
//! Every cluster has its own networks, so several run side by side with the same addresses. The bridge has no uplink: no
//! packet leaves the host.

mod addresses;
pub mod cgroup;
pub mod cluster;
mod control_plane;
pub mod daemon;
pub mod forward;
pub mod image;
pub mod instance;
pub mod machine;
mod node;
mod pki;
pub mod product;
mod state;
pub mod suite;
pub mod tools;
pub mod vm;

pub use cluster::{Cluster, Config, Output};
pub use daemon::Daemon;
pub use image::Image;
pub use lab::Result;

/// Prints progress to stderr; stdout is for results.
macro_rules! progress {
    ($($message:tt)*) => { eprintln!("cluster: {}", format_args!($($message)*)) };
}
pub(crate) use progress;
