//! The stream connection between sidecar and host-agent. [`frame`](crate::frame) framing.
//!
//! The sidecar speaks first. Types below 0x80 go to the host-agent, the others to the sidecar.
//!
//! | type | message            | payload                                                                     |
//! |------|--------------------|-----------------------------------------------------------------------------|
//! | 0x01 | `Hello`            | magic `DSST` 4, lowest version 2, highest 2, token text, client text         |
//! | 0x02 | `Configure`        | [`Config`]: width 2, height 2, fourcc 4, max fps 2, bitrate kbit/s 4, keyframe interval ms 4, codec 1, path 1 |
//! | 0x03 | `Pixels`           | seq 8, capture time 8, fourcc 4, width 2, height 2, n 1, n rectangles of 4 x 2, then the rectangles' pixels, tightly packed, in order |
//! | 0x04 | `RequestKeyframe`  | nothing                                                                     |
//! | 0x05 | `SetRate`          | bitrate kbit/s 4, max fps 2                                                 |
//! | 0x06 | `Ping`             | token 8                                                                     |
//! | 0x07 | `Bye`              | nothing                                                                     |
//! | 0x81 | `HelloAck`         | magic `DSST` 4, version 2, session 8, nonce 16, taps 2, most pixels 4, server text |
//! | 0x82 | `Bound`            | context 4, tap version 2, VM text                                           |
//! | 0x83 | `Unbound`          | reason text                                                                 |
//! | 0x84 | `Configured`       | encoder text                                                                |
//! | 0x85 | `AccessUnit`       | seq 8, capture time 8, flags 1, queue us 4, encode us 4, then Annex B        |
//! | 0x86 | `Dropped`          | seq 8                                                                       |
//! | 0x87 | `Error`            | code 2, message text                                                        |
//! | 0x88 | `Pong`             | token 8                                                                     |
//!
//! Texts are a u16 length and UTF-8. `capture time` is the guest's `CLOCK_MONOTONIC` in ns; the
//! host-agent only repeats it.

mod client;
mod pixels;
mod server;

use bytes::Bytes;

use crate::frame::message;
use crate::pixel::{MAX_SIDE, PixelFormat, Rect};
use crate::wire::{DecodeError, Reader};

/// `DSST`.
pub const MAGIC: u32 = u32::from_le_bytes(*b"DSST");
/// The version spoken here.
pub const VERSION: u16 = 1;
/// A client whose name begins so looks at a stream that another one carries. A newer session replaces the older one of its
/// stream; a doctor's only a doctor's, so that looking disturbs nobody.
pub const DOCTOR: &str = "desktopstream doctor";
/// Longest token: a JWT with generous claims.
pub const MAX_TOKEN: usize = 4096;
/// Longest other text.
pub const MAX_TEXT: usize = 256;
/// Most rectangles in one `Pixels`.
pub const MAX_RECTS: usize = 16;
/// Highest frame rate that can be asked for.
pub const MAX_FPS: u16 = 240;
/// Longest access unit: an IDR of a noisy 8K picture is smaller.
pub const MAX_ACCESS_UNIT: u32 = 16 << 20;
/// Longest message without pixels.
const MAX_CONTROL: u32 = 8 << 10;
/// Longest `Pixels` for a picture of `MAX_SIDE` squared in four bytes a pixel.
const MAX_PIXELS: u32 = 4 * MAX_SIDE * MAX_SIDE + MAX_CONTROL;
/// Bytes of a `Pixels` before its rectangles.
const PIXELS_FIXED: usize = 25;
/// Bytes of a rectangle.
const RECT_BYTES: usize = 8;

/// How pictures reach the host-agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Path {
    /// By mailbox and tap.
    ResourceId,
    /// By `Pixels` messages.
    Pixels,
}

/// Which video codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// H.264 / AVC.
    H264,
    /// H.265 / HEVC.
    Hevc,
}

/// What the sidecar wants encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Width in pixels, 1 to [`MAX_SIDE`].
    pub width: u16,
    /// Height in pixels, 1 to [`MAX_SIDE`].
    pub height: u16,
    /// Layout of the source.
    pub format: PixelFormat,
    /// Highest frame rate, 1 to [`MAX_FPS`].
    pub max_fps: u16,
    /// Bit rate, kbit/s.
    pub bitrate_kbps: u32,
    /// Longest time between keyframes, ms; 0 means only on demand.
    pub keyframe_ms: u32,
    /// Codec.
    pub codec: Codec,
    /// How pictures come.
    pub path: Path,
}

/// Pixels that were pushed: the changed rectangles of one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pixels {
    /// Frame number.
    pub seq: u64,
    /// Capture time, ns.
    pub capture_ns: u64,
    /// Layout of `data`; for NV12 every rectangle has even edges, or ends at the picture's edge.
    pub format: PixelFormat,
    /// Picture width.
    pub width: u16,
    /// Picture height.
    pub height: u16,
    /// What changed; never empty, at most [`MAX_RECTS`].
    pub rects: Vec<Rect>,
    /// The rectangles' pixels, tightly packed, one after the other.
    pub data: Bytes,
}

