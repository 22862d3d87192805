//! Safe wrappers for the parts of libpipewire that the `pipewire` crate exposes as raw pointers.
//!
//! - [`StreamBuffers`] keeps a stream's buffers beyond the callback that dequeued them.
//! - [`context`] makes a PipeWire context without a configuration file.
//! - [`survive_truncation`] keeps a daemon that truncates shared memory from ending the process.
//!
//! All unsafe code for PipeWire is in this crate.

mod context;
mod shared_mappings;
mod stage;
mod stream_buffers;
mod truncation;

pub use context::{ContextError, context};
pub use stage::{CORE, Stage};
pub use stream_buffers::cursor::{
    CursorBitmap, CursorFormat, CursorMeta, CursorShape, MAX_CURSOR_SIDE, cursor_meta_size,
};
pub use stream_buffers::{BufferInfo, BufferListener, BufferOrigin, FilledBuffer, MemoryKind, StreamBuffers};
pub use truncation::{survive_truncation, truncated_pages};
