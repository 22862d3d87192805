//! A connected tap.

use std::os::fd::OwnedFd;
use std::time::Instant;

use parking_lot::Mutex;
use protocol::link::{Stats, ToTap};
use tokio::sync::mpsc;

/// Maximum number of messages queued for a tap. A tap with a full queue is disconnected. A session queues no
/// second `Attach` before the first is answered, so sessions alone do not fill the queue of a tap that reads.
pub(crate) const MAX_QUEUED: usize = 1024;

/// Description of a VM and its tap, as the tap reports it.
#[derive(Debug, Clone)]
pub struct VmDescription {
    /// Name of the VM.
    pub name: String,
    /// Process ID of the VMM.
    pub pid: u32,
    /// Version of the tap.
    pub tap_version: u16,
    /// `virgl_renderer_callbacks.version` that the VMM uses.
    pub abi: u32,
    /// Random number of the tap's process.
    pub instance: [u8; 16],
}

/// A message with its file descriptors: the ring's memory and its waker.
pub type Outgoing = (ToTap, Option<[OwnedFd; 2]>);

/// A connected tap and its VM.
#[derive(Debug)]
pub struct Vm {
    /// Number of the connection, unique in this process.
    pub id: u64,
    /// Description by the tap.
    pub description: VmDescription,
    /// Time of the handshake.
    pub since: Instant,
    stats: Mutex<Stats>,
    outgoing: mpsc::Sender<Outgoing>,
}

impl Vm {
    /// A tap that just connected, and the receiver of messages to send to it.
    pub fn new(id: u64, description: VmDescription) -> (Self, mpsc::Receiver<Outgoing>) {
        let (outgoing, receiver) = mpsc::channel(MAX_QUEUED);
        (Self { id, description, since: Instant::now(), stats: Mutex::default(), outgoing }, receiver)
    }

    /// Queues a message without blocking. A message that does not fit is dropped; the connection then ends
    /// because of the full queue.
    pub fn send(&self, message: ToTap, descriptors: Option<[OwnedFd; 2]>) {
        if let Err(error) = self.outgoing.try_send((message, descriptors)) {
            let (message, _) = error.into_inner();
            tracing::warn!(vm = self.description.name, ?message, "cannot send to tap: closed or not reading");
        }
    }

    /// Whether the queue is full because the tap does not read.
    pub fn is_stuck(&self) -> bool {
        self.outgoing.capacity() == 0
    }

    /// The tap's last counters.
    pub fn stats(&self) -> Stats {
        *self.stats.lock()
    }

    /// Stores the tap's counters.
    pub fn set_stats(&self, stats: Stats) {
        *self.stats.lock() = stats;
    }
}
