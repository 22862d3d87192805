//! The tap's counters. The VMM's thread writes and the link thread reads them; all are atomics, without
//! locks.

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
    /// Calls on threads other than the VMM's GPU thread, which are ignored.
    pub foreign_calls: AtomicU64,
    disabled: AtomicBool,
    /// Existing contexts.
    pub contexts: AtomicU32,
    /// Existing resources.
    pub resources: AtomicU32,
    /// Time on the VMM's thread per frame read, from mailbox look-up to answer, ns.
    pub entry: Histogram,
    /// Time of the reader alone, ns.
    pub read: Histogram,
}

impl Counters {
    /// Counts an answer.
    pub fn answered(&self, status: Status) {
        self.answers[status as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request's bytes.
    pub fn requested(&self, bytes: usize) {
        self.request_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts a frame that was read.
    pub fn read(&self, bytes: usize, ns: u64) {
        self.picture_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.read.record(ns);
    }

    /// Counts a caught panic; returns their number so far.
    pub fn fault(&self) -> u64 {
        self.faults.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// True if the tap is disabled.
    pub fn is_disabled(&self) -> bool {
        self.disabled.load(Ordering::Relaxed)
    }

    /// Disables the tap until the VMM restarts.
    pub fn disable(&self) {
        self.disabled.store(true, Ordering::Relaxed);
    }

    /// A snapshot for the link's stats message.
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
