//! The tap: preloaded into an unmodified VMM, it reads virglrenderer's resources for their owners.
//!
//! ```text
//!  VMM's GPU thread                                         link thread
//!  ffi ──> hook ──> vmm ──> judge ──> reader ──> ring slot   link <──socket──> host-agent
//!           │        └─ tables, mailbox page                  │
//!           │                └────────── shared (bounded queues, counters) ───┘
//!           └─ catches panics, checks the thread, switches the tap off
//! ```
//!
//! [`ffi`] stands in front of the virglrenderer functions that make, attach, write and destroy things,
//! calls the real one and then tells [`vmm`] what happened. A sidecar in the guest rings its mailbox;
//! [`vmm`] judges the request by what the *host* saw (see [`judge`]), reads the picture into the
//! session's ring and answers. The [`link`] thread talks to the host-agent and never touches
//! virglrenderer.
//!
//! What may not happen here, whatever the guest or the host-agent does: a crash, a panic that reaches
//! the VMM, a wait, an unbounded allocation, a word on the VMM's output that nobody asked for. The
//! unsafe code is in [`ffi`], [`real`], [`memory`] and [`sys`]; everything else is plain Rust that is
//! tested without a VM.

#![expect(
    unsafe_code,
    reason = "stands between a VMM and a C library; fenced into ffi, real, memory and sys"
)]

pub mod abi;
pub mod binding;
pub mod bucket;
mod ffi;
pub mod histogram;
pub mod hook;
pub mod judge;
pub mod link;
pub mod log;
pub mod memory;
pub mod reader;
mod real;
pub mod settings;
pub mod shared;
pub mod stats;
pub mod sys;
pub mod tables;
pub mod vmm;

/// The tap's own version, in hello and in every answer.
pub const VERSION: u16 = 1;
