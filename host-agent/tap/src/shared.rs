//! What the VMM's thread and the link thread share: bounded queues, counters, and the link's epoch.
//!
//! The epoch counts connects and disconnects: odd while a host-agent is there. Everything said over the
//! link belongs to one epoch and is void in the next, so a disconnect needs no message to take effect,
//! and a full queue can't keep it from doing so.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;
use protocol::link::Context;
use frame_ring::Producer;
use frame_ring::doorbell::Bell;

use crate::binding::Command;
use crate::stats::Counters;

/// Things that happened on the VMM's thread and wait for the link thread.
const EVENTS: usize = 1024;
/// Commands that wait for the VMM's thread, which may be idle for long.
const COMMANDS: usize = 256;
/// Rings that wait to be unmapped.
const RETIRED: usize = 256;

/// What the VMM's thread tells the link thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A context rang with a nonce.
    Bind {
        /// Which.
        context: Context,
        /// Its debug name.
        name: String,
        /// The nonce.
        nonce: [u8; 16],
    },
    /// A context that had rung is gone.
    Gone(Context),
}

/// The shared part.
#[derive(Debug)]
pub struct Shared {
    /// Counters.
    pub counters: Counters,
    /// `virgl_renderer_callbacks.version` of the VMM.
    pub abi: AtomicU32,
    events: ArrayQueue<(u64, Event)>,
    events_lost: AtomicBool,
    commands: ArrayQueue<Command>,
    retired: ArrayQueue<Producer>,
    epoch: AtomicU64,
    wake: Bell,
}

impl Shared {
    /// `wake` is rung when the link thread has something to do.
    pub fn new(wake: Bell) -> Self {
        Self {
            counters: Counters::default(),
            abi: AtomicU32::new(0),
            events: ArrayQueue::new(EVENTS),
            events_lost: AtomicBool::new(false),
            commands: ArrayQueue::new(COMMANDS),
            retired: ArrayQueue::new(RETIRED),
            epoch: AtomicU64::new(0),
            wake,
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

    /// VMM's thread: something happened in `epoch`. `false` if the queue is full; then the link thread
    /// will start over, because the host-agent no longer knows all it must.
    pub fn tell(&self, epoch: u64, event: Event) -> bool {
        let told = self.events.push((epoch, event)).is_ok();
        if !told {
            self.events_lost.store(true, Ordering::Release);
        }
        self.wake.ring();
        told
    }

    /// VMM's thread: the next command.
    pub fn command(&self) -> Option<Command> {
        self.commands.pop()
    }

    /// VMM's thread: a ring that is no longer written. Unmapping takes time that the VMM has not got;
    /// only with hundreds of rings waiting it is done here.
    pub fn retire(&self, producer: Producer) {
        if self.retired.push(producer).is_ok() {
            self.wake.ring();
        }
    }

    /// Link thread: a host-agent is there; gives the new epoch.
    pub fn up(&self) -> u64 {
        if let Some(epoch) = self.connected() {
            return epoch;
        }
        self.events_lost.store(false, Ordering::Release);
        self.epoch.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Link thread: the host-agent is gone, and with it everything that it said.
    pub fn down(&self) {
        if self.connected().is_some() {
            self.epoch.fetch_add(1, Ordering::AcqRel);
        }
        while self.commands.pop().is_some() {}
        self.unmap_retired();
    }

    /// Link thread: the next event of `epoch`.
    pub fn event(&self, epoch: u64) -> Option<Event> {
        loop {
            let (of, event) = self.events.pop()?;
            if of == epoch {
                return Some(event);
            }
        }
    }

    /// Link thread: whether an event was lost since the link came up.
    pub fn lost_events(&self) -> bool {
        self.events_lost.load(Ordering::Acquire)
    }

    /// Link thread: a command for the VMM's thread. `false` if too many wait.
    pub fn send(&self, command: Command) -> bool {
        self.commands.push(command).is_ok()
    }

    /// Link thread: unmaps what the VMM's thread no longer needs.
    pub fn unmap_retired(&self) {
        while let Some(producer) = self.retired.pop() {
            drop(producer);
        }
    }
}
