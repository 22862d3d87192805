//! The host-agent's end: takes the newest frame and lists the frames that it skipped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::layout::{Descriptor, OVERWRITTEN_LOG, State, Word, held_limit};
use crate::memory::Mapping;
use crate::meta::Meta;

/// Takes frames out of a ring; one per ring.
#[derive(Debug)]
pub struct Consumer {
    shared: Arc<Shared>,
    /// Number of overwritten frames that were already reported.
    overwritten_seen: u64,
    invalid: u64,
}

/// State that slots keep alive.
#[derive(Debug)]
struct Shared {
    mapping: Mapping,
    held: AtomicUsize,
}

impl Consumer {
    pub(crate) fn new(mapping: Mapping) -> Self {
        let shared = Arc::new(Shared { mapping, held: AtomicUsize::new(0) });
        Self { shared, overwritten_seen: 0, invalid: 0 }
    }

    /// Takes the newest full slot and frees the older ones; [`Slot::dropped`] lists their frames. `None`
    /// if no slot is full, or if the caller holds as many slots as [`held_limit`] allows.
    pub fn newest(&mut self) -> Option<Slot> {
        let shared = &self.shared;
        let slots = shared.mapping.layout().slots;
        if shared.held.load(Ordering::Acquire) >= held_limit(slots) {
            return None;
        }
        let descriptors = &shared.mapping.header().descriptors[..slots];
        // Another round is needed if the producer overwrote the frame meanwhile or the frame is invalid.
        // A correct producer causes one or two; the bound stops one that is not.
        for _ in 0..=2 * slots {
            let full = |(_, word): &(usize, Word)| word.state == State::Full;
            let words = descriptors.iter().map(Descriptor::load).enumerate();
            let (slot, word) = words.filter(full).max_by_key(|(_, word)| word.ticket)?;
            let descriptor = &descriptors[slot];
            if !descriptor.swap(word, word.with(State::Reading)) {
                continue;
            }
            let meta = descriptor.meta.read();
            let bytes = meta
                .and_then(|meta| meta.bytes())
                .filter(|bytes| *bytes <= shared.mapping.layout().slot_bytes);
            let (Some(meta), Some(bytes)) = (meta, bytes) else {
                self.invalid += 1;
                descriptor.store(word.with(State::Free));
                continue;
            };
            shared.held.fetch_add(1, Ordering::AcqRel);
            let mut dropped = overwritten(shared, &mut self.overwritten_seen);
            free_older(descriptors, word.ticket, &mut dropped);
            return Some(Slot { shared: Arc::clone(shared), index: slot, word, meta, bytes, dropped });
        }
        None
    }

    /// Size of one slot in bytes.
    pub fn slot_bytes(&self) -> usize {
        self.shared.mapping.layout().slot_bytes
    }

    /// Number of slots with invalid metadata; not zero means that the producer is broken.
    pub fn invalid(&self) -> u64 {
        self.invalid
    }
}

/// Sequence numbers of the frames that the producer overwrote since the last call: at most the last
/// [`OVERWRITTEN_LOG`].
fn overwritten(shared: &Shared, seen: &mut u64) -> Vec<u64> {
    let header = shared.mapping.header();
    let now = header.overwritten.load(Ordering::Acquire);
    let new = now.saturating_sub(*seen).min(OVERWRITTEN_LOG as u64);
    *seen = now;
    (0..new)
        .rev()
        .map(|back| {
            let at = now.wrapping_sub(back + 1) % OVERWRITTEN_LOG as u64;
            header.overwritten_log[at as usize].load(Ordering::Relaxed)
        })
        .collect()
}

/// Frees the full slots older than `ticket`, oldest first.
fn free_older(descriptors: &[Descriptor], ticket: u64, dropped: &mut Vec<u64>) {
    let mut older: Vec<_> = descriptors
        .iter()
        .map(|descriptor| (descriptor, descriptor.load()))
        .filter(|(_, word)| word.state == State::Full && word.ticket < ticket)
        .collect();
    older.sort_unstable_by_key(|(_, word)| word.ticket);
    for (descriptor, word) in older {
        let seq = descriptor.meta.seq();
        // If the swap fails, the producer overwrote the frame first and logged it.
        if descriptor.swap(word, word.with(State::Free)) {
            dropped.push(seq);
        }
    }
}

/// A frame that was taken; dropping it frees its slot. Suits `Bytes::from_owner`.
#[derive(Debug)]
pub struct Slot {
    shared: Arc<Shared>,
    index: usize,
    word: Word,
    meta: Meta,
    bytes: usize,
    dropped: Vec<u64>,
}

impl Slot {
    /// The frame's metadata; checked against the slot's size.
    pub fn meta(&self) -> Meta {
        self.meta
    }

    /// Sequence numbers of the frames that this one superseded, oldest first: overwritten by the
    /// producer, or full and older when this one was taken.
    pub fn dropped(&self) -> &[u64] {
        &self.dropped
    }

    /// The producer's ticket; rises from frame to frame.
    pub fn ticket(&self) -> u64 {
        self.word.ticket
    }
}

impl AsRef<[u8]> for Slot {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `index` is less than the layout's number of slots (`Consumer::newest` enumerates
        // `descriptors[..slots]`). The slot is in state Reading since `Consumer::newest` swapped it; only
        // `Slot::drop` leaves that state, and the returned reference borrows `self`.
        let all = unsafe { self.shared.mapping.slot(self.index) };
        all.get(..self.bytes).unwrap_or(all)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.mapping.header().descriptors[self.index].store(self.word.with(State::Free));
        self.shared.held.fetch_sub(1, Ordering::AcqRel);
    }
}
