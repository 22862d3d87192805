//! What the tap counts. The VMM's thread adds, the link thread reads; nobody waits.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use protocol::link;
use protocol::mailbox::Status;

use crate::histogram::Histogram;

/// Counters since the tap was loaded.
#[derive(Debug, Default)]
pub struct Counters {
    answers: [AtomicU64; Status::ALL.len()],
    request_bytes: AtomicU64,
    picture_bytes: AtomicU64,
    faults: AtomicU64,
    /// Calls on a thread that is not the VMM's GPU thread; ignored.
    pub foreign_calls: AtomicU64,
    disabled: AtomicBool,
    /// Contexts alive.
    pub contexts: AtomicU32,
    /// Resources alive.
    pub resources: AtomicU32,
    /// The tap's time per frame that was read, mailbox look-up to answer written.
    pub entry: Histogram,
    /// The reader's share of that.
    pub read: Histogram,
}

impl Counters {
    /// A request was answered.
    pub fn answered(&self, status: Status) {
        self.answers[status as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A request came over a mailbox.
    pub fn requested(&self, bytes: usize) {
        self.request_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A picture was read.
    pub fn read(&self, bytes: usize, ns: u64) {
        self.picture_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.read.record(ns);
    }

    /// A panic was caught; gives how many there were.
    pub fn fault(&self) -> u64 {
        self.faults.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Whether the tap has switched itself off.
    pub fn is_disabled(&self) -> bool {
        self.disabled.load(Ordering::Relaxed)
    }

    /// Switches the tap off; there is no way back.
    pub fn disable(&self) {
        self.disabled.store(true, Ordering::Relaxed);
    }

    /// All of it, for the host-agent.
    pub fn snapshot(&self) -> link::Stats {
        link::Stats {
            answers: self.answers.each_ref().map(|answers| answers.load(Ordering::Relaxed)),
            request_bytes: self.request_bytes.load(Ordering::Relaxed),
            picture_bytes: self.picture_bytes.load(Ordering::Relaxed),
            faults: self.faults.load(Ordering::Relaxed),
            disabled: self.is_disabled().into(),
            contexts: self.contexts.load(Ordering::Relaxed),
            resources: self.resources.load(Ordering::Relaxed),
            entry: self.entry.quantiles(),
            read: self.read.quantiles(),
        }
    }
}
