//! The tap's end: never waits, never allocates, and overwrites the oldest frame that was not taken.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use crate::RingError;
use crate::clock::monotonic_ns;
use crate::layout::{Descriptor, OVERWRITTEN_LOG, State, Word};
use crate::memory::Mapping;
use crate::meta::Meta;

/// Writes frames into a ring; one per ring.
#[derive(Debug)]
pub struct Producer {
    mapping: Mapping,
    /// Ticket of the next claim. Kept here, because the words in shared memory are not trusted.
    next_ticket: u64,
    overwritten: u64,
}

impl Producer {
    /// Maps a ring that a peer made, with all pages present.
    ///
    /// # Errors
    /// If the memory is not a ring of this version, has not the size in its header, could shrink, or
    /// cannot be mapped.
    #[expect(clippy::needless_pass_by_value, reason = "the mapping replaces the descriptor")]
    pub fn map(fd: OwnedFd) -> Result<Self, RingError> {
        let mapping = Mapping::map_foreign(&fd, true)?;
        Ok(Self { mapping, next_ticket: 1, overwritten: 0 })
    }

    /// Size of one slot in bytes.
    pub fn slot_bytes(&self) -> usize {
        self.mapping.layout().slot_bytes
    }

    /// Number of frames that were overwritten before they were taken.
    pub fn overwritten(&self) -> u64 {
        self.overwritten
    }

    /// Claims a free slot, else the full slot with the oldest frame. `None` only if the consumer holds
    /// more slots than [`held_limit`](crate::layout::held_limit) allows.
    pub fn claim(&mut self) -> Option<SlotWriter<'_>> {
        let slots = self.mapping.layout().slots;
        // A failed swap means that the consumer took or freed that slot meanwhile; the bound stops a
        // consumer that keeps doing so.
        for _ in 0..=2 * slots {
            let descriptors = &self.mapping.header().descriptors[..slots];
            let words = descriptors.iter().map(Descriptor::load).enumerate();
            let (slot, word) = words
                .filter(|(_, word)| matches!(word.state, State::Free | State::Full))
                .min_by_key(|(_, word)| (word.state == State::Full, word.ticket))?;
            let ticket = self.next_ticket;
            if !descriptors[slot].swap(word, Word { ticket, state: State::Writing }) {
                continue;
            }
            if word.state == State::Full {
                self.log_overwritten(slot);
            }
            self.next_ticket += 1;
            return Some(SlotWriter { producer: self, slot, ticket });
        }
        None
    }

    /// Logs for the consumer which frame it will not see; its metadata is still in the slot.
    fn log_overwritten(&mut self, slot: usize) {
        let header = self.mapping.header();
        let seq = header.descriptors[slot].meta.seq();
        let at = self.overwritten % OVERWRITTEN_LOG as u64;
        header.overwritten_log[at as usize].store(seq, Ordering::Relaxed);
        self.overwritten += 1;
        header.overwritten.store(self.overwritten, Ordering::Release);
    }
}

/// A claimed slot. Dropping it without publishing frees the slot.
#[derive(Debug)]
pub struct SlotWriter<'a> {
    producer: &'a mut Producer,
    slot: usize,
    ticket: u64,
}

impl SlotWriter<'_> {
    /// The slot's bytes, with the content of an earlier frame.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `slot` is less than the layout's number of slots (`Producer::claim` enumerates
        // `descriptors[..slots]`). The slot is in state Writing since `claim` swapped it; only `publish`
        // and `drop` leave that state, and the returned reference borrows `self`.
        unsafe { self.producer.mapping.slot_mut(self.slot) }
    }

    /// Publishes the frame, stamped with the current time. If the metadata is invalid or larger than the
    /// slot, frees the slot instead and returns false.
    pub fn publish(self, meta: Meta) -> bool {
        if meta.bytes().is_none_or(|bytes| bytes > self.producer.slot_bytes()) {
            return false;
        }
        let descriptor = &self.producer.mapping.header().descriptors[self.slot];
        descriptor.meta.write(&Meta { full_at_ns: monotonic_ns(), ..meta });
        descriptor.store(Word { ticket: self.ticket, state: State::Full });
        std::mem::forget(self);
        true
    }
}

impl Drop for SlotWriter<'_> {
    fn drop(&mut self) {
        let descriptor = &self.producer.mapping.header().descriptors[self.slot];
        descriptor.store(Word { ticket: self.ticket, state: State::Free });
    }
}
