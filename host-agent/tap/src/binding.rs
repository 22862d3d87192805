//! The binding of a context to a host-agent session, and the commands that change it.

use frame_ring::Producer;
use frame_ring::wake::Waker;
use protocol::link::Context;

/// A host-agent session that is bound to a context.
#[derive(Debug)]
pub struct Binding {
    /// Session number, chosen by the host-agent.
    pub session: u64,
    /// Link epoch in which the session was attached; the binding is void in any other.
    pub epoch: u64,
    /// The session's ring.
    pub producer: Producer,
    /// Wakes the host-agent when a slot is full.
    pub waker: Waker,
}

/// A command from the link thread to the VMM's thread. A binding stays in its box from here until the
/// link thread gets it back ([`Shared::retire`](crate::shared::Shared::retire)).
#[derive(Debug)]
pub enum Command {
    /// Bind the session to the context.
    Attach(Context, Box<Binding>),
    /// Unbind the session.
    Detach {
        /// Link epoch in which the command was received.
        epoch: u64,
        /// Session number.
        session: u64,
    },
}
