//! HXFR v1, the protocol of this project's predecessor: one picture out, one access unit back.
//!
//! Its GStreamer element (`vsockenc`) speaks it; host-agent serves it on a listener of its own, so that
//! pipelines with that element work unchanged. It has no version, no authentication and no proof that a
//! guest may read the resource that it names. A header of 12 bytes, little-endian:
//!
//! | offset | size | field                                            |
//! |--------|------|--------------------------------------------------|
//! | 0      | 4    | magic 0x52465848                                 |
//! | 4      | 1    | message type                                     |
//! | 5      | 1    | flags; 1: pixels follow the request              |
//! | 6      | 2    | session, which nobody uses                       |
//! | 8      | 4    | payload length in bytes                          |
//!
//! | type | message         | payload                                                                   |
//! |------|-----------------|---------------------------------------------------------------------------|
//! | 0x01 | `Frame`         | resource 4, width 4, height 4, fourcc 4, stride 4, pts 8, duration 8, keyframe 1, 7 reserved, then pixels if the flag says so |
//! | 0x02 | frame's answer  | pts 8, dts 8, keyframe 1, 3 reserved, count 4, then per unit length 4 and bytes |
//! | 0x03 | `Keyframe`      | nothing                                                                   |
//! | 0x04 | `Config`        | width 4, height 4, bit/s 4, fps as fraction 4 + 4, profile 1, level 1, realtime 1, 5 reserved |
//! | 0x05 | config's answer | nothing                                                                   |
//! | 0x10 | `Ping`          | nothing                                                                   |
//! | 0x11 | `Pong`          | nothing                                                                   |
//! | 0xFF | error           | code 4, text of 256, filled up with zeros                                 |
//!
//! Times are in ns. The element puts the units of an answer one behind the other and calls the result a
//! byte stream, so that units must come with their start codes. Reserved bytes are ignored, as their
//! writers never checked them.

use bytes::{BufMut, Bytes, BytesMut};

use crate::frame::{FrameHeader, check_limit};
use crate::pixel::{MAX_SIDE, PixelFormat};
use crate::wire::{DecodeError, Reader};

/// What every message begins with.
pub const MAGIC: u32 = 0x5246_5848;
/// Bytes of a header.
pub const HEADER_BYTES: usize = 12;
/// Bytes of a frame request before its pixels.
pub const FRAME_BYTES: u32 = 44;
/// Longest request: a picture of [`MAX_SIDE`] squared, four bytes a pixel.
pub const MAX_REQUEST: u32 = FRAME_BYTES + 4 * MAX_SIDE * MAX_SIDE;
/// Longest answer: as long as a stream's access unit may be.
pub const MAX_REPLY: u32 = crate::stream::MAX_ACCESS_UNIT;
/// Most units in an answer: H.264 has no more slices in a picture at level 6.2.
pub const MAX_UNITS: u32 = 1024;
const ERROR_TEXT: usize = 256;
const PIXEL_DATA: u8 = 1;

/// A decoded header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Message type.
    pub kind: u8,
    /// Flags.
    pub flags: u8,
    /// Only repeated in answers.
    pub session: u16,
    /// Bytes that follow.
    pub len: u32,
}

impl Header {
    /// Decodes a header; `limit` gives the longest payload of a message type, or `None` for a type that
    /// this side does not take.
    pub fn decode(bytes: [u8; HEADER_BYTES], limit: impl Fn(u8) -> Option<u32>) -> Result<Self, DecodeError> {
        let mut r = Reader::new(Bytes::copy_from_slice(&bytes));
        let magic = r.u32("magic")?;
        if magic != MAGIC {
            return Err(DecodeError::BadMagic(magic));
        }
        let header = Self {
            kind: r.u8("type")?,
            flags: r.u8("flags")?,
            session: r.u16("session")?,
            len: r.u32("payload length")?,
        };
        check_limit(header.kind, header.len, limit)?;
        Ok(header)
    }

    /// The header's bytes.
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let [m0, m1, m2, m3] = MAGIC.to_le_bytes();
        let [s0, s1] = self.session.to_le_bytes();
        let [l0, l1, l2, l3] = self.len.to_le_bytes();
        [m0, m1, m2, m3, self.kind, self.flags, s0, s1, l0, l1, l2, l3]
    }
}

impl FrameHeader for Header {
    const BYTES: usize = HEADER_BYTES;

