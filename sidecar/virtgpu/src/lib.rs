//! virtio-gpu from the guest: a thin, safe layer over the kernel's `<drm/virtgpu_drm.h>`.
//!
//! | item          | what it is for                                                            |
//! |---------------|---------------------------------------------------------------------------|
//! | [`Device`]    | an open render node that is virtio-gpu with 3D, or an error with a remedy |
//! | [`Imported`]  | a DMA-BUF of someone else's, its resource ID, and its pixels if need be   |
//! | [`Mailbox`]   | the page through which the tap is asked, in order with GPU commands       |
//! | [`Buffer`]    | a buffer of our own, for compositors that copy into what a client brings  |
//! | [`SharedMap`] | shared memory: made here, or lent by a compositor                         |
//!
//! **GEM handle and resource ID.** `PRIME_FD_TO_HANDLE` yields a *GEM handle*: a number that only this
//! open of the node knows, handed out from 1 and reused. `RESOURCE_INFO` turns it into the *resource ID*:
//! the number under which guest kernel and virglrenderer both know the buffer. Only the latter means
//! something to the tap; two opens of the node have different handles for one resource.
//!
//! This crate is the fence for unsafe code on the sidecar's side: every ioctl, mapping and raw descriptor
//! is here. It does not know what a desktop, a compositor or a stream is.

#![expect(unsafe_code, reason = "the fence: ioctls, mappings and raw descriptors, each in a thin wrapper")]

mod allocate;
mod device;
mod gem;
mod import;
mod mailbox;
mod map;
mod pacer;
mod shared;
mod sys;
mod uapi;

pub use allocate::Buffer;
pub use device::{Device, OpenError, Params};
pub use import::Imported;
pub use mailbox::{CallError, Mailbox, Ticket};
pub use shared::{SharedMap, duplicate_raw};

/// The kernel driver that this crate speaks to.
pub const DRIVER: &str = "virtio_gpu";
