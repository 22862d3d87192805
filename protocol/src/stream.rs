//! The stream connection between sidecar and host-agent, with [`frame`](crate::frame) framing.
//!
//! Messages from sidecar to host-agent; the sidecar sends `Hello` first:
//!
//! | type | message            | payload: field and size in bytes                                          |
//! |------|--------------------|---------------------------------------------------------------------------|
//! | 0x01 | `Hello`            | magic `DSST` 4, lowest version 2, highest version 2, token text, client text |
//! | 0x02 | `Configure`        | width 2, height 2, fourcc 4, frame rate limit 2, bit rate (kbit/s) 4, keyframe interval (ms) 4, codec 1, path 1 |
//! | 0x03 | `Pixels`           | sequence number 8, capture time 8, fourcc 4, width 2, height 2, `n` 1, `n` rectangles of 4 x 2, then their pixels |
//! | 0x04 | `RequestKeyframe`  | none                                                                      |
//! | 0x05 | `Renew`            | token text                                                                |
//! | 0x06 | `Ping`             | token 8                                                                   |
//! | 0x07 | `Bye`              | none                                                                      |
//!
//! Messages from host-agent to sidecar:
//!
//! | type | message            | payload: field and size in bytes                                          |
//! |------|--------------------|---------------------------------------------------------------------------|
//! | 0x81 | `HelloAck`         | magic `DSST` 4, version 2, session 8, nonce 16, taps 2, pixel limit 4, server text |
//! | 0x82 | `Bound`            | context ID 4, tap version 2, VM name text                                 |
//! | 0x83 | `Unbound`          | reason text                                                               |
//! | 0x84 | `Configured`       | encoder name text                                                         |
//! | 0x85 | `AccessUnit`       | sequence number 8, capture time 8, flags 1, queue time (us) 4, encode time (us) 4, then Annex B bytes |
//! | 0x86 | `Dropped`          | sequence number 8                                                         |
//! | 0x87 | `Error`            | code 2, message text                                                      |
//! | 0x88 | `Pong`             | token 8                                                                   |
//!
//! Values:
//! - text: `u16` length in bytes, then UTF-8; at most [`MAX_TOKEN`] for the token, else [`MAX_TEXT`];
//! - fourcc: DRM fourcc code of a [`PixelFormat`];
//! - capture time: ns of the guest's `CLOCK_MONOTONIC`; the host-agent only repeats it;
//! - rectangle: x, y, width, height in pixels; pixels are tightly packed, rectangle after rectangle;
//! - codec: 1 H.264, 2 HEVC; path: 1 resource ID, 2 pixels;
//! - flags of an access unit: bit 0 IDR, bit 1 repeat;
//! - error code: see [`ErrorCode`], numbered from 1.

mod client;
mod pixels;
mod server;

use bytes::Bytes;

use crate::frame::message;
use crate::pixel::{MAX_SIDE, PixelFormat, Rect};
use crate::wire::{DecodeError, Reader};

/// Magic number: `DSST`.
pub const MAGIC: u32 = u32::from_le_bytes(*b"DSST");
/// Version of the protocol.
pub const VERSION: u16 = 1;
/// Prefix of the client name of a doctor. A new session of a stream replaces the previous one; a doctor's
/// session replaces only that of another doctor, so a check does not interrupt the stream.
pub const DOCTOR: &str = "desktopstream doctor";
/// Longest token in bytes; several times a JWT with the claims of this project.
pub const MAX_TOKEN: usize = 4096;
/// Longest other text in bytes.
pub const MAX_TEXT: usize = 256;
/// Largest number of rectangles in a `Pixels`.
pub const MAX_RECTS: usize = 16;
/// Highest frame rate limit, frames per second.
pub const MAX_FPS: u16 = 240;
/// Longest access unit in bytes; an IDR of a noisy 8K frame is smaller.
pub const MAX_ACCESS_UNIT: u32 = 16 << 20;
/// Longest payload without pixels or access unit, bytes: a `Hello` with the longest token fits.
const MAX_CONTROL: u32 = 8 << 10;
/// Longest `Pixels` payload in bytes: a frame of the largest size with four bytes per pixel.
const MAX_PIXELS: u32 = 4 * MAX_SIDE * MAX_SIDE + MAX_CONTROL;
/// Length of the fields of a `Pixels` before its rectangles, bytes.
const PIXELS_FIXED: usize = 25;
/// Length of a rectangle, bytes.
const RECT_BYTES: usize = 8;

/// Path of frames to the host-agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Path {
    /// By resource ID: the tap reads them.
    ResourceId,
    /// In `Pixels` messages.
    Pixels,
}

/// Video codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// H.264 / AVC.
    H264,
    /// H.265 / HEVC.
    Hevc,
}

/// Encoder configuration and source format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Width in pixels, 1 to [`MAX_SIDE`].
    pub width: u16,
    /// Height in pixels, 1 to [`MAX_SIDE`].
    pub height: u16,
    /// Memory layout of the frames.
    pub format: PixelFormat,
    /// Frame rate limit, 1 to [`MAX_FPS`] frames per second.
    pub max_fps: u16,
    /// Bit rate, kbit/s.
    pub bitrate_kbps: u32,
    /// Longest time between keyframes, ms; 0: on request only.
    pub keyframe_ms: u32,
    /// Video codec.
    pub codec: Codec,
    /// Path of frames to the host-agent.
    pub path: Path,
}

