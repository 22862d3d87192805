//! The wire formats of desktopstream: what crosses a process or VM boundary, and nothing else.
//!
//! | module      | between                     | carried by                                   |
//! |-------------|-----------------------------|----------------------------------------------|
//! | [`stream`]  | sidecar and host-agent      | TCP, Unix socket or vsock                    |
//! | [`mailbox`] | sidecar and tap             | a 4 KiB virtio-gpu resource of the sidecar's |
//! | [`link`]    | tap and host-agent          | a Unix socket on the host, with descriptors  |
//! | [`hxfr`]    | the predecessor's `vsockenc` and host-agent | TCP or Unix socket           |
//!
//! All integers are little-endian. Every length that a peer sends is checked against a named limit
//! before anything is allocated for it. This crate does no IO, has no unsafe code and does not know
//! who speaks or why: it turns bytes into values and back.

#![forbid(unsafe_code)]


// Until every user names `contract`.
pub use contract::endpoint;
pub mod frame;
pub mod hxfr;
pub mod link;
pub mod mailbox;
pub mod pixel;
pub mod rate;
pub mod stream;
pub mod wire;

pub use contract::Endpoint;
pub use pixel::{PixelFormat, Rect};
pub use wire::DecodeError;
