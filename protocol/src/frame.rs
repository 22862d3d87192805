//! The framing that [`stream`](crate::stream) and [`link`](crate::link) share.
//!
//! | offset | size | field                              |
//! |--------|------|------------------------------------|
//! | 0      | 4    | payload length in bytes            |
//! | 4      | 1    | message type                       |
//! | 5      | 3    | zero                               |
//!
//! The payload follows at offset 8. A reader checks the length against the limit of that message type
//! before it makes room.

use bytes::{Buf, Bytes, BytesMut};

use crate::wire::DecodeError;

/// Bytes of a header.
pub const HEADER_BYTES: usize = 8;

/// A decoded header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes that follow.
    pub len: u32,
    /// Message type; its meaning is the protocol's.
    pub kind: u8,
}

impl Header {
    /// Decodes a header; `limit` gives the longest payload of a message type, or `None` for a type
    /// that this side does not take.
    pub fn decode(bytes: [u8; HEADER_BYTES], limit: impl Fn(u8) -> Option<u32>) -> Result<Self, DecodeError> {
        let [a, b, c, d, kind, zeros @ ..] = bytes;
        if zeros != [0; 3] {
            return Err(DecodeError::Invalid("reserved header bytes are not zero"));
        }
        let len = u32::from_le_bytes([a, b, c, d]);
        let Some(limit) = limit(kind) else {
            return Err(DecodeError::Unknown { what: "message type", value: kind.into() });
        };
        if len > limit {
            return Err(DecodeError::TooLarge { field: "payload", got: len.into(), limit: limit.into() });
        }
        Ok(Self { len, kind })
    }

    /// The header's bytes.
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let [a, b, c, d] = self.len.to_le_bytes();
        [a, b, c, d, self.kind, 0, 0, 0]
    }
}

/// An encoded message: a small head that was written for it and, for pictures and access units, a body
/// that is sent without being copied.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// Header and fixed fields.
    pub head: Bytes,
    /// Payload bytes that follow the head.
    pub body: Bytes,
}

impl Encoded {
    /// Frames `fields` and `body` as one message of type `kind`.
    pub fn new(kind: u8, fields: &[u8], body: Bytes) -> Self {
        let len = u32::try_from(fields.len() + body.len()).unwrap_or(u32::MAX);
        let mut head = BytesMut::with_capacity(HEADER_BYTES + fields.len());
        head.extend_from_slice(&Header { len, kind }.encode());
        head.extend_from_slice(fields);
        Self { head: head.freeze(), body }
    }

    /// Total bytes on the wire.
    pub fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Never true: a message has at least a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Head and body in one piece, for tests and small messages.
    pub fn to_vec(&self) -> Vec<u8> {
        [&self.head[..], &self.body[..]].concat()
    }
}

/// What one side of a framed protocol sends.
pub trait Message: Sized {
    /// The longest payload of a message type; `None` for a type that this side does not send.
    fn limit(kind: u8) -> Option<u32>;

    /// Frames the message.
    fn encode(&self) -> Encoded;

    /// Decodes the payload that followed `header`.
    fn decode(header: Header, payload: Bytes) -> Result<Self, DecodeError>;

    /// Takes one message off the front of what has been received; `None` while it is not all there. A
    /// header over its limit is refused at once, so a peer can't make the buffer grow beyond the limit.
    fn take(received: &mut BytesMut) -> Result<Option<Self>, DecodeError> {
        let Some(head) = received.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let header = Header::decode(*head, Self::limit)?;
        let len = header.len as usize;
        if received.len() - HEADER_BYTES < len {
            return Ok(None);
        }
        received.advance(HEADER_BYTES);
        Self::decode(header, received.split_to(len).freeze()).map(Some)
    }
}

/// Makes a type with `encode`, `decode` and a limit a [`Message`].
macro_rules! message {
    ($type:ty, $limit:expr) => {
        impl $crate::frame::Message for $type {
            fn limit(kind: u8) -> Option<u32> {
                $limit(kind)
            }
            fn encode(&self) -> $crate::frame::Encoded {
                <$type>::encode(self)
            }
            fn decode(header: $crate::frame::Header, payload: bytes::Bytes) -> Result<Self, DecodeError> {
                <$type>::decode(header, payload)
            }
        }
    };
}
pub(crate) use message;