/// The changed rectangles of a frame with their pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pixels {
    /// Sequence number of the frame.
    pub seq: u64,
    /// Capture time, ns.
    pub capture_ns: u64,
    /// Memory layout of `data`. For NV12 a rectangle's edges are even or at the frame's edge.
    pub format: PixelFormat,
    /// Width of the frame in pixels, 1 to [`MAX_SIDE`].
    pub width: u16,
    /// Height of the frame in pixels, 1 to [`MAX_SIDE`].
    pub height: u16,
    /// Changed areas, 1 to [`MAX_RECTS`].
    pub rects: Vec<Rect>,
    /// Pixels of the rectangles, tightly packed, in the order of `rects`.
    pub data: Bytes,
}

/// Message from sidecar to host-agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientMessage {
    /// First message.
    Hello {
        /// Lowest supported version.
        min: u16,
        /// Highest supported version.
        max: u16,
        /// Signed stream token (JWT).
        token: String,
        /// Program and version, for logs. The prefix [`DOCTOR`] has a meaning.
        client: String,
    },
    /// Configures the encoder; sent again when size, format or path change.
    Configure(Config),
    /// A frame by path [`Path::Pixels`].
    Pixels(Pixels),
    /// Makes the next frame an IDR.
    RequestKeyframe,
    /// Replaces the session's token, which ends the session at its expiry. A host-agent without authentication ignores it.
    Renew {
        /// Newer token for the same stream and host-agent, bound to the same key if the former is bound to one; any other is
        /// refused with [`ErrorCode::BadToken`].
        token: String,
    },
    /// Requests a [`ServerMessage::Pong`] with the same token.
    Ping(u64),
    /// Ends the session.
    Bye,
}

/// An encoded frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessUnit {
    /// Sequence number of the frame; that of the repeated frame for a repeat.
    pub seq: u64,
    /// Capture time of that frame, ns.
    pub capture_ns: u64,
    /// The frame is an IDR, preceded by its parameter sets.
    pub idr: bool,
    /// The previous frame was encoded again, because no new one arrived.
    pub repeat: bool,
    /// Time from the frame's arrival at the host-agent to the encoder's start, us.
    pub queue_us: u32,
    /// Time from the encoder's start to the access unit, us.
    pub encode_us: u32,
    /// Annex B bytes.
    pub data: Bytes,
}

/// Reason of an [`ServerMessage::Error`]. On the wire: a `u16`, in this order from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// A message is malformed or out of order.
    Protocol,
    /// The sidecar supports no version of the host-agent.
    Version,
    /// The token is missing, forged, for another host-agent, or, in a `Renew`, for another stream.
    BadToken,
    /// The token has expired, before the session or during it.
    ExpiredToken,
    /// The host-agent's session limit is reached.
    Capacity,
    /// No encoder supports the configuration.
    Encoder,
    /// A newer session of the same stream replaced this one.
    Replaced,
    /// The host-agent is stopping.
    ShuttingDown,
    /// The message rate limit was exceeded.
    RateLimited,
}

/// Message from host-agent to sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerMessage {
    /// Answer to `Hello`: the session is open.
    HelloAck {
        /// Chosen version.
        version: u16,
        /// Session number, for logs; not a credential.
        session: u64,
        /// Nonce for the mailbox's bind request.
        nonce: [u8; 16],
        /// Number of taps that are connected to this host-agent.
        taps: u16,
        /// Largest frame that the host-agent accepts, in pixels.
        max_pixels: u32,
        /// Program and version, for logs.
        server: String,
    },
    /// The session is bound to a context of a VM; frame requests may follow.
    Bound {
        /// virgl context ID.
        context: u32,
        /// Version of the VM's tap.
        tap_version: u16,
        /// VM name on the host.
        vm: String,
    },
    /// The binding ended; bind again or use another frame path.
    Unbound {
        /// Reason, for people.
        reason: String,
    },
    /// The encoder is ready.
    Configured {
        /// Encoder name.
        encoder: String,
    },
    /// An encoded frame.
    AccessUnit(AccessUnit),
    /// A frame was dropped, because a newer one replaced it or because it could not be encoded.
    Dropped {
        /// Sequence number of the frame.
        seq: u64,
    },
    /// An operation failed. The host-agent closes the connection after it, except for the codes `Encoder` and
    /// `RateLimited`.
    Error {
        /// Reason of the error.
        code: ErrorCode,
        /// Message for people, with a remedy.
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
        0 => Err(DecodeError::Invalid("width and height must be at least 1")),
        1..=MAX_SIDE => Ok(()),
        got => Err(DecodeError::TooLarge { field, got: got.into(), limit: MAX_SIDE.into() }),
    }
}

fn fps(reader: &mut Reader) -> Result<u16, DecodeError> {
    match reader.u16("max fps")? {
        fps @ 1..=MAX_FPS => Ok(fps),
        _ => Err(DecodeError::Invalid("the frame rate limit must be between 1 and 240")),
    }
}

/// Chooses the version for a peer that supports `min` to `max`.
///
/// # Errors
/// [`DecodeError::Version`] if [`VERSION`] is not among them.
pub fn choose_version(min: u16, max: u16) -> Result<u16, DecodeError> {
    if (min..=max).contains(&VERSION) {
        Ok(VERSION)
    } else {
        Err(DecodeError::Version { min, max, ours: VERSION })
    }
}

message!(ClientMessage, ClientMessage::limit);
message!(ServerMessage, ServerMessage::limit);
