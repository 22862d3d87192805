//! The whole product on one machine: a Kubernetes control plane, an ordinary node for pods without a GPU, VMs with a virtio-gpu as
//! nodes, the chart installed by Helm, and a host-agent that the VMs reach at their gateway.
//!
//! ```text
//!   host: host-agent ◀─ link.sock ─ tap in QEMU (its network interface is on the cluster's bridge)
//!                                      │ guest: containerd, kubelet, node-agent, pods
//!   cluster's network: hub (apiserver …), n1 (operator), vm2, vm3 … (desktops)
//! ```
//!
//! Only two parts differ from production, for lack of hardware: the VMs' GPU is drawn by software GL, and the host-agent encodes
//! in software.

mod images;
mod interrupt;
mod streams;
mod topology;

pub use images::{ATTACKER, desktop};
pub use interrupt::interrupt;
pub use streams::{Viewers, stream};
pub use topology::{HOST_AGENTS, Options, Topology};

/// Prints progress to stderr.
pub fn progress(message: &str) {
    eprintln!("topology: {message}");
}
