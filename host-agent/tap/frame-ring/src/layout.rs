//! Where things lie in the shared memory: the only place that both ends must agree on.
//!
//! | offset                          | size            | what                                  |
//! |---------------------------------|-----------------|---------------------------------------|
//! | 0                               | [`HEADER_BYTES`]| [`Header`]: identity, descriptors     |
//! | `HEADER_BYTES + i * slot room`  | slot's bytes    | picture of slot `i`, page-aligned     |
//!
//! A descriptor's `word` holds `ticket << 2 | state`. Tickets are the producer's own count of published
//! pictures; they order the pictures, because the sequence numbers beside them come from a guest and
//! may be anything. As a ticket is never used twice, a compare-and-swap on the word hits exactly the
//! picture that was looked at.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::RingError;
use crate::meta::RawMeta;

/// Slots of a ring as host-agent makes it.
pub const SLOTS: usize = 4;
/// Fewest slots: one being read, one being written, one full.
pub const MIN_SLOTS: usize = 3;
/// Most slots: what the header has descriptors for.
pub const MAX_SLOTS: usize = 8;
/// Pictures that a consumer of [`SLOTS`] slots may hold at once.
pub const MAX_HELD: usize = held_limit(SLOTS);
/// Bytes of the header.
pub const HEADER_BYTES: usize = 4096;
/// Slots begin at multiples of this: the largest page of the systems we run on (16 KiB on arm64 Macs).
const SLOT_ALIGN: usize = 16 << 10;
/// Largest slot: the largest picture of the protocol.
pub const MAX_SLOT_BYTES: usize =
    4 * (protocol::pixel::MAX_SIDE as usize) * (protocol::pixel::MAX_SIDE as usize);
/// `DSRG`.
const MAGIC: u32 = u32::from_le_bytes(*b"DSRG");
const VERSION: u32 = 1;
/// Overwritten pictures whose sequence numbers are kept for the consumer.
pub(crate) const LOST: usize = 32;

/// Pictures that a consumer may hold while the producer still finds a slot: one is being written and
/// one may be full and about to be taken.
pub const fn held_limit(slots: usize) -> usize {
    slots - 2
}

/// State of a slot: the low two bits of its word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Free,
    Writing,
    Full,
    Reading,
}

/// A descriptor's word, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) ticket: u64,
    pub(crate) state: State,
}

impl Word {
    pub(crate) fn pack(self) -> u64 {
        let state = match self.state {
            State::Free => 0,
            State::Writing => 1,
            State::Full => 2,
            State::Reading => 3,
        };
        self.ticket << 2 | state
    }

    pub(crate) fn unpack(word: u64) -> Self {
        let state = match word & 3 {
            0 => State::Free,
            1 => State::Writing,
            2 => State::Full,
            _ => State::Reading,
        };
        Self { ticket: word >> 2, state }
    }

    pub(crate) fn with(self, state: State) -> Self {
        Self { state, ..self }
    }
}

/// What is known of one slot; alone on its cache lines.
#[repr(C, align(128))]
pub(crate) struct Descriptor {
    word: AtomicU64,
    pub(crate) meta: RawMeta,
}

impl Descriptor {
    /// The word, with everything that was written before it was stored.
    pub(crate) fn load(&self) -> Word {
        Word::unpack(self.word.load(Ordering::Acquire))
    }

    /// Moves from `from` to `to` if nobody was faster.
    pub(crate) fn swap(&self, from: Word, to: Word) -> bool {
        self.word.compare_exchange(from.pack(), to.pack(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Leaves a state that only the caller may leave.
    pub(crate) fn store(&self, to: Word) {
        self.word.store(to.pack(), Ordering::Release);
    }
}

/// The first page of the memory. All atomics: the other process may change any of it at any time.
#[repr(C)]
pub(crate) struct Header {
    magic: AtomicU32,
    version: AtomicU32,
    slots: AtomicU32,
    _reserved: AtomicU32,
    slot_bytes: AtomicU64,
    /// Pictures overwritten before they were taken.
    pub(crate) overwritten: AtomicU64,
    /// Their sequence numbers; entry `n % LOST` is of the `n`-th.
    pub(crate) lost: [AtomicU64; LOST],
    pub(crate) descriptors: [Descriptor; MAX_SLOTS],
}

const _: () = assert!(size_of::<Header>() <= HEADER_BYTES);

impl Header {
    /// Writes the identity into fresh, zeroed memory.
    pub(crate) fn initialise(&self, layout: Layout) {
        self.version.store(VERSION, Ordering::Relaxed);
        self.slots.store(layout.slots as u32, Ordering::Relaxed);
        self.slot_bytes.store(layout.slot_bytes as u64, Ordering::Relaxed);
        self.magic.store(MAGIC, Ordering::Release);
    }

    /// The layout that this header names, if it is one of ours. Read once: what it says later is ignored.
    pub(crate) fn layout(&self) -> Result<Layout, RingError> {
        if self.magic.load(Ordering::Acquire) != MAGIC {
            return Err(RingError::NotARing("wrong magic"));
        }
        if self.version.load(Ordering::Relaxed) != VERSION {
            return Err(RingError::NotARing("another version"));
        }
        let slot_bytes = usize::try_from(self.slot_bytes.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
        Layout::new(self.slots.load(Ordering::Relaxed) as usize, slot_bytes)
    }
}

/// A checked pair of sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) slots: usize,
    pub(crate) slot_bytes: usize,
}

impl Layout {
    pub(crate) fn new(slots: usize, slot_bytes: usize) -> Result<Self, RingError> {
        check("number of slots", slots, MIN_SLOTS, MAX_SLOTS)?;
        check("bytes per slot", slot_bytes, 1, MAX_SLOT_BYTES)?;
        Ok(Self { slots, slot_bytes })
    }

    /// Bytes of the whole; at most 2 GiB and a header by the limits above.
    pub(crate) fn total_bytes(self) -> usize {
        self.slot_at(self.slots)
    }

    /// Where a slot's picture begins.
    pub(crate) fn slot_at(self, slot: usize) -> usize {
        // The header's room is a whole alignment too, so that slots stay aligned.
        SLOT_ALIGN + slot * self.slot_bytes.next_multiple_of(SLOT_ALIGN)
    }
}

const _: () = assert!(HEADER_BYTES <= SLOT_ALIGN);

fn check(what: &'static str, got: usize, min: usize, max: usize) -> Result<(), RingError> {
    if (min..=max).contains(&got) {
        Ok(())
    } else {
        Err(RingError::Size { what, got: got as u64, min: min as u64, max: max as u64 })
    }
}
