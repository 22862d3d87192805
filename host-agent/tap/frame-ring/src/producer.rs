//! The tap's end: never waits, never allocates, overwrites what nobody took.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use crate::RingError;
use crate::clock::monotonic_ns;
use crate::layout::{LOST, State, Word};
use crate::memory::Mapping;
use crate::meta::Meta;

/// Writes pictures. There is one per ring.
#[derive(Debug)]
pub struct Producer {
    mapping: Mapping,
    /// Number of the next picture; what the words in shared memory say is only compared with.
    next_ticket: u64,
    overwritten: u64,
}

impl Producer {
    /// Maps a ring that a peer made and has every page of it present. Checks the peer's numbers
    /// against the memory's real size and our limits; the mapping can't lose pages later.
    #[expect(clippy::needless_pass_by_value, reason = "the mapping takes the descriptor's place")]
    pub fn map(fd: OwnedFd) -> Result<Self, RingError> {
        let mapping = Mapping::map_foreign(&fd, true)?;
        Ok(Self { mapping, next_ticket: 1, overwritten: 0 })
    }

    /// Room of one slot in bytes.
    pub fn slot_bytes(&self) -> usize {
        self.mapping.layout().slot_bytes
    }

    /// Bytes of memory that this ring takes.
    pub fn total_bytes(&self) -> usize {
        self.mapping.layout().total_bytes()
    }

    /// Pictures that were overwritten before anyone took them.
    pub fn dropped(&self) -> u64 {
        self.overwritten
    }

    /// Takes a slot: a free one, else the one with the oldest picture that nobody took. `None` only if
    /// the consumer broke its promise not to hold more than its share.
    pub fn claim(&mut self) -> Option<SlotWriter<'_>> {
        let slots = self.mapping.layout().slots;
        // Each failed swap means that the consumer took or freed that very picture meanwhile.
        for _ in 0..=2 * slots {
            let descriptors = &self.mapping.header().descriptors[..slots];
            let words = descriptors.iter().map(super::layout::Descriptor::load).enumerate();
            let (slot, word) = words
                .filter(|(_, word)| matches!(word.state, State::Free | State::Full))
                .min_by_key(|(_, word)| (word.state == State::Full, word.ticket))?;
            let ticket = self.next_ticket;
            if !descriptors[slot].swap(word, Word { ticket, state: State::Writing }) {
                continue;
            }
            if word.state == State::Full {
                self.count_overwritten(slot);
            }
            self.next_ticket += 1;
            return Some(SlotWriter { producer: self, slot, ticket });
        }
        None
    }

    /// Tells the consumer which picture it will never see. Its description is still in the slot.
    fn count_overwritten(&mut self, slot: usize) {
        let header = self.mapping.header();
        let seq = header.descriptors[slot].meta.seq();
        let at = self.overwritten % LOST as u64;
        header.lost[at as usize].store(seq, Ordering::Relaxed);
        self.overwritten += 1;
        header.overwritten.store(self.overwritten, Ordering::Release);
    }
}

/// A slot being written. Dropped unpublished, it is free again.
#[derive(Debug)]
pub struct SlotWriter<'a> {
    producer: &'a mut Producer,
    slot: usize,
    ticket: u64,
}

impl SlotWriter<'_> {
    /// The slot's bytes; they hold whatever was there before.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `slot` came from the layout's descriptors and is in state Writing, which only this
        // writer leaves (publish and drop take or end it).
        unsafe { self.producer.mapping.slot_mut(self.slot) }
    }

    /// Makes the picture visible, stamped with the time. A description that the consumer would refuse
    /// frees the slot instead and gives `false`.
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