/// From sidecar to host-agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientMessage {
    /// First message.
    Hello {
        /// Lowest version spoken.
        min: u16,
        /// Highest version spoken.
        max: u16,
        /// The signed token.
        token: String,
        /// Program and version, for logs; but see [`DOCTOR`].
        client: String,
    },
    /// What to encode; may come again when size or path change.
    Configure(Config),
    /// A frame by rung `Pixels`.
    Pixels(Pixels),
    /// The next access unit must be an IDR.
    RequestKeyframe,
    /// New rate limits.
    SetRate {
        /// Bit rate, kbit/s.
        bitrate_kbps: u32,
        /// Highest frame rate, 1 to [`MAX_FPS`].
        max_fps: u16,
    },
    /// Asks for a [`ServerMessage::Pong`].
    Ping(u64),
    /// Orderly end.
    Bye,
}

/// One encoded picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessUnit {
    /// The frame it shows. A repeat has the number of the frame it repeats.
    pub seq: u64,
    /// That frame's capture time, ns.
    pub capture_ns: u64,
    /// An IDR, with SPS and PPS before it.
    pub idr: bool,
    /// A still picture encoded again.
    pub repeat: bool,
    /// From picture in the host-agent's hands to encoder called, us.
    pub queue_us: u32,
    /// From encoder called to access unit out, us.
    pub encode_us: u32,
    /// Annex B bytes.
    pub data: Bytes,
}

/// Why the host-agent ends or refuses something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// A message made no sense.
    Protocol,
    /// No version in common.
    Version,
    /// The token is missing, forged or for something else.
    BadToken,
    /// The token was good once.
    ExpiredToken,
    /// No room for another session.
    Capacity,
    /// No encoder can do what was configured.
    Encoder,
    /// A newer session of the same stream took over.
    Replaced,
    /// The host-agent is stopping.
    ShuttingDown,
    /// Too many messages.
    RateLimited,
}

/// From host-agent to sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerMessage {
    /// The session exists.
    HelloAck {
        /// Version chosen.
        version: u16,
        /// Session number, for logs: it proves nothing.
        session: u64,
        /// What to put into the mailbox's bind.
        nonce: [u8; 16],
        /// Taps connected to this host-agent now.
        taps: u16,
        /// Most pixels of a picture that it will take.
        max_pixels: u32,
        /// Program and version, for logs.
        server: String,
    },
    /// The session is bound to a context of a VM; frames may be rung.
    Bound {
        /// virgl context.
        context: u32,
        /// Version of that VM's tap.
        tap_version: u16,
        /// The VM's name on the host.
        vm: String,
    },
    /// The binding is gone; bind again or go down the ladder.
    Unbound {
        /// Why.
        reason: String,
    },
    /// The encoder is ready.
    Configured {
        /// Its name.
        encoder: String,
    },
    /// An encoded picture.
    AccessUnit(AccessUnit),
    /// A frame that was overwritten by a newer one before it was encoded.
    Dropped {
        /// Its number.
        seq: u64,
    },
    /// Something failed; the connection ends after it unless the code is `Encoder` or `RateLimited`.
    Error {
        /// What kind.
        code: ErrorCode,
        /// For people, with the remedy.
        message: String,
    },
    /// Answer to `Ping`.
    Pong(u64),
}

macro_rules! tags {
    ($type:ident, $what:literal, $($variant:ident = $value:literal),+ $(,)?) => {
        impl $type {
            const fn tag(self) -> u8 {
                match self { $(Self::$variant => $value),+ }
            }
            fn from_tag(tag: u32) -> Result<Self, DecodeError> {
                match tag {
                    $($value => Ok(Self::$variant),)+
                    value => Err(DecodeError::Unknown { what: $what, value }),
                }
            }
        }
    };
}

tags!(Path, "path", ResourceId = 1, Pixels = 2);
tags!(Codec, "codec", H264 = 1, Hevc = 2);
tags!(
    ErrorCode,
    "error code",
    Protocol = 1,
    Version = 2,
    BadToken = 3,
    ExpiredToken = 4,
    Capacity = 5,
    Encoder = 6,
    Replaced = 7,
    ShuttingDown = 8,
    RateLimited = 9,
);

fn side(reader: &mut Reader, field: &'static str) -> Result<u16, DecodeError> {
    let side = reader.u16(field)?;
    check_side(field, side)?;
    Ok(side)
}

fn check_side(field: &'static str, side: u16) -> Result<(), DecodeError> {
    match u32::from(side) {
        0 => Err(DecodeError::Invalid("width or height is 0")),
        1..=MAX_SIDE => Ok(()),
        got => Err(DecodeError::TooLarge { field, got: got.into(), limit: MAX_SIDE.into() }),
    }
}

fn fps(reader: &mut Reader) -> Result<u16, DecodeError> {
    match reader.u16("max fps")? {
        fps @ 1..=MAX_FPS => Ok(fps),
        _ => Err(DecodeError::Invalid("max fps is not 1 to 240")),
    }
}

/// The version to speak with a peer that offers `min` to `max`.
pub fn choose_version(min: u16, max: u16) -> Result<u16, DecodeError> {
    if (min..=max).contains(&VERSION) {
        Ok(VERSION)
    } else {
        Err(DecodeError::Version { min, max, ours: VERSION })
    }
}

message!(ClientMessage, ClientMessage::limit);
message!(ServerMessage, ServerMessage::limit);
