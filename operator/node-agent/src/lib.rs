//! The node-agent: one per node. Finds GPUs, hands them out through the kubelet, sees which host-agents the
//! node reaches, and says so on the Node.
//!
//! ```text
//!  sysfs, /dev ─▶ gpus ─┬─▶ plugin ◀─▶ kubelet      (kubelet: registers, again and again)
//!                       └─▶ publish ─▶ Node's labels and annotation
//!  HostAgents ─▶ reach ───┘
//! ```

pub mod cdi;

pub mod kubelet;
pub mod plugin;
mod publish;

mod run;
pub mod shares;
pub mod wire;

pub use run::{Options, run};
