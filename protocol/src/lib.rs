//! Wire formats between processes and VMs.
//!
//! | module      | between                                         | transport                                    |
//! |-------------|-------------------------------------------------|----------------------------------------------|
//! | [`stream`]  | sidecar and host-agent                          | TCP, Unix socket or vsock                    |
//! | [`mailbox`] | sidecar and tap                                 | a 4 KiB virtio-gpu resource of the guest     |
//! | [`link`]    | tap and host-agent                              | a Unix socket on the host, with descriptors  |
//! | [`hxfr`]    | `vsockenc` of the predecessor and host-agent    | TCP or Unix socket                           |
//!
//! [`frame`] has the framing of the stream protocols, [`wire`] reads and writes fields, [`pixel`] has the
//! types that all formats share, and [`rate`] limits how fast a peer may send.
//!
//! All integers are little-endian. A length from a peer is checked against a named limit before memory is
//! allocated for it. This crate does no IO and has no unsafe code.

#![forbid(unsafe_code)]

pub mod frame;
pub mod hxfr;
pub mod link;
pub mod mailbox;
pub mod pixel;
pub mod rate;
pub mod stream;
pub mod wire;

pub use pixel::{PixelFormat, Rect};
pub use wire::DecodeError;
