//! Where a context's pictures go: a session's ring and its bell.

use protocol::link::Context;
use frame_ring::Producer;
use frame_ring::doorbell::Bell;

/// A session of the host-agent's, bound to a context.
#[derive(Debug)]
pub struct Binding {
    /// The host-agent's number.
    pub session: u64,
    /// The link epoch in which it was made; ends with that.
    pub epoch: u64,
    /// Its ring, mapped and present.
    pub producer: Producer,
    /// Rung when a slot is full.
    pub bell: Bell,
}

/// What the link thread tells the VMM's thread.
#[derive(Debug)]
pub enum Command {
    /// Pictures of this context go there. Boxed: it travels through a queue of fixed slots.
    Attach(Context, Box<Binding>),
    /// The session is over.
    Detach {
        /// The link epoch in which it was said.
        epoch: u64,
        /// The host-agent's number.
        session: u64,
    },
}