    fn parse(bytes: &[u8], limit: impl Fn(u8) -> Option<u32>) -> Result<Option<Self>, DecodeError> {
        bytes.first_chunk().map(|bytes| Self::decode(*bytes, limit)).transpose()
    }

    fn payload_bytes(&self) -> usize {
        self.len as usize
    }
}

/// A picture to encode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// virtio-gpu resource ID, as the guest says; 0 if there is none.
    pub resource: u32,
    /// Width in pixels, 1 to [`MAX_SIDE`].
    pub width: u32,
    /// Height in pixels, 1 to [`MAX_SIDE`].
    pub height: u32,
    /// Memory layout.
    pub format: PixelFormat,
    /// Bytes from row to row.
    pub stride: u32,
    /// Presentation time, ns.
    pub pts: i64,
    /// Duration, ns.
    pub duration: i64,
    /// Make it an IDR.
    pub keyframe: bool,
    /// The pixels, if they were sent along.
    pub pixels: Option<Bytes>,
}

/// How to encode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Bit rate, bit/s.
    pub bitrate: u32,
    /// Frame rate's numerator.
    pub fps_num: u32,
    /// Frame rate's denominator.
    pub fps_den: u32,
}

/// From guest to host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Encode this.
    Frame(Frame),
    /// The next answer must be an IDR.
    Keyframe,
    /// Encode this way.
    Config(Config),
    /// Is anybody there?
    Ping,
}

/// What an [`Reply::Error`] means.
pub mod error_code {
    /// The message made no sense.
    pub const INVALID_MESSAGE: i32 = -1;
    /// The resource can't be read.
    pub const RESOURCE: i32 = -2;
    /// The encoder failed.
    pub const ENCODE: i32 = -5;
}

/// From host to guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// An encoded picture.
    Frame {
        /// The request's.
        pts: i64,
        /// Decoding time, ns.
        dts: i64,
        /// An IDR.
        keyframe: bool,
        /// Its parts, start codes included.
        units: Vec<Bytes>,
    },
    /// The configuration holds.
    Configured,
    /// Somebody is.
    Pong,
    /// It did not work.
    Error {
        /// See [`error_code`].
        code: i32,
        /// For people; cut to 255 bytes.
        message: String,
    },
}

/// The longest payload of a message type that a host takes.
pub fn request_limit(kind: u8) -> Option<u32> {
    match kind {
        0x01 => Some(MAX_REQUEST),
        0x03 | 0x10 => Some(0),
        0x04 => Some(28),
        _ => None,
    }
}

/// The longest payload of a message type that a guest takes.
pub fn reply_limit(kind: u8) -> Option<u32> {
    match kind {
        0x02 => Some(MAX_REPLY),
        0x05 | 0x11 => Some(0),
        0xFF => Some(4 + ERROR_TEXT as u32),
        _ => None,
    }
}

fn framed(kind: u8, flags: u8, session: u16, payload: &[u8]) -> Vec<u8> {
    let header = Header { kind, flags, session, len: u32::try_from(payload.len()).unwrap_or(u32::MAX) };
    [&header.encode()[..], payload].concat()
}

impl Request {
    /// The message's bytes.
    pub fn encode(&self, session: u16) -> Vec<u8> {
        let mut out = BytesMut::new();
        match self {
            Self::Frame(frame) => {
                let numbers =
                    [frame.resource, frame.width, frame.height, frame.format.fourcc(), frame.stride];
                for number in numbers {
                    out.put_u32_le(number);
                }
                out.put_i64_le(frame.pts);
                out.put_i64_le(frame.duration);
                out.put_u8(frame.keyframe.into());
                out.put_bytes(0, 7);
                out.put_slice(frame.pixels.as_deref().unwrap_or_default());
                framed(0x01, if frame.pixels.is_some() { PIXEL_DATA } else { 0 }, session, &out)
            }
            Self::Keyframe => framed(0x03, 0, session, &[]),
            Self::Config(config) => {
                for number in [config.width, config.height, config.bitrate, config.fps_num, config.fps_den] {
                    out.put_u32_le(number);
                }
                out.put_bytes(0, 8);
                framed(0x04, 0, session, &out)
            }
            Self::Ping => framed(0x10, 0, session, &[]),
        }
    }

