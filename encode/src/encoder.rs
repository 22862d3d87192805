//! The encoder trait and its types.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

/// Memory layout of a picture, as in the wire formats.
pub use protocol::PixelFormat;
/// Video codec, as in the wire formats.
pub use protocol::stream::Codec;

/// Longest time that an encoder may take for one picture. Software encoders need some 100 ms at 4K; one
/// that takes longer than this hangs.
pub const ENCODE_TIMEOUT: Duration = Duration::from_secs(5);

/// A picture to encode. `data` may be a ring slot or a compositor's buffer, which is released with the
/// last clone of it.
#[derive(Debug, Clone)]
pub struct Picture {
    /// Memory layout.
    pub format: PixelFormat,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Distance between rows in bytes. For NV12 it is that of both planes, and the second plane begins at
    /// `stride * height`.
    pub stride: u32,
    /// Whole rows, including the padding of the last one; may be longer.
    pub data: Bytes,
}

/// Encoder settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Video codec.
    pub codec: Codec,
    /// Bit rate, kbit/s.
    pub bitrate_kbps: u32,
    /// Frame rate limit, frames per second; rate control assumes this rate.
    pub max_fps: u32,
    /// Longest time between keyframes, ms; 0: on request only.
    pub keyframe_ms: u32,
}

/// An access unit.
#[derive(Debug, Clone)]
pub struct Output {
    /// Ticket that was passed to [`Encoder::submit`].
    pub ticket: u64,
    /// The picture is an IDR, preceded by its parameter sets.
    pub idr: bool,
    /// Annex B byte stream.
    pub data: Bytes,
}

/// Receives access units, and errors of single pictures with their tickets. Called on any thread.
pub type Sink = Box<dyn Fn(Result<Output, (u64, EncodeError)>) + Send + Sync>;

/// An encoder could not be opened, or a picture not be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The encoder is not installed; the text names the package to install.
    #[error("encoder not available: {0}")]
    Unavailable(String),
    /// The encoder does not support the settings.
    #[error("not supported by the encoder: {0}")]
    Unsupported(String),
    /// The picture contradicts the settings or itself. The encoder still works.
    #[error("invalid picture: {0}")]
    BadPicture(&'static str),
    /// The encoder failed and must be replaced.
    #[error("the encoder failed: {0}")]
    Broken(String),
}

/// A video encoder. It passes one access unit per picture to its [`Sink`], in order.
pub trait Encoder: Send + fmt::Debug {
    /// Name for people, such as `x264enc`.
    fn name(&self) -> &str;

    /// Encodes `picture`, as an IDR if `idr` is set. The access unit is given to the sink with the same
    /// `ticket`, before or after this function returns. `pts_us` must rise from picture to picture. The
    /// encoder keeps a clone of `picture.data` until it has read it.
    ///
    /// # Errors
    /// [`EncodeError::BadPicture`] has no effect on later pictures; after any other error the encoder must
    /// be replaced.
    fn submit(&mut self, picture: &Picture, ticket: u64, pts_us: u64, idr: bool) -> Result<(), EncodeError>;

    /// Changes the rate limits for later pictures, without an IDR if the encoder supports that.
    ///
    /// # Errors
    /// [`EncodeError::Unsupported`] if a limit is out of range; the limits stay unchanged.
    fn set_rate(&mut self, bitrate_kbps: u32, max_fps: u32) -> Result<(), EncodeError>;
}
