//! The used part of the VideoToolbox API as traits, with two implementations: `VTCompressionSession`
//! (`sys/macos.rs`) and the simulator.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use encode::Codec;

/// An `OSStatus` that is not `noErr`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Status(pub i32);

impl Status {
    /// The session was invalidated by sleep, a GPU reset or the end of the encoder service
    /// (`kVTInvalidSessionErr`).
    pub const INVALID_SESSION: Self = Self(-12903);
    /// The property does not exist (`kVTPropertyNotSupportedErr`).
    pub const PROPERTY_NOT_SUPPORTED: Self = Self(-12900);
    /// No encoder supports codec and size (`kVTCouldNotFindVideoEncoderErr`).
    pub const NO_ENCODER: Self = Self(-12908);
    /// The encoder service failed (`kVTVideoEncoderMalfunctionErr`).
    pub const MALFUNCTION: Self = Self(-12911);
    /// The encoder is in use elsewhere (`kVTVideoEncoderNotAvailableNowErr`).
    pub const NOT_NOW: Self = Self(-12915);

    /// True if the session is unusable after this status.
    pub fn ends_the_session(self) -> bool {
        matches!(self, Self::INVALID_SESSION | Self::MALFUNCTION)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Self::INVALID_SESSION => {
                " (the session was invalidated by sleep, a GPU reset or the end of the encoder service)"
            }
            Self::PROPERTY_NOT_SUPPORTED => " (property not supported)",
            Self::NO_ENCODER => " (no encoder for this codec and size)",
            Self::MALFUNCTION => " (the encoder service failed)",
            Self::NOT_NOW => " (the encoder is in use)",
            _ => "",
        };
        write!(f, "VideoToolbox status {}{name}", self.0)
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Fixed parameters of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Width in pixels, even.
    pub width: u32,
    /// Height in pixels, even.
    pub height: u32,
    /// Video codec.
    pub codec: Codec,
}

/// A property of a session, set before or while it encodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Property {
    /// Encode in real time.
    RealTime(bool),
    /// Access units may have another order than pictures.
    AllowFrameReordering(bool),
    /// Largest number of pictures that are delayed before the first access unit.
    MaxFrameDelayCount(i32),
    /// Largest number of pictures between keyframes.
    MaxKeyFrameInterval(i32),
    /// Profile: High for H.264, Main for HEVC; the level follows from the size.
    Profile(Codec),
    /// BT.709 colour primaries, transfer function and matrix.
    Bt709,
    /// Average bit rate, bit/s.
    AverageBitRate(i64),
    /// Pictures per second that rate control assumes.
    ExpectedFrameRate(i32),
}

impl Property {
    /// True if an encoder without this property cannot be used. The other properties tune.
    pub fn is_required(self) -> bool {
        matches!(self, Self::AllowFrameReordering(_) | Self::AverageBitRate(_))
    }
}

/// A picture to encode: NV12, even sides, limited range. VideoToolbox releases its memory.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Number that the callback for this picture has.
    pub number: u64,
    /// Presentation time, us.
    pub pts_us: u64,
    /// Encode as a keyframe.
    pub idr: bool,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Distance between rows of both planes in bytes; the second plane begins at `stride * height`.
    pub stride: u32,
    /// Y plane, then CbCr plane.
    pub data: Bytes,
}

/// An access unit in AVCC/HVCC format: NAL units with length prefixes, and parameter sets apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// It is a sync sample.
    pub keyframe: bool,
    /// Size of the length prefixes in bytes.
    pub length_bytes: usize,
    /// Parameter sets of the format description, in its order.
    pub parameter_sets: Vec<Bytes>,
    /// NAL units with length prefixes.
    pub data: Bytes,
}

/// Result of a picture in a callback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// Encoded to an access unit.
    Sample(Sample),
    /// Skipped by the encoder.
    Dropped,
    /// Failed with this status.
    Failed(Status),
}

/// Callback with a picture's number and result. Called on any thread and at any time, even after the end of
/// the session.
pub type Deliver = Arc<dyn Fn(u64, Delivery) + Send + Sync>;

/// Creates compression sessions.
pub trait Api: Send + Sync + fmt::Debug {
    /// Creates a session whose results are passed to `deliver`.
    ///
    /// # Errors
    /// VideoToolbox's status.
    fn create(&self, shape: Shape, deliver: Deliver) -> Result<Box<dyn Session>, Status>;
}

/// A compression session; invalidated when dropped. All functions fail with VideoToolbox's status.
pub trait Session: Send + fmt::Debug {
    /// Sets a property.
    fn set(&mut self, property: Property) -> Result<(), Status>;
    /// Submits a picture.
    fn encode(&mut self, frame: &Frame) -> Result<(), Status>;
    /// Blocks until all pictures in flight were delivered.
    fn complete(&mut self) -> Result<(), Status>;
}
