//! Safe access to virtio-gpu from inside the guest: render node, DMA-BUF import, resource IDs, mailbox.
//!
//! | item          | purpose                                                                    |
//! |---------------|----------------------------------------------------------------------------|
//! | [`Device`]    | open virtio-gpu render node with 3D, or an error that names the remedy     |
//! | [`Imported`]  | imported DMA-BUF: its resource ID and, on demand, its pixels               |
//! | [`Mailbox`]   | requests to the tap, ordered with all GPU commands of this context         |
//! | [`Buffer`]    | buffer allocated here, for compositors that copy into a client's buffer    |
//! | [`SharedMap`] | shared memory, allocated here or received from a compositor                |
//!
//! **GEM handle and resource ID.** `DRM_IOCTL_PRIME_FD_TO_HANDLE` returns a *GEM handle*, a number local to one open
//! of the node and reused after close. `DRM_IOCTL_VIRTGPU_RESOURCE_INFO` maps it to the *resource ID*, the number that
//! the guest kernel and virglrenderer share. Requests to the tap carry the resource ID.
//!
//! Generic DRM ioctls come from the `drm` crate. The driver's own ioctls, memory mappings and raw descriptors are the
//! unsafe code of this crate; the other crates of the sidecar contain none of these.

#![expect(unsafe_code, reason = "virtgpu ioctls, mappings and raw descriptors, each behind a safe function")]

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
pub use shared::{SharedMap, duplicate_raw, read_shared};

/// Name of the kernel driver, as `DRM_IOCTL_VERSION` reports it.
pub const DRIVER: &str = "virtio_gpu";
