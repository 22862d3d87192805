//! The product as it runs, on one machine: a Kubernetes control plane, an ordinary node for what needs no GPU, VMs with a
//! virtio-gpu as nodes, the chart installed by Helm, and a host-agent beside it that VMs reach at their gateway.
//!
//! ```text
//!   host: host-agent ◀─ link.sock ─ tap in QEMU (in the cluster's network, by a cable to its bridge)
//!                                      │ guest: containerd, kubelet, node-agent, pods
//!   cluster's network: hub (apiserver …), n1 (operator), vm2, vm3 … (desktops)
//! ```
//!
//! Nothing is faked but what the hardware forces: software GL in QEMU, a software encoder in host-agent.

mod images;
pub mod pieces;
mod up;

pub use images::{ATTACKER, desktop};
pub use up::{HOST_AGENTS, Options, Topology};
