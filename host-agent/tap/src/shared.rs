//! State shared by the VMM's thread and the link thread: bounded queues, counters and the link's epoch.
//!
//! The epoch counts connects and disconnects of the host-agent; it is odd while one is connected. Events,
//! commands and bindings belong to one epoch and are void in the next, so a disconnect takes effect
//! without a message, even if a queue is full. All queues are lock-free and allocated in advance.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;
use frame_ring::wake::Waker;
use protocol::link::Context;

use crate::binding::{Binding, Command};
use crate::stats::Counters;

/// Capacity of the queue from the VMM's thread to the link thread.
const MAX_EVENTS: usize = 1024;
/// Capacity of the queue to the VMM's thread, which takes commands only when the guest makes a request.
const MAX_COMMANDS: usize = 256;
/// Capacity of the queue of bindings whose rings wait to be unmapped.
const MAX_RETIRED: usize = 256;

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
    events: ArrayQueue<(u64, Event)>,
    events_lost: AtomicBool,
    commands: ArrayQueue<Command>,
    retired: ArrayQueue<Box<Binding>>,
    epoch: AtomicU64,
    link_waker: Waker,
}

impl Shared {
    /// New state without a host-agent. `link_waker` wakes the link thread.
    pub fn new(link_waker: Waker) -> Self {
        Self {
            counters: Counters::default(),
            abi: AtomicU32::new(0),
            events: ArrayQueue::new(MAX_EVENTS),
            events_lost: AtomicBool::new(false),
            commands: ArrayQueue::new(MAX_COMMANDS),
            retired: ArrayQueue::new(MAX_RETIRED),
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

    /// VMM's thread: queues an event of `epoch`. Returns false if the queue is full; then the link thread
    /// reconnects, because the host-agent's knowledge of the VM is incomplete.
    pub fn send_event(&self, epoch: u64, event: Event) -> bool {
        let queued = self.events.push((epoch, event)).is_ok();
        if !queued {
            self.events_lost.store(true, Ordering::Release);
        }
        self.link_waker.wake();
        queued
    }

    /// VMM's thread: takes the next command.
    pub fn next_command(&self) -> Option<Command> {
        self.commands.pop()
    }

    /// VMM's thread: hands a binding that is no longer used to the link thread, which unmaps its ring and
    /// closes its socket. If the queue is full, that happens here.
    pub fn retire(&self, binding: Box<Binding>) {
        if self.retired.push(binding).is_ok() {
            self.link_waker.wake();
        }
    }

    /// Link thread: a host-agent is connected. Returns the new epoch.
    pub fn connect(&self) -> u64 {
        if let Some(epoch) = self.connected() {
            return epoch;
        }
        self.events_lost.store(false, Ordering::Release);
        self.epoch.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Link thread: the host-agent disconnected.
    pub fn disconnect(&self) {
        if self.connected().is_some() {
            self.epoch.fetch_add(1, Ordering::AcqRel);
        }
        while self.commands.pop().is_some() {}
        self.unmap_retired();
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

    /// Link thread: true if an event was lost since [`Shared::connect`].
    pub fn lost_events(&self) -> bool {
        self.events_lost.load(Ordering::Acquire)
    }

    /// Link thread: queues a command for the VMM's thread. Returns false if the queue is full.
    pub fn send_command(&self, command: Command) -> bool {
        self.commands.push(command).is_ok()
    }

    /// Link thread: unmaps the rings of retired bindings.
    pub fn unmap_retired(&self) {
        while let Some(binding) = self.retired.pop() {
            drop(binding);
        }
    }
}
