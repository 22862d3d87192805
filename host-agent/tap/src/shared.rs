//! State shared by the VMM's thread and the link thread: bounded queues, counters and the link's epoch.
//!
//! The epoch counts connects and disconnects of the host-agent; it is odd while one is connected. Events
//! and attachments belong to one epoch and are void in the next, so a disconnect takes effect without a
//! message, even if a queue is full. All queues are lock-free and allocated in advance.

mod expected;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crossbeam_queue::ArrayQueue;
use frame_ring::wake::Waker;
use protocol::link::{Context, MAX_RING_BYTES};

use crate::binding::{Account, Attachment, Lent};
use crate::stats::Counters;

pub use expected::{Expected, MAX_EXPECTED};

/// Largest number of sessions of one VM.
pub const MAX_SESSIONS: usize = 256;
/// Capacity of the queue from the VMM's thread to the link thread.
const MAX_EVENTS: usize = 1024;
/// Capacity of the queue to the VMM's thread, which takes attachments only when the guest makes a request.
/// Revoked ones are removed when it is full, so a session needs one place.
const MAX_ATTACHMENTS: usize = 2 * MAX_SESSIONS;

/// An event from the VMM's thread to the link thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A context requested to be bound to the session with this nonce.
    Bind {
        /// The context.
        context: Context,
        /// The context's debug name.
        name: String,
        /// The session's nonce.
        nonce: [u8; 16],
    },
    /// A context that had sent a bind was destroyed.
    Gone(Context),
}

/// The shared state.
#[derive(Debug)]
pub struct Shared {
    /// Counters since the tap was loaded.
    pub counters: Counters,
    /// `virgl_renderer_callbacks.version` of the VMM.
    pub abi: AtomicU32,
    /// Bytes of the mapped rings.
    pub ring_bytes: Arc<Account>,
    /// Number of attached sessions.
    pub sessions: AtomicUsize,
    /// Nonces of the host-agent's sessions.
    pub expected: Expected,
    events: ArrayQueue<(u64, Event)>,
    attachments: ArrayQueue<Arc<Attachment>>,
    epoch: AtomicU64,
    link_waker: Waker,
}

impl Shared {
    /// New state without a host-agent. `link_waker` wakes the link thread.
    pub fn new(link_waker: Waker) -> Self {
        Self {
            counters: Counters::default(),
            abi: AtomicU32::new(0),
            ring_bytes: Account::new(MAX_RING_BYTES),
            sessions: AtomicUsize::new(0),
            expected: Expected::default(),
            events: ArrayQueue::new(MAX_EVENTS),
            attachments: ArrayQueue::new(MAX_ATTACHMENTS),
            epoch: AtomicU64::new(0),
            link_waker,
        }
    }

    /// The epoch, if a host-agent is connected.
    pub fn connected(&self) -> Option<u64> {
        let epoch = self.epoch();
        (epoch % 2 == 1).then_some(epoch)
    }

    /// The epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// VMM's thread: queues an event of `epoch`. Returns false if the queue is full; the caller then keeps or
    /// refuses what the event reports.
    pub fn send_event(&self, epoch: u64, event: Event) -> bool {
        let queued = self.events.push((epoch, event)).is_ok();
        self.link_waker.wake();
        queued
    }

    /// VMM's thread: takes the next attachment.
    pub fn next_attachment(&self) -> Option<Arc<Attachment>> {
        self.attachments.pop()
    }

    /// VMM's thread: ends an attachment. The link thread then unmaps its ring.
    pub fn revoke(&self, attachment: &Attachment) {
        attachment.revoke();
        self.link_waker.wake();
    }

    /// VMM's thread: borrows the ring of an attachment of the current epoch.
    pub fn lend<'a>(&'a self, attachment: &'a Attachment) -> Option<Lent<'a>> {
        if self.connected() == Some(attachment.epoch) { attachment.lend(&self.link_waker) } else { None }
    }

    /// Link thread: a host-agent is connected. Returns the new epoch.
    pub fn connect(&self) -> u64 {
        if let Some(epoch) = self.connected() {
            return epoch;
        }
        self.epoch.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Link thread: the host-agent disconnected.
    pub fn disconnect(&self) {
        if self.connected().is_some() {
            self.epoch.fetch_add(1, Ordering::AcqRel);
        }
        while self.attachments.pop().is_some() {}
        self.expected.clear();
    }

    /// Link thread: takes the next event of `epoch`.
    pub fn next_event(&self, epoch: u64) -> Option<Event> {
        loop {
            let (of, event) = self.events.pop()?;
            if of == epoch {
                return Some(event);
            }
        }
    }

    /// Link thread: queues an attachment for the VMM's thread. If the queue is full, revoked attachments
    /// are removed from it; the others keep their order. Returns false if that frees no place.
    pub fn send_attachment(&self, attachment: Arc<Attachment>) -> bool {
        let Err(attachment) = self.attachments.push(attachment) else { return true };
        let mut waiting = Vec::with_capacity(MAX_ATTACHMENTS);
        while let Some(other) = self.attachments.pop() {
            waiting.push(other);
        }
        waiting.retain(|other| !other.is_revoked());
        waiting.push(attachment);
        waiting.into_iter().all(|waiting| self.attachments.push(waiting).is_ok())
    }
}