    /// Decodes the payload that followed `header`.
    pub fn decode(header: Header, payload: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(payload);
        let request = match header.kind {
            0x01 => return decode_frame(header, r).map(Self::Frame),
            0x03 => Self::Keyframe,
            0x04 => {
                let config = Config {
                    width: side(&mut r, "width")?,
                    height: side(&mut r, "height")?,
                    bitrate: r.u32("bit rate")?,
                    fps_num: r.u32("frame rate's numerator")?,
                    fps_den: r.u32("frame rate's denominator")?,
                };
                r.array::<8>("profile, level, realtime")?;
                Self::Config(config)
            }
            0x10 => Self::Ping,
            other => return Err(DecodeError::Unknown { what: "message type", value: other.into() }),
        };
        r.end()?;
        Ok(request)
    }
}

fn side(r: &mut Reader, field: &'static str) -> Result<u32, DecodeError> {
    match r.u32(field)? {
        0 => Err(DecodeError::Invalid("width or height is 0")),
        side if side > MAX_SIDE => {
            Err(DecodeError::TooLarge { field, got: side.into(), limit: MAX_SIDE.into() })
        }
        side => Ok(side),
    }
}

fn decode_frame(header: Header, mut r: Reader) -> Result<Frame, DecodeError> {
    let mut frame = Frame {
        resource: r.u32("resource")?,
        width: side(&mut r, "width")?,
        height: side(&mut r, "height")?,
        format: PixelFormat::from_fourcc(r.u32("format")?)?,
        stride: r.u32("stride")?,
        pts: r.i64("pts")?,
        duration: r.i64("duration")?,
        keyframe: r.u8("keyframe")? != 0,
        pixels: None,
    };
    r.array::<7>("reserved")?;
    if header.flags & PIXEL_DATA == 0 {
        r.end()?;
    } else {
        frame.pixels = Some(r.rest());
    }
    Ok(frame)
}

impl Reply {
    /// The message's bytes.
    pub fn encode(&self, session: u16) -> Vec<u8> {
        let mut out = BytesMut::new();
        match self {
            Self::Frame { pts, dts, keyframe, units } => {
                out.put_i64_le(*pts);
                out.put_i64_le(*dts);
                out.put_u8((*keyframe).into());
                out.put_bytes(0, 3);
                out.put_u32_le(u32::try_from(units.len()).unwrap_or(u32::MAX));
                for unit in units {
                    out.put_u32_le(u32::try_from(unit.len()).unwrap_or(u32::MAX));
                    out.put_slice(unit);
                }
                framed(0x02, 0, session, &out)
            }
            Self::Configured => framed(0x05, 0, session, &[]),
            Self::Pong => framed(0x11, 0, session, &[]),
            Self::Error { code, message } => {
                let mut len = message.len().min(ERROR_TEXT - 1);
                while !message.is_char_boundary(len) {
                    len -= 1;
                }
                out.put_i32_le(*code);
                out.put_slice(&message.as_bytes()[..len]);
                out.put_bytes(0, ERROR_TEXT - len);
                framed(0xFF, 0, session, &out)
            }
        }
    }

    /// Decodes the payload that followed `header`.
    pub fn decode(header: Header, payload: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(payload);
        let reply = match header.kind {
            0x02 => {
                let (pts, dts) = (r.i64("pts")?, r.i64("dts")?);
                let keyframe = r.u8("keyframe")? != 0;
                r.array::<3>("reserved")?;
                let count = r.u32("units")?;
                if count > MAX_UNITS {
                    let (got, limit) = (count.into(), MAX_UNITS.into());
                    return Err(DecodeError::TooLarge { field: "units", got, limit });
                }
                let unit = |_| {
                    let len = r.u32("unit length")?;
                    r.take("unit", len as usize)
                };
                let units = (0..count).map(unit).collect::<Result<_, _>>()?;
                Self::Frame { pts, dts, keyframe, units }
            }
            0x05 => Self::Configured,
            0x11 => Self::Pong,
            0xFF => {
                let code = r.i32("code")?;
                let text = r.array::<ERROR_TEXT>("message")?;
                let len = text.iter().position(|byte| *byte == 0).unwrap_or(ERROR_TEXT);
                let message = str::from_utf8(&text[..len]).map_err(|_| DecodeError::NotUtf8("message"))?;
                Self::Error { code, message: message.to_owned() }
            }
            other => return Err(DecodeError::Unknown { what: "message type", value: other.into() }),
        };
        r.end()?;
        Ok(reply)
    }
}

#[cfg(test)]
mod tests;
