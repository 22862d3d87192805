//! Apple's encoder, VideoToolbox, as an [`Encoder`](encode::Encoder).
//!
//! ```text
//!   submit ─▶ encoder ─▶ api::Session::encode ─▶ VideoToolbox
//!   sink ◀── flow ◀──── api::Deliver ◀────────── its thread
//! ```
//!
//! | module        | what                                                                        |
//! |---------------|-----------------------------------------------------------------------------|
//! | [`api`]       | the seam: the few calls of VideoToolbox that we make, in our words          |
//! | [`encoder`]   | sessions made, set up, lost and made anew                                   |
//! | [`flow`]      | what is under way: matching, order, failures; where the callbacks arrive    |
//! | [`avcc`]      | lengths to start codes, parameter sets before every IDR                     |
//! | [`admission`] | how many pixels a Mac's encoder may be asked for at once                    |
//! | [`registry`]  | numbers instead of pointers for C to keep, so that no late call is a danger |
//! | `sys`         | VideoToolbox itself: the only lines that need a Mac to run                  |
//! | `simulator`   | the seam's other side for tests: x264, and it misbehaves on command         |
//!
//! Everything but `sys/macos.rs` runs and is tested on any system.

#![cfg_attr(target_os = "macos", expect(unsafe_code, reason = "VideoToolbox is C; fenced into sys/macos.rs"))]

pub mod admission;
pub mod api;
pub mod avcc;
pub mod encoder;
pub mod flow;
pub mod registry;
#[cfg(feature = "simulator")]
pub mod simulator;
mod sync;
mod sys;

use std::sync::{Arc, OnceLock};

use encode::{EncodeError, Settings, Sink};

pub use admission::{Admission, Limits};
pub use encoder::VideoToolbox;

/// What people call it.
pub const NAME: &str = "videotoolbox";

/// Makes an encoder of this Mac's; elsewhere says that there is none.
pub fn open(settings: Settings, sink: Sink) -> Result<VideoToolbox, EncodeError> {
    static ADMISSION: OnceLock<Arc<Admission>> = OnceLock::new();
    let admission = ADMISSION.get_or_init(|| Arc::new(Admission::new(Limits::default())));
    VideoToolbox::new(sys::api()?, admission, settings, sink)
}
