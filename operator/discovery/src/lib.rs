//! Facts of one machine: its GPUs from sysfs, and the host-agents that accept a connection from it.

pub mod gpus;
pub mod reach;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
