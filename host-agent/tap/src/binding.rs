//! The binding of a context to a host-agent session, shared by the VMM's thread and the link thread.
//!
//! ```text
//!   link thread:   map ──> attachment ──queue──> ...        revoked? take the ring, unmap it
//!   VMM's thread:                   bind to context ──> borrow the ring, write, give it back
//! ```
//!
//! The link thread maps rings and alone unmaps them: it keeps every [`Attachment`] until it has taken the
//! ring out. Mapping and unmapping take milliseconds, which the VMM's thread must not spend. A revoked
//! attachment lends its ring no more, so detaching takes effect at once, also while the VM makes no
//! requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use crossbeam_queue::ArrayQueue;
use frame_ring::Producer;
use frame_ring::wake::Waker;
use protocol::link::Context;

/// Bytes of mapped rings, with a limit.
#[derive(Debug)]
pub struct Account {
    limit: u64,
    used: AtomicU64,
}

impl Account {
    /// An empty account of at most `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicU64::new(0) })
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Charges `bytes` until the charge is dropped; `None` if they exceed the limit.
    pub fn charge(self: &Arc<Self>, bytes: u64) -> Option<Charge> {
        let add = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).ok()?;
        Some(Charge { account: Arc::clone(self), bytes })
    }
}

/// Bytes that an account is charged with.
#[derive(Debug)]
pub struct Charge {
    account: Arc<Account>,
    bytes: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A session's mapped ring.
#[derive(Debug)]
pub struct Ring {
    // Dropped in this order: the bytes count until the memory is unmapped.
    /// The writing end.
    pub producer: Producer,
    /// Wakes the host-agent when a slot is full.
    pub waker: Waker,
    /// The ring's bytes.
    pub charge: Charge,
}

/// Result of [`Attachment::unmap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmapped {
    /// The ring is unmapped.
    Yes,
    /// The VMM's thread is using the ring; it wakes the link thread afterwards.
    InUse,
}

/// A session of the host-agent with its ring, for one context.
#[derive(Debug)]
pub struct Attachment {
    /// Session number, chosen by the host-agent.
    pub session: u64,
    /// Link epoch in which the session was attached; the attachment is void in any other.
    pub epoch: u64,
    /// The context whose frames the session gets.
    pub context: Context,
    revoked: AtomicBool,
    /// The ring while it is not lent; a queue of one as a lock-free place.
    ring: ArrayQueue<Box<Ring>>,
}

impl Attachment {
    /// An attachment that lends `ring`.
    pub fn new(session: u64, epoch: u64, context: Context, ring: Ring) -> Arc<Self> {
        let place = ArrayQueue::new(1);
        // The place is empty, so the ring fits.
        let _fits = place.push(Box::new(ring));
        Arc::new(Self { session, epoch, context, revoked: AtomicBool::new(false), ring: place })
    }

    /// Any thread: ends the attachment.
    pub fn revoke(&self) {
        self.revoked.store(true, Ordering::SeqCst);
    }

    /// Any thread: true if the attachment ended.
    pub fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::SeqCst)
    }

    /// VMM's thread: borrows the ring; `None` if the attachment ended. `link` is woken if the attachment
    /// ends meanwhile.
    pub fn lend<'a>(&'a self, link: &'a Waker) -> Option<Lent<'a>> {
        if self.is_revoked() {
            return None;
        }
        let ring = Some(self.ring.pop()?);
        Some(Lent { attachment: self, link, ring })
    }

    /// Link thread: unmaps the ring of an attachment that was revoked before.
    pub fn unmap(&self) -> Unmapped {
        // With the fence in `Lent::drop`: either the ring is back in its place by now, or the VMM's thread
        // sees that the attachment was revoked.
        fence(Ordering::SeqCst);
        if self.ring.pop().is_some() { Unmapped::Yes } else { Unmapped::InUse }
    }
}

/// A ring in use by the VMM's thread; given back when dropped.
#[derive(Debug)]
pub struct Lent<'a> {
    attachment: &'a Attachment,
    link: &'a Waker,
    ring: Option<Box<Ring>>,
}

impl Lent<'_> {
    /// The ring; `Some` until the drop.
    pub fn ring(&mut self) -> Option<&mut Ring> {
        self.ring.as_deref_mut()
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(ring) = self.ring.take() {
            let _fits = self.attachment.ring.push(ring);
        }
        fence(Ordering::SeqCst);
        if self.attachment.is_revoked() {
            self.link.wake();
        }
    }
}
