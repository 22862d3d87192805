//! The tap: a library preloaded into an unmodified VMM that reads virglrenderer resources on behalf of
//! the guest contexts that own them.
//!
//! ```text
//!  VMM's GPU thread                                          link thread
//!  ffi ──> hook ──> vmm ──> access ──> reader ──> ring slot   link <──socket──> host-agent
//!           │        └─ tables, mailbox page                   │
//!           │                └────────── shared (bounded queues, counters) ───┘
//!           └─ catches panics, checks the thread, disables the tap
//! ```
//!
//! [`ffi`] interposes the virglrenderer functions that create, attach, write and destroy resources and
//! contexts: it calls the original function and then records the event in [`vmm`]. A sidecar in the
//! guest writes a request to its mailbox; [`vmm`] checks it against the recorded state ([`access`]),
//! reads the frame into the session's ring and answers. The [`link`] thread talks to the host-agent and
//! never calls virglrenderer.
//!
//! Invariants, for any guest and any host-agent:
//! - no panic reaches the VMM, and no call crashes it;
//! - the VMM's thread never waits for another thread or process: it shares no lock, and its system calls
//!   are the clock and nonblocking sends of one byte; it neither maps nor unmaps rings ([`binding`]);
//! - one tenant cannot use up what others need: memory is bounded by the limits in [`tables`], [`shared`]
//!   and [`link`], per context where contexts share it, and the VMM's time by [`budget`];
//! - a fault of one session is answered to the host-agent and leaves the link and other sessions as they
//!   are;
//! - nothing is written to the VMM's output unless [`log::VARIABLE`] is set.
//!
//! Unsafe code is confined to [`ffi`], [`original`], [`memory`] and [`sys`].

#![expect(
    unsafe_code,
    reason = "interposes a C library in a foreign process; confined to ffi, original, memory and sys"
)]

pub mod abi;
pub mod access;
pub mod binding;
pub mod budget;
mod ffi;
pub mod histogram;
pub mod hook;
pub mod link;
pub mod log;
pub mod memory;
mod original;
pub mod reader;
pub mod settings;
pub mod shared;
pub mod stats;
pub mod sys;
pub mod tables;
pub mod vmm;

/// Tap version, sent in the link's hello and in every mailbox answer.
pub const VERSION: u16 = 1;
