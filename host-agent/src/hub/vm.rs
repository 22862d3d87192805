//! A connected tap.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use protocol::link::{Stats, ToTap};
use tokio::sync::mpsc;

/// Maximum number of messages queued for a tap. A tap for which one more is queued is disconnected. A session
/// queues no second `Attach` before the first is answered, and a stream starts a limited number of sessions, so
/// sessions alone do not fill the queue of a tap that reads.
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
    /// A message was lost.
    is_stuck: AtomicBool,
}

impl Vm {
    /// A tap that just connected, and the receiver of messages to send to it.
    pub fn new(id: u64, description: VmDescription) -> (Self, mpsc::Receiver<Outgoing>) {
        let (outgoing, receiver) = mpsc::channel(MAX_QUEUED);
        let (since, stats, is_stuck) = (Instant::now(), Mutex::default(), AtomicBool::new(false));
        (Self { id, description, since, stats, outgoing, is_stuck }, receiver)
    }

    /// Queues a message without blocking. If it does not fit it is lost, and the connection must end: after a
    /// lost `Attach` or `Detach` the tap and the hub would disagree on the rings that are mapped.
    pub fn send(&self, message: ToTap, descriptors: Option<[OwnedFd; 2]>) {
        if let Err(error) = self.outgoing.try_send((message, descriptors)) {
            self.is_stuck.store(true, Ordering::Relaxed);
            let (message, _) = error.into_inner();
            tracing::warn!(vm = self.description.name, ?message, "cannot send to tap: closed or not reading");
        }
    }

    /// Whether a message was lost because the tap does not read.
    pub fn is_stuck(&self) -> bool {
        self.is_stuck.load(Ordering::Relaxed)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tap_that_lost_a_message_is_stuck_also_after_it_reads() {
        let description =
            VmDescription { name: "vm".to_owned(), pid: 1, tap_version: 1, abi: 1, instance: [0; 16] };
        let (vm, mut receiver) = Vm::new(1, description);
        for session in 0..MAX_QUEUED as u64 {
            vm.send(ToTap::Detach { session }, None);
        }
        assert!(!vm.is_stuck(), "full, but complete");
        vm.send(ToTap::Detach { session: 0 }, None);
        while receiver.try_recv().is_ok() {}
        assert!(vm.is_stuck());
    }
}
