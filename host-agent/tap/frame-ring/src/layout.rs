//! Layout of the shared memory, on which both ends must agree.
//!
//! | offset                         | size             | content                                      |
//! |--------------------------------|------------------|----------------------------------------------|
//! | 0                              | [`HEADER_BYTES`] | [`Header`]: identity, counters, descriptors  |
//! | 16 KiB + `i` * slot stride     | slot size        | pixels of slot `i`                           |
//!
//! The slot stride is the slot size rounded up to 16 KiB, the largest page size of the supported systems
//! (arm64 Macs).
//!
//! A descriptor's word is `ticket << 2 | state`. The producer counts tickets up with every claim; they
//! order the frames, because the sequence numbers beside them come from a guest and are not trusted. A
//! ticket is never reused, so a compare-and-swap of the word fails if the slot holds another frame by
//! then.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::RingError;
use crate::meta::RawMeta;

/// Number of slots in the host-agent's rings.
pub const SLOTS: usize = 4;
/// Smallest number of slots: one being read, one being written, one full.
pub const MIN_SLOTS: usize = 3;
/// Largest number of slots: the header has this many descriptors.
pub const MAX_SLOTS: usize = 8;
/// Number of frames that a consumer of [`SLOTS`] slots may hold at once.
pub const MAX_HELD: usize = held_limit(SLOTS);
/// Size of the header in bytes.
pub const HEADER_BYTES: usize = 4096;
/// Alignment of slots in bytes.
const SLOT_ALIGN: usize = 16 << 10;
/// Largest slot in bytes: a frame of the protocol's largest size.
pub const MAX_SLOT_BYTES: usize =
    4 * (protocol::pixel::MAX_SIDE as usize) * (protocol::pixel::MAX_SIDE as usize);
/// Magic number: `DSRG`.
const MAGIC: u32 = u32::from_le_bytes(*b"DSRG");
const VERSION: u32 = 1;
/// Number of overwritten frames whose sequence numbers are kept for the consumer.
pub(crate) const OVERWRITTEN_LOG: usize = 32;

/// Number of frames that a consumer may hold while the producer still finds a slot: one slot is being
/// written and one may be full.
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

/// An unpacked descriptor word.
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

/// Description of one slot. Aligned so that no two share a cache line, also where lines are prefetched in
/// pairs.
#[repr(C, align(128))]
pub(crate) struct Descriptor {
    word: AtomicU64,
    pub(crate) meta: RawMeta,
}

impl Descriptor {
    /// Loads the word, and acquires what was written before it was stored.
    pub(crate) fn load(&self) -> Word {
        Word::unpack(self.word.load(Ordering::Acquire))
    }

    /// Moves from `from` to `to`; false if the word is not `from` any more.
    pub(crate) fn swap(&self, from: Word, to: Word) -> bool {
        self.word.compare_exchange(from.pack(), to.pack(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Leaves a state that only the caller may leave, and releases what was written before.
    pub(crate) fn store(&self, to: Word) {
        self.word.store(to.pack(), Ordering::Release);
    }
}

/// The header page. All fields are atomics: the other process may change any of them at any time.
#[repr(C)]
pub(crate) struct Header {
    magic: AtomicU32,
    version: AtomicU32,
    slots: AtomicU32,
    _reserved: AtomicU32,
    slot_bytes: AtomicU64,
    /// Number of frames that were overwritten before they were taken.
    pub(crate) overwritten: AtomicU64,
    /// Sequence numbers of the last overwritten frames; the `n`-th one is at `n % OVERWRITTEN_LOG`.
    pub(crate) overwritten_log: [AtomicU64; OVERWRITTEN_LOG],
    pub(crate) descriptors: [Descriptor; MAX_SLOTS],
}

const _: () = assert!(size_of::<Header>() <= HEADER_BYTES);

impl Header {
    /// Writes the identity into new, zeroed memory.
    pub(crate) fn initialise(&self, layout: Layout) {
        self.version.store(VERSION, Ordering::Relaxed);
        self.slots.store(layout.slots as u32, Ordering::Relaxed);
        self.slot_bytes.store(layout.slot_bytes as u64, Ordering::Relaxed);
        self.magic.store(MAGIC, Ordering::Release);
    }

    /// Reads and checks the layout. Both ends read it once: later changes in the header have no effect.
    pub(crate) fn layout(&self) -> Result<Layout, RingError> {
        if self.magic.load(Ordering::Acquire) != MAGIC {
            return Err(RingError::NotARing("the magic number differs"));
        }
        if self.version.load(Ordering::Relaxed) != VERSION {
            return Err(RingError::NotARing("the version differs"));
        }
        let slot_bytes = usize::try_from(self.slot_bytes.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
        Layout::new(self.slots.load(Ordering::Relaxed) as usize, slot_bytes)
    }
}

/// Checked sizes of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) slots: usize,
    pub(crate) slot_bytes: usize,
}

impl Layout {
    pub(crate) fn new(slots: usize, slot_bytes: usize) -> Result<Self, RingError> {
        check("number of slots", slots, MIN_SLOTS, MAX_SLOTS)?;
        check("slot size in bytes", slot_bytes, 1, MAX_SLOT_BYTES)?;
        Ok(Self { slots, slot_bytes })
    }

    /// Size of the memory in bytes; the limits keep it at most 2 GiB and a header.
    pub(crate) fn total_bytes(self) -> usize {
        self.slot_offset(self.slots)
    }

    /// Offset of a slot's pixels in bytes.
    pub(crate) fn slot_offset(self, slot: usize) -> usize {
        // The header takes a whole alignment unit, so slots stay aligned.
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
