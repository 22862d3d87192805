//! A connected tap, seen from outside its connection.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use protocol::link::{Stats, ToTap};
use tokio::sync::mpsc;

/// Messages that may wait for a tap. A tap that lets more wait is stuck, and its connection is closed.
pub(crate) const WAITING: usize = 256;

/// What a tap said about itself and its VM.
#[derive(Debug, Clone)]
pub struct VmDescription {
    /// The VM's name on the host.
    pub name: String,
    /// Process ID of the VMM.
    pub pid: u32,
    /// The tap's version.
    pub tap_version: u16,
    /// `virgl_renderer_callbacks.version` that the VMM uses.
    pub abi: u32,
    /// Random per tap.
    pub instance: [u8; 16],
}

/// A message and the descriptors that go with it: the ring's memory and its bell.
pub type Outgoing = (ToTap, Option<[OwnedFd; 2]>);

/// See the module.
#[derive(Debug)]
pub struct Vm {
    /// Ours, for this connection.
    pub id: u64,
    /// What it said.
    pub description: VmDescription,
    /// Connected since then.
    pub since: Instant,
    stats: Mutex<Stats>,
    outgoing: mpsc::Sender<Outgoing>,
}

impl Vm {
    /// A tap that just said hello; what is sent to it comes out of the receiver.
    pub fn new(id: u64, description: VmDescription) -> (Self, mpsc::Receiver<Outgoing>) {
        let (outgoing, receiver) = mpsc::channel(WAITING);
        (Self { id, description, since: Instant::now(), stats: Mutex::default(), outgoing }, receiver)
    }

    /// Queues a message; if the tap does not read, its connection finds the queue full and ends.
    pub fn send(&self, message: ToTap, descriptors: Option<[OwnedFd; 2]>) {
        if self.outgoing.try_send((message, descriptors)).is_err() {
            tracing::warn!(vm = self.description.name, ?message, "the tap is gone or does not read");
        }
    }

    /// Whether a message was lost because the tap does not read.
    pub fn is_stuck(&self) -> bool {
        self.outgoing.capacity() == 0
    }

    /// What it counted last.
    pub fn stats(&self) -> Stats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// New counts.
    pub fn set_stats(&self, stats: Stats) {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }
}
