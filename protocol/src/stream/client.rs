//! Encoding and decoding of [`ClientMessage`].

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    ClientMessage, Codec, Config, MAGIC, MAX_CONTROL, MAX_PIXELS, MAX_TEXT, MAX_TOKEN, Path, fps, pixels,
    side,
};
use crate::frame::{Encoded, Header};
use crate::pixel::PixelFormat;
use crate::wire::{DecodeError, Reader, put_text};

impl ClientMessage {
    /// Longest payload of a message type in bytes; `None` for a type that a sidecar does not send.
    pub fn limit(kind: u8) -> Option<u32> {
        match kind {
            0x01 | 0x02 | 0x04..=0x07 => Some(MAX_CONTROL),
            0x03 => Some(MAX_PIXELS),
            _ => None,
        }
    }

    /// Frames the message.
    pub fn encode(&self) -> Encoded {
        let mut out = BytesMut::new();
        let mut body = Bytes::new();
        let kind = match self {
            Self::Hello { min, max, token, client } => {
                out.put_u32_le(MAGIC);
                out.put_u16_le(*min);
                out.put_u16_le(*max);
                put_text(&mut out, token, MAX_TOKEN);
                put_text(&mut out, client, MAX_TEXT);
                0x01
            }
            Self::Configure(config) => {
                out.put_u16_le(config.width);
                out.put_u16_le(config.height);
                out.put_u32_le(config.format.fourcc());
                out.put_u16_le(config.max_fps);
                out.put_u32_le(config.bitrate_kbps);
                out.put_u32_le(config.keyframe_ms);
                out.put_u8(config.codec.tag());
                out.put_u8(config.path.tag());
                0x02
            }
            Self::Pixels(pixels) => {
                out.put_u64_le(pixels.seq);
                out.put_u64_le(pixels.capture_ns);
                out.put_u32_le(pixels.format.fourcc());
                out.put_u16_le(pixels.width);
                out.put_u16_le(pixels.height);
                out.put_u8(u8::try_from(pixels.rects.len()).unwrap_or(u8::MAX));
                for value in pixels.rects.iter().flat_map(|rect| rect.to_wire()) {
                    out.put_u16_le(value);
                }
                body = pixels.data.clone();
                0x03
            }
            Self::RequestKeyframe => 0x04,
            Self::Renew { token } => {
                put_text(&mut out, token, MAX_TOKEN);
                0x05
            }
            Self::Ping(token) => {
                out.put_u64_le(*token);
                0x06
            }
            Self::Bye => 0x07,
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
            0x01 => {
                r.magic(MAGIC)?;
                Self::Hello {
                    min: r.u16("lowest version")?,
                    max: r.u16("highest version")?,
                    token: r.text("token", MAX_TOKEN)?,
                    client: r.text("client", MAX_TEXT)?,
                }
            }
            0x02 => Self::Configure(Config {
                width: side(&mut r, "width")?,
                height: side(&mut r, "height")?,
                format: PixelFormat::from_fourcc(r.u32("format")?)?,
                max_fps: fps(&mut r)?,
                bitrate_kbps: r.u32("bitrate")?,
                keyframe_ms: r.u32("keyframe interval")?,
                codec: Codec::from_tag(r.u8("codec")?.into())?,
                path: Path::from_tag(r.u8("path")?.into())?,
            }),
            0x03 => return pixels::decode(r).map(Self::Pixels),
            0x04 => Self::RequestKeyframe,
            0x05 => Self::Renew { token: r.text("token", MAX_TOKEN)? },
            0x06 => Self::Ping(r.u64("token")?),
            0x07 => Self::Bye,
            other => return Err(DecodeError::Unknown { what: "message type", value: other.into() }),
        };
        r.end()?;
        Ok(message)
    }
}
