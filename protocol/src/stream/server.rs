//! Encoding and decoding of [`ServerMessage`].

use bytes::{BufMut, Bytes, BytesMut};

use super::{AccessUnit, ErrorCode, MAGIC, MAX_ACCESS_UNIT, MAX_CONTROL, MAX_TEXT, ServerMessage};
use crate::frame::{Encoded, Header};
use crate::wire::{DecodeError, Reader, put_text};

const IDR: u8 = 1;
const REPEAT: u8 = 2;

impl ServerMessage {
    /// Longest payload of a message type in bytes; `None` for a type that a host-agent does not send.
    pub fn limit(kind: u8) -> Option<u32> {
        match kind {
            0x81..=0x84 | 0x86..=0x88 => Some(MAX_CONTROL),
            0x85 => Some(MAX_ACCESS_UNIT),
            _ => None,
        }
    }

    /// Frames the message.
    pub fn encode(&self) -> Encoded {
        let mut out = BytesMut::new();
        let mut body = Bytes::new();
        let kind = match self {
            Self::HelloAck { version, session, nonce, taps, max_pixels, server } => {
                out.put_u32_le(MAGIC);
                out.put_u16_le(*version);
                out.put_u64_le(*session);
                out.put_slice(nonce);
                out.put_u16_le(*taps);
                out.put_u32_le(*max_pixels);
                put_text(&mut out, server, MAX_TEXT);
                0x81
            }
            Self::Bound { context, tap_version, vm } => {
                out.put_u32_le(*context);
                out.put_u16_le(*tap_version);
                put_text(&mut out, vm, MAX_TEXT);
                0x82
            }
            Self::Unbound { reason } => {
                put_text(&mut out, reason, MAX_TEXT);
                0x83
            }
            Self::Configured { encoder } => {
                put_text(&mut out, encoder, MAX_TEXT);
                0x84
            }
            Self::AccessUnit(unit) => {
                out.put_u64_le(unit.seq);
                out.put_u64_le(unit.capture_ns);
                out.put_u8((u8::from(unit.idr) * IDR) | (u8::from(unit.repeat) * REPEAT));
                out.put_u32_le(unit.queue_us);
                out.put_u32_le(unit.encode_us);
                body = unit.data.clone();
                0x85
            }
            Self::Dropped { seq } => {
                out.put_u64_le(*seq);
                0x86
            }
            Self::Error { code, message } => {
                out.put_u16_le(code.tag().into());
                put_text(&mut out, message, MAX_TEXT);
                0x87
            }
            Self::Pong(token) => {
                out.put_u64_le(*token);
                0x88
            }
        };
        Encoded::new(kind, &out, body)
    }

    /// Decodes the payload that followed `header`.
    ///
    /// # Errors
    /// If the payload is malformed or a field is over its limit.
    pub fn decode(header: Header, payload: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(payload);
        let message = match header.kind {
            0x81 => {
                r.magic(MAGIC)?;
                Self::HelloAck {
                    version: r.u16("version")?,
                    session: r.u64("session")?,
                    nonce: r.array("nonce")?,
                    taps: r.u16("taps")?,
                    max_pixels: r.u32("max pixels")?,
                    server: r.text("server", MAX_TEXT)?,
                }
            }
            0x82 => Self::Bound {
                context: r.u32("context")?,
                tap_version: r.u16("tap version")?,
                vm: r.text("vm", MAX_TEXT)?,
            },
            0x83 => Self::Unbound { reason: r.text("reason", MAX_TEXT)? },
            0x84 => Self::Configured { encoder: r.text("encoder", MAX_TEXT)? },
            0x85 => {
                let seq = r.u64("seq")?;
                let capture_ns = r.u64("capture time")?;
                let flags = r.u8("flags")?;
                if flags & !(IDR | REPEAT) != 0 {
                    return Err(DecodeError::Unknown { what: "access unit flag", value: flags.into() });
                }
                let (queue_us, encode_us) = (r.u32("queue time")?, r.u32("encode time")?);
                let (idr, repeat) = (flags & IDR != 0, flags & REPEAT != 0);
                let data = r.rest();
                return Ok(Self::AccessUnit(AccessUnit {
                    seq,
                    capture_ns,
                    idr,
                    repeat,
                    queue_us,
                    encode_us,
                    data,
                }));
            }
            0x86 => Self::Dropped { seq: r.u64("seq")? },
            0x87 => Self::Error {
                code: ErrorCode::from_tag(r.u16("code")?.into())?,
                message: r.text("message", MAX_TEXT)?,
            },
            0x88 => Self::Pong(r.u64("token")?),
            other => return Err(DecodeError::Unknown { what: "message type", value: other.into() }),
        };
        r.end()?;
        Ok(message)
    }
}
