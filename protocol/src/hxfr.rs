//! HXFR version 1, the request-reply protocol of the predecessor's GStreamer element `vsockenc`.
//!
//! The host-agent serves it on a separate listener, so that pipelines with that element work unchanged.
//! The protocol has neither version negotiation nor authentication, and it does not prove that a guest
//! may read the resource that it names.
//!
//! Header:
//!
//! | offset | size | field                                            |
//! |--------|------|--------------------------------------------------|
//! | 0      | 4    | magic 0x52465848                                 |
//! | 4      | 1    | message type                                     |
//! | 5      | 1    | flags; bit 0: pixels follow the frame request    |
//! | 6      | 2    | session; replies repeat it                       |
//! | 8      | 4    | payload length in bytes                          |
//!
//! Messages:
//!
//! | type | message               | payload: field and size in bytes                                    |
//! |------|-----------------------|---------------------------------------------------------------------|
//! | 0x01 | [`Request::Frame`]    | resource ID 4, width 4, height 4, fourcc 4, stride 4, pts 8, duration 8, keyframe 1, reserved 7, then pixels if flagged |
//! | 0x02 | [`Reply::Frame`]      | pts 8, dts 8, keyframe 1, reserved 3, count 4, then `count` units: length 4 and bytes |
//! | 0x03 | [`Request::Keyframe`] | none                                                                |
//! | 0x04 | [`Request::Config`]   | width 4, height 4, bit rate (bit/s) 4, frame rate numerator 4 and denominator 4, profile 1, level 1, realtime 1, reserved 5 |
//! | 0x05 | [`Reply::Configured`] | none                                                                |
//! | 0x10 | [`Request::Ping`]     | none                                                                |
//! | 0x11 | [`Reply::Pong`]       | none                                                                |
//! | 0xFF | [`Reply::Error`]      | code 4, text 256, padded with zeros                                 |
//!
//! Times are in ns. The element concatenates the units of a reply to a byte stream, so units must have
//! their start codes. Reserved bytes are ignored on receipt, because existing senders do not clear them.

use bytes::{BufMut, Bytes, BytesMut};

use crate::frame::{FrameHeader, check_limit};
use crate::pixel::{MAX_SIDE, PixelFormat};
use crate::wire::{DecodeError, Reader};

/// First bytes of every message: `HXFR`.
pub const MAGIC: u32 = 0x5246_5848;
/// Length of a header in bytes.
pub const HEADER_BYTES: usize = 12;
/// Length of a frame request before its pixels, bytes.
pub const FRAME_BYTES: u32 = 44;
/// Longest request payload in bytes: a frame of the largest size with four bytes per pixel.
pub const MAX_REQUEST: u32 = FRAME_BYTES + 4 * MAX_SIDE * MAX_SIDE;
/// Longest reply payload in bytes: the stream protocol's longest access unit.
pub const MAX_REPLY: u32 = crate::stream::MAX_ACCESS_UNIT;
/// Largest number of units in a reply. No level of H.264 allows more slices in a picture.
pub const MAX_UNITS: u32 = 1024;
/// Length of an error's text field in bytes.
const ERROR_TEXT: usize = 256;
/// Flag: pixels follow the frame request.
const PIXEL_DATA: u8 = 1;

/// A decoded header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Message type.
    pub kind: u8,
    /// Flags; bit 0: pixels follow.
    pub flags: u8,
    /// Session number; replies repeat it.
    pub session: u16,
    /// Length of the payload in bytes.
    pub len: u32,
}

impl Header {
    /// Decodes a header. `limit` gives the longest payload of a message type in bytes, or `None` for a type
    /// that this side does not accept.
    ///
    /// # Errors
    /// If the magic number differs, the type is not accepted or the length is over its limit.
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

/// Request to encode a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// virtio-gpu resource ID, set by the guest and not proven; 0: none.
    pub resource: u32,
    /// Width in pixels, 1 to [`MAX_SIDE`].
    pub width: u32,
    /// Height in pixels, 1 to [`MAX_SIDE`].
    pub height: u32,
    /// Memory layout.
    pub format: PixelFormat,
    /// Distance between rows in bytes.
    pub stride: u32,
    /// Presentation time, ns.
    pub pts: i64,
    /// Duration, ns.
    pub duration: i64,
    /// Encode as an IDR.
    pub keyframe: bool,
    /// Pixels, if they were sent.
    pub pixels: Option<Bytes>,
}

/// Encoder configuration.
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

/// Message from guest to host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Encode a frame.
    Frame(Frame),
    /// Encode the next frame as an IDR.
    Keyframe,
    /// Configure the encoder.
    Config(Config),
    /// Request a [`Reply::Pong`].
    Ping,
}

/// Codes of [`Reply::Error`].
pub mod error_code {
    /// The message is malformed.
    pub const INVALID_MESSAGE: i32 = -1;
    /// The resource cannot be read.
    pub const RESOURCE: i32 = -2;
    /// Encoding failed.
    pub const ENCODE: i32 = -5;
}

/// Message from host to guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// An encoded frame.
    Frame {
        /// Presentation time of the request, ns.
        pts: i64,
        /// Decoding time, ns.
        dts: i64,
        /// The frame is an IDR.
        keyframe: bool,
        /// NAL units with start codes.
        units: Vec<Bytes>,
    },
    /// Answer to [`Request::Config`].
    Configured,
    /// Answer to [`Request::Ping`].
    Pong,
    /// The request failed.
    Error {
        /// One of [`error_code`].
        code: i32,
        /// Message for people; cut to 255 bytes.
        message: String,
    },
}

/// Longest payload in bytes of a message type that a host accepts.
pub fn request_limit(kind: u8) -> Option<u32> {
    match kind {
        0x01 => Some(MAX_REQUEST),
        0x03 | 0x10 => Some(0),
        0x04 => Some(28),
        _ => None,
    }
}

/// Longest payload in bytes of a message type that a guest accepts.
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
    /// Encodes the message.
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
    ///
    /// # Errors
    /// If the payload is malformed or a field is over its limit.
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
        0 => Err(DecodeError::Invalid("width and height must be at least 1")),
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
    /// Encodes the message.
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
    ///
    /// # Errors
    /// If the payload is malformed or a field is over its limit.
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
