//! The node-agent, one per node: allocates GPUs through the kubelet, and publishes the node's GPUs and reachable host-agents
//! on the Node.
//!
//! ```text
//!  sysfs, /dev ─▶ discovery::gpus ─┬─▶ plugin ◀─▶ kubelet
//!                                  └─▶ publish ─▶ labels and annotation of the Node
//!  HostAgents ─▶ discovery::reach ────┘
//! ```

pub mod cdi;
pub mod kubelet;
pub mod plugin;
mod publish;
mod run;
pub mod shares;
pub mod wire;

pub use run::{Options, run};
