//! wlr-screencopy source: a wlroots compositor (sway, labwc, cage, …) copies its output into the sidecar's buffers.
//!
//! ```text
//! capture_output ─▶ buffer (shm offer), linux_dmabuf (offer), buffer_done ─▶ buffers of that kind and size
//!      ▲                                                                          │
//!      └── frame delivered, buffer leased ◀── damage…, flags, ready ◀── copy_with_damage
//! ```
//!
//! On virgl a DMA-BUF must have exactly the offered fourcc (another one is a protocol error) and modifier INVALID.
//! A compositor without a `linux_dmabuf` offer renders without the GPU. The first copy uses `copy`, which returns at
//! once; later copies use `copy_with_damage`, which waits for a change of the screen.

mod buffers;
mod cycle;
mod globals;
mod session;
mod sizing;

use crate::CaptureOptions;
use crate::error::CaptureError;
use crate::source_context::SourceContext;

pub use session::Session;

/// Connects to the first compositor that supports screencopy.
pub fn find(options: &CaptureOptions, context: &SourceContext) -> Result<Session, CaptureError> {
    let sockets = desktop_session::wayland_sockets(&options.runtime_dir, options.wayland_display.as_deref());
    let mut first_error = None;
    for socket in sockets {
        match Session::connect(&socket, options, context) {
            Ok(session) => return Ok(session),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or_else(|| CaptureError::NoWaylandSocket(options.runtime_dir.clone())))
}
