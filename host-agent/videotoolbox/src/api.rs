//! The seam: what we use of VideoToolbox. On its one side VTCompressionSession and the simulator, on the other
//! everything that we have to think about.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use encode::Codec;

/// An `OSStatus` that is not `noErr`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Status(pub i32);

impl Status {
    /// The session is gone: sleep, a GPU that was reset, an encoder service that was killed
    /// (`kVTInvalidSessionErr`).
    pub const INVALID_SESSION: Self = Self(-12903);
    /// There is no such property (`kVTPropertyNotSupportedErr`).
    pub const PROPERTY_NOT_SUPPORTED: Self = Self(-12900);
    /// No encoder for that (`kVTCouldNotFindVideoEncoderErr`).
    pub const NO_ENCODER: Self = Self(-12908);
    /// The encoder service is out of something (`kVTVideoEncoderMalfunctionErr`).
    pub const MALFUNCTION: Self = Self(-12911);
    /// The encoder is in use elsewhere (`kVTVideoEncoderNotAvailableNowErr`).
    pub const NOT_NOW: Self = Self(-12915);

    /// Whether a session that says so is of no more use.
    pub fn ends_the_session(self) -> bool {
        matches!(self, Self::INVALID_SESSION | Self::MALFUNCTION)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Self::INVALID_SESSION => " (the session was invalidated: sleep, GPU reset, or its service died)",
            Self::PROPERTY_NOT_SUPPORTED => " (no such property)",
            Self::NO_ENCODER => " (no encoder for this codec and size)",
            Self::MALFUNCTION => " (the encoder service failed)",
            Self::NOT_NOW => " (the encoder is taken)",
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

/// What a session is made for; it can't be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Even.
    pub width: u32,
    /// Even.
    pub height: u32,
    /// Codec.
    pub codec: Codec,
}

/// What a session is told, before or while it encodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Property {
    /// Encode as the pictures come.
    RealTime(bool),
    /// May access units come in another order than pictures?
    AllowFrameReordering(bool),
    /// Pictures that may be kept before the first comes out.
    MaxFrameDelayCount(i32),
    /// Pictures from keyframe to keyframe.
    MaxKeyFrameInterval(i32),
    /// High for H.264, Main for HEVC; the level follows from the size.
    Profile(Codec),
    /// Primaries, transfer function and matrix of BT.709.
    Bt709,
    /// bit/s.
    AverageBitRate(i64),
    /// Pictures per second that the rate control reckons with.
    ExpectedFrameRate(i32),
}

impl Property {
    /// Whether an encoder that lacks it is none for us. The others tune.
    pub fn is_required(self) -> bool {
        matches!(self, Self::AllowFrameReordering(_) | Self::AverageBitRate(_))
    }
}

/// A picture to encode: NV12, even sides, limited range. Its memory is held until VideoToolbox lets go of it.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Comes back with the access unit.
    pub number: u64,
    /// Presentation time, us.
    pub pts_us: u64,
    /// Force a keyframe.
    pub idr: bool,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Bytes from row to row of both planes; the second begins at `stride * height`.
    pub stride: u32,
    /// Both planes.
    pub data: Bytes,
}

/// An access unit as it comes: NAL units with lengths before them, parameter sets apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// A sync sample.
    pub keyframe: bool,
    /// Bytes of the length before each NAL unit.
    pub length_bytes: usize,
    /// The format description's, in its order.
    pub parameter_sets: Vec<Bytes>,
    /// The NAL units.
    pub data: Bytes,
}

/// What became of a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// Encoded.
    Sample(Sample),
    /// Left out by the encoder.
    Dropped,
    /// Failed.
    Failed(Status),
}

/// Where access units go, with the picture's number: on any thread, at any time, even after the session's end.
pub type Deliver = Arc<dyn Fn(u64, Delivery) + Send + Sync>;

/// Makes sessions.
pub trait Api: Send + Sync + fmt::Debug {
    /// A session that delivers there.
    fn create(&self, shape: Shape, deliver: Deliver) -> Result<Box<dyn Session>, Status>;
}

/// A compression session. Dropped, it is invalidated.
pub trait Session: Send + fmt::Debug {
    /// Sets a property.
    fn set(&mut self, property: Property) -> Result<(), Status>;
    /// Takes a picture.
    fn encode(&mut self, frame: &Frame) -> Result<(), Status>;
    /// Blocks until everything under way was delivered.
    fn complete(&mut self) -> Result<(), Status>;
}
