//! The shared-memory frame ring between tap and host-agent.
//!
//! The host-agent makes a [`Ring`] and keeps its [`Consumer`]; the descriptor goes over the link to the
//! tap, which maps it as a [`Producer`]. The producer never waits: it claims a free slot, or overwrites
//! the oldest frame that was not taken. The consumer takes the newest frame and frees the older ones.
//!
//! ```text
//!            claim                publish            take_newest
//!   FREE ------------> WRITING ------------> FULL ------------> READING
//!    ^                   |  ^                 | |                  |
//!    |    writer dropped |  |  claim, no FREE | | a newer frame    | slot dropped
//!    +-------------------+  +-----------------+ | was taken        |
//!    +------------------------------------------+                  |
//!    +-------------------------------------------------------------+
//! ```
//!
//! A slot's state and its frame's ticket share one atomic word, so a compare-and-swap cannot confuse two
//! frames (see [`layout`]). With [`SLOTS`] slots the consumer may hold [`MAX_HELD`] frames while it looks
//! for a newer one, and the producer still finds a slot.
//!
//! Trust: both ends run as the same user and trust each other with the pixels, but not with numbers.
//! Every number read from shared memory is checked before use, and the memory cannot shrink, so a
//! mapping cannot fault.

#![expect(
    unsafe_code,
    reason = "maps memory that another process maps too; confined to memory.rs and its two call sites"
)]

pub mod clock;
pub mod consumer;
pub mod layout;
mod memory;
pub mod meta;
pub mod producer;
mod sys;
pub mod wake;

pub use consumer::{Consumer, Slot};
pub use layout::{MAX_HELD, MAX_SLOTS, MIN_SLOTS, SLOTS};
pub use meta::Meta;
pub use producer::{Producer, SlotWriter};

use std::os::fd::OwnedFd;

/// A ring could not be made or mapped.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// A system call failed.
    #[error("failed to {step} the ring's memory: {source}; raise the process's memory and descriptor limits")]
    System {
        /// The failed step, an infinitive.
        step: &'static str,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A size is out of range.
    #[error("{what} is {got}, but must be between {min} and {max}")]
    Size {
        /// The size's name.
        what: &'static str,
        /// The value.
        got: u64,
        /// Smallest allowed value.
        min: u64,
        /// Largest allowed value.
        max: u64,
    },
    /// The descriptor does not hold a ring of this version.
    #[error("not a frame ring of this version: {0}; install tap and host-agent of the same release")]
    NotARing(&'static str),
}

/// Makes rings.
#[derive(Debug)]
pub struct Ring;

impl Ring {
    /// Makes a ring of `slots` slots ([`MIN_SLOTS`] to [`MAX_SLOTS`]) of `slot_bytes` bytes each (1 to
    /// [`layout::MAX_SLOT_BYTES`]). Returns its consumer, and the descriptor that a [`Producer`] maps.
    ///
    /// # Errors
    /// If a size is out of range, or the memory cannot be allocated or mapped.
    pub fn create(slots: usize, slot_bytes: usize) -> Result<(Consumer, OwnedFd), RingError> {
        let layout = layout::Layout::new(slots, slot_bytes)?;
        let fd = sys::create(layout.total_bytes() as u64)?;
        let mapping = memory::Mapping::map(&fd, layout, false)?;
        mapping.header().initialise(layout);
        Ok((Consumer::new(mapping), fd))
    }
}
