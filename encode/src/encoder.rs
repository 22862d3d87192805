//! The encoder trait.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

/// A picture's memory layout, as the wire names it.
pub use protocol::PixelFormat;
/// The codec, as the wire names it.
pub use protocol::stream::Codec;

/// How long an encoder may take for one picture: a thousand times what a slow one needs at 4K.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A picture to encode. Its memory may belong to a ring slot or a compositor: whoever holds the last
/// clone of `data` holds the slot.
#[derive(Debug, Clone)]
pub struct Picture {
    /// Layout.
    pub format: PixelFormat,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Bytes from row to row; for NV12 of both planes, and the second plane begins at `stride * height`.
    pub stride: u32,
    /// The pixels: whole rows, the last one's padding included; may be longer.
    pub data: Bytes,
}

/// What to make of the pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Codec.
    pub codec: Codec,
    /// Bit rate, kbit/s.
    pub bitrate_kbps: u32,
    /// Frame rate that the rate control should expect.
    pub max_fps: u32,
    /// Longest time between keyframes, ms; 0 means only on demand.
    pub keyframe_ms: u32,
}

/// One access unit.
#[derive(Debug, Clone)]
pub struct Output {
    /// The number given to [`Encoder::submit`].
    pub ticket: u64,
    /// An IDR, with its parameter sets before it.
    pub idr: bool,
    /// Annex B bytes.
    pub data: Bytes,
}

/// Takes access units, and failures of single pictures, on any thread.
pub type Sink = Box<dyn Fn(Result<Output, (u64, EncodeError)>) + Send + Sync>;

/// Why an encoder can't.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// No encoder of that kind on this machine; the text names what to install.
    #[error("no encoder: {0}")]
    Unavailable(String),
    /// The settings are beyond what it can do.
    #[error("the encoder can't do this: {0}")]
    Unsupported(String),
    /// The picture contradicts the settings or itself.
    #[error("bad picture: {0}")]
    BadPicture(&'static str),
    /// The encoder broke; make a new one.
    #[error("the encoder failed: {0}")]
    Broken(String),
}

/// Takes pictures, gives one access unit for each to its [`Sink`], in order.
pub trait Encoder: Send + fmt::Debug {
    /// What people call it, e.g. `x264enc`.
    fn name(&self) -> &str;

    /// Encodes `picture`; the access unit goes to the sink with the same `ticket`, before or after this
    /// returns. `pts_us` rises strictly. With `idr` it is an IDR. Holds on to `picture.data` until the
    /// encoder has read it.
    fn submit(&mut self, picture: &Picture, ticket: u64, pts_us: u64, idr: bool) -> Result<(), EncodeError>;

    /// New rate limits for what comes next, without an IDR where the encoder can.
    fn set_rate(&mut self, bitrate_kbps: u32, max_fps: u32) -> Result<(), EncodeError>;
}
