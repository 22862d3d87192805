//! Video encoders behind one trait, and the parts of the H.264 byte stream that both programs need.
//!
//! The host-agent encodes frames that the tap read; the sidecar encodes on the local frame path. An
//! encoder takes pictures and returns one access unit for each, in order. It is independent of sessions,
//! sockets and VMs.
//!
//! | module      | content                                                                          |
//! |-------------|----------------------------------------------------------------------------------|
//! | [`encoder`] | the trait                                                                        |
//! | [`gst`]     | GStreamer's H.264 encoders: x264, OpenH264, VA-API, NVENC, Quick Sync; not on macOS |
//! | [`null`]    | a stub, for benchmarks of the path around an encoder                             |
//! | [`open`]    | selection by name, or of the best one that works                                 |
//! | [`picture`] | checks of pictures and settings before they reach an encoder                     |
//! | [`convert`] | RGB to YUV                                                                       |
//! | [`annexb`], [`sps`] | parsing of the byte stream: IDR, codec string, size                      |
//! | [`in_flight`] | frames that were submitted and have not completed                              |

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

// The only cfg site of this crate. On macOS the encoder is the crate `videotoolbox`.
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
