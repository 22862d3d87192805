//! The shared-memory ring of pictures between tap and host-agent.
//!
//! The host-agent makes a [`Ring`] and keeps its [`Consumer`]; the descriptor goes over the link to the
//! tap, which maps it as a [`Producer`]. The producer never waits: it takes a free slot, or overwrites
//! the oldest picture that nobody took. The consumer takes the newest picture and frees the older ones.
//!
//! ```text
//!            claim                publish              newest
//!   FREE ------------> WRITING ------------> FULL ------------> READING
//!    ^                   |  ^                 | |                  |
//!    |    writer dropped |  |  claim, no FREE | | newest took a    | slot dropped
//!    +-------------------+  +-----------------+ | younger one      |
//!    +------------------------------------------+                  |
//!    +-------------------------------------------------------------+
//! ```
//!
//! A slot's state and the number of its picture are one atomic word, so that nobody takes a picture for
//! another one (see [`layout`]). With [`SLOTS`] slots the consumer may hold [`MAX_HELD`] pictures while
//! it looks for a newer one, and the producer still always finds a slot.
//!
//! This crate does not know what a VM, a session or an encoder is. Both ends run as the same user and
//! trust each other with the pixels, but not with sizes: every number that comes out of shared memory is
//! checked before it is used, and the memory is sealed against shrinking, so a mapping can't fault.

#![expect(
    unsafe_code,
    reason = "maps memory that another process maps too; all of it is in memory.rs and its callers' two lines"
)]

pub mod clock;
pub mod consumer;
pub mod doorbell;
pub mod layout;
mod memory;
pub mod meta;
pub mod producer;
mod sys;

pub use consumer::{Consumer, Slot};
pub use layout::{MAX_HELD, MAX_SLOTS, MIN_SLOTS, SLOTS};
pub use meta::Meta;
pub use producer::{Producer, SlotWriter};

use std::os::fd::OwnedFd;

/// Why a ring could not be made or mapped.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The operating system refused; the text names the step.
    #[error("can't {step} the ring's memory: {source}; check the process's memory and descriptor limits")]
    System {
        /// What was tried.
        step: &'static str,
        /// What it said.
        source: std::io::Error,
    },
    /// A size is outside what a ring can have.
    #[error("{what} is {got}, it must be {min} to {max}")]
    Size {
        /// Which size.
        what: &'static str,
        /// What it is.
        got: u64,
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// The descriptor is no ring of this version; both programs must be of the same release.
    #[error("not a ring of this version: {0}; run tap and host-agent of the same release")]
    NotARing(&'static str),
}

/// Namespace for making a ring.
#[derive(Debug)]
pub struct Ring;

impl Ring {
    /// Makes a ring of `slots` slots with room for `slot_bytes` bytes each, and the descriptor that a
    /// [`Producer`] maps.
    pub fn create(slots: usize, slot_bytes: usize) -> Result<(Consumer, OwnedFd), RingError> {
        let layout = layout::Layout::new(slots, slot_bytes)?;
        let fd = sys::create(layout.total_bytes() as u64)?;
        let mapping = memory::Mapping::map(&fd, layout, false)?;
        mapping.header().initialise(layout);
        Ok((Consumer::new(mapping), fd))
    }
}
