//! Video encoders behind one trait, and what both programs need of the H.264 byte stream.
//!
//! host-agent encodes what the tap read; the sidecar encodes on rung `Local`. An encoder takes pictures
//! and gives access units, one for one, in order. It knows nothing of sessions, sockets or VMs.
//!
//! | module      | what                                                                      |
//! |-------------|---------------------------------------------------------------------------|
//! | [`encoder`] | the trait                                                                 |
//! | [`null`]    | no encoder at all, for benchmarks of everything around it                 |
//! | [`gst`]     | every H.264 encoder that GStreamer has: x264, OpenH264, VA-API, NVENC, …; none on a Mac |
//! | [`open`]    | choosing one by name, or the best that works here                         |
//! | [`convert`] | RGB to YUV, the one place that knows matrix and range                     |
//! | [`annexb`], [`sps`] | reading the byte stream back: IDR or not, codec string, size      |

#![forbid(unsafe_code)]

pub mod annexb;
pub mod clock;
pub mod convert;
pub mod encoder;
pub mod in_flight;
pub mod null;
pub mod open;
pub mod picture;
pub mod sps;

// The only cfg site of this crate: a Mac has VideoToolbox, which is no crate of GStreamer's.
#[cfg(target_os = "macos")]
pub mod absent;
#[cfg(target_os = "macos")]
pub use absent as gst;
#[cfg(not(target_os = "macos"))]
pub mod gst;

pub use annexb::{codec_string, is_idr};
pub use encoder::{Codec, EncodeError, Encoder, Output, Picture, PixelFormat, Settings, Sink};
pub use in_flight::InFlight;
pub use open::{Choice, Found, available, open};
