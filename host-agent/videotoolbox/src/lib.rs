//! Apple's VideoToolbox as an [`Encoder`](encode::Encoder).
//!
//! ```text
//!   submit ─▶ encoder ───────────▶ api::Session::encode ─▶ VideoToolbox
//!   sink ◀── completion_queue ◀── api::Deliver ◀────────── its threads
//! ```
//!
//! | module               | content                                                              |
//! |----------------------|----------------------------------------------------------------------|
//! | [`api`]              | the used part of VideoToolbox as traits                              |
//! | [`encoder`]          | creation, configuration and replacement of sessions                  |
//! | [`completion_queue`] | pictures in flight: matching of callbacks, order, failures           |
//! | [`avcc`]             | length-prefixed NAL units to Annex B                                 |
//! | [`admission`]        | limits on the load of a Mac's encoder                                |
//! | [`registry`]         | handles for C instead of pointers, so that a late callback is safe   |
//! | `sys`                | VideoToolbox itself                                                  |
//! | `simulator`          | an implementation of [`api`] for tests, with faults on request       |
//!
//! Everything except `sys/macos.rs` runs and is tested on any system.

#![cfg_attr(
    target_os = "macos",
    expect(unsafe_code, reason = "VideoToolbox is a C API; confined to sys/macos.rs")
)]

pub mod admission;
pub mod api;
pub mod avcc;
pub mod completion_queue;
pub mod encoder;
pub mod registry;
#[cfg(feature = "simulator")]
pub mod simulator;
mod sync;
mod sys;

use std::sync::{Arc, OnceLock};

use encode::{EncodeError, Settings, Sink};

pub use admission::{Admission, Limits};
pub use encoder::VideoToolbox;

/// Name of the encoder.
pub const NAME: &str = "videotoolbox";

/// Opens an encoder.
///
/// # Errors
/// [`EncodeError::Unavailable`] on systems other than macOS; otherwise as [`VideoToolbox::new`].
pub fn open(settings: Settings, sink: Sink) -> Result<VideoToolbox, EncodeError> {
    static ADMISSION: OnceLock<Arc<Admission>> = OnceLock::new();
    let admission = ADMISSION.get_or_init(|| Arc::new(Admission::new(Limits::default())));
    VideoToolbox::new(sys::api()?, admission, settings, sink)
}
