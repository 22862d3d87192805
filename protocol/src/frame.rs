//! Length-prefixed framing: the header that [`stream`](crate::stream) and [`link`](crate::link) share, and
//! the incremental [`Decoder`] that reads every framed protocol of this crate.
//!
//! | offset | size | field                               |
//! |--------|------|-------------------------------------|
//! | 0      | 4    | payload length in bytes             |
//! | 4      | 1    | message type                        |
//! | 5      | 3    | reserved, zero                      |
//!
//! The payload follows at offset 8. A reader checks the length against the limit of that message type
//! before it reserves memory for the payload.

use std::marker::PhantomData;

use bytes::{Buf, Bytes, BytesMut};

use crate::wire::DecodeError;

/// Length of a header in bytes.
pub const HEADER_BYTES: usize = 8;

/// Room that a [`Decoder`] makes for a read before it has the next message's header, bytes.
const READ_BYTES: usize = 16 << 10;

/// A decoded header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Length of the payload in bytes.
    pub len: u32,
    /// Message type; each protocol has its own.
    pub kind: u8,
}

impl Header {
    /// Decodes a header. `limit` gives the longest payload of a message type in bytes, or `None` for a
    /// type that this side does not accept.
    ///
    /// # Errors
    /// If the reserved bytes are not zero, the type is not accepted or the length is over its limit.
    pub fn decode(bytes: [u8; HEADER_BYTES], limit: impl Fn(u8) -> Option<u32>) -> Result<Self, DecodeError> {
        let [a, b, c, d, kind, zeros @ ..] = bytes;
        if zeros != [0; 3] {
            return Err(DecodeError::Invalid("reserved header bytes are not zero"));
        }
        let len = u32::from_le_bytes([a, b, c, d]);
        check_limit(kind, len, limit)?;
        Ok(Self { len, kind })
    }

    /// The header's bytes.
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let [a, b, c, d] = self.len.to_le_bytes();
        [a, b, c, d, self.kind, 0, 0, 0]
    }
}

/// Checks a payload length against the limit of its message type.
pub(crate) fn check_limit(kind: u8, len: u32, limit: impl Fn(u8) -> Option<u32>) -> Result<(), DecodeError> {
    match limit(kind) {
        None => Err(DecodeError::Unknown { what: "message type", value: kind.into() }),
        Some(limit) if len > limit => {
            Err(DecodeError::TooLarge { field: "payload", got: len.into(), limit: limit.into() })
        }
        Some(_) => Ok(()),
    }
}

/// The fixed-size header before each message of a framed protocol.
pub trait FrameHeader: Copy {
    /// Length of the header in bytes.
    const BYTES: usize;

    /// Decodes the first [`FrameHeader::BYTES`] of `bytes`; `None` if there are fewer. `limit` is as for
    /// [`Header::decode`].
    ///
    /// # Errors
    /// If the header is malformed or the payload length is over its limit.
    fn parse(bytes: &[u8], limit: impl Fn(u8) -> Option<u32>) -> Result<Option<Self>, DecodeError>;

    /// Length of the payload in bytes.
    fn payload_bytes(&self) -> usize;
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

/// An incremental reader of framed messages without IO: received bytes go in, whole messages come out.
///
/// The buffer holds at most one incomplete message, as long as its type's limit allows, and what was
/// received after it. After an error the position in the stream is lost: close the connection.
#[derive(Debug)]
pub struct Decoder<H = Header> {
    received: BytesMut,
    /// Length of the message at the front, header included, once its header is known.
    message_bytes: Option<usize>,
    header: PhantomData<H>,
}

impl<H> Default for Decoder<H> {
    fn default() -> Self {
        Self { received: BytesMut::new(), message_bytes: None, header: PhantomData }
    }
}

impl<H: FrameHeader> Decoder<H> {
    /// A decoder at the start of a message.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
    }

    /// The buffer to append received bytes to, with room for the next read: the rest of the message whose
    /// header [`Decoder::next`] has seen, else 16 KiB.
    pub fn buffer(&mut self) -> &mut BytesMut {
        let room = match self.message_bytes {
            Some(bytes) => bytes.saturating_sub(self.received.len()),
            None => READ_BYTES,
        };
        self.received.reserve(room.max(1));
        &mut self.received
    }

    /// Takes the next message off the front: its header and payload. `None` while it is incomplete.
    /// `limit` is as for [`Header::decode`]; it is applied before room is made for the payload.
    ///
    /// # Errors
    /// If the header is malformed or the payload length is over its limit.
    pub fn next(&mut self, limit: impl Fn(u8) -> Option<u32>) -> Result<Option<(H, Bytes)>, DecodeError> {
        let Some(header) = H::parse(&self.received, limit)? else { return Ok(None) };
        let bytes = H::BYTES + header.payload_bytes();
        if self.received.len() < bytes {
            self.message_bytes = Some(bytes);
            return Ok(None);
        }
        self.message_bytes = None;
        let mut message = self.received.split_to(bytes);
        message.advance(H::BYTES);
        Ok(Some((header, message.freeze())))
    }

    /// True at the boundary between two messages: no byte of the next one was received.
    pub fn is_between_messages(&self) -> bool {
        self.received.is_empty()
    }

    /// Number of bytes that were received and not taken.
    pub fn buffered(&self) -> usize {
        self.received.len()
    }
}

impl Decoder<Header> {
    /// Takes and decodes the next message; `None` while it is incomplete.
    ///
    /// # Errors
    /// If the header or the payload is malformed, or over its limit.
    pub fn next_message<M: Message>(&mut self) -> Result<Option<M>, DecodeError> {
        let Some((header, payload)) = self.next(M::limit)? else { return Ok(None) };
        M::decode(header, payload).map(Some)
    }
}

/// An encoded message: a small head that was written for it and, for pictures and access units, a body
/// that is sent without a copy.
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

    /// Total length on the wire in bytes.
    pub fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Always false: a message has at least a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Head and body in one piece: for tests and small messages.
    pub fn to_vec(&self) -> Vec<u8> {
        [&self.head[..], &self.body[..]].concat()
    }
}

/// The messages that one side of a protocol with [`Header`] framing sends.
pub trait Message: Sized {
    /// The longest payload of a message type in bytes; `None` for a type that this side does not send.
    fn limit(kind: u8) -> Option<u32>;

    /// Frames the message.
    fn encode(&self) -> Encoded;

    /// Decodes the payload that followed `header`.
    ///
    /// # Errors
    /// If the payload is malformed or a field is over its limit.
    fn decode(header: Header, payload: Bytes) -> Result<Self, DecodeError>;
}

/// Implements [`Message`] for a type with inherent `encode` and `decode` functions and a limit.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(kind: u8) -> Option<u32> {
        (kind == 7).then_some(10)
    }

    fn message(payload: &[u8]) -> Vec<u8> {
        Encoded::new(7, payload, Bytes::new()).to_vec()
    }

    #[test]
    fn message_in_single_bytes_is_one_message() {
        let mut decoder = Decoder::<Header>::new();
        let bytes = message(&[1, 2, 3]);
        let (last, first) = bytes.split_last().expect("not empty");
        for byte in first {
            decoder.push(&[*byte]);
            assert_eq!(decoder.next(limit), Ok(None));
            assert!(!decoder.is_between_messages());
        }
        decoder.push(&[*last]);
        let expected = (Header { len: 3, kind: 7 }, Bytes::from_static(&[1, 2, 3]));
        assert_eq!(decoder.next(limit), Ok(Some(expected)));
        assert!(decoder.is_between_messages());
    }

    #[test]
    fn messages_received_together_are_taken_one_by_one() {
        let mut decoder = Decoder::<Header>::new();
        decoder.buffer().extend_from_slice(&[message(&[1]), message(&[]), message(&[2])].concat()[..20]);
        for payload in [&[1][..], &[]] {
            let (_, got) = decoder.next(limit).expect("well-formed").expect("complete");
            assert_eq!(got, payload);
        }
        assert_eq!(decoder.next(limit), Ok(None));
        assert_eq!(decoder.buffered(), 3);
    }

    #[test]
    fn length_over_the_limit_is_refused_before_the_payload() {
        let mut decoder = Decoder::<Header>::new();
        decoder.push(&Header { len: 11, kind: 7 }.encode());
        assert!(matches!(decoder.next(limit), Err(DecodeError::TooLarge { .. })));
    }

    #[test]
    fn type_without_a_limit_is_refused() {
        let mut decoder = Decoder::<Header>::new();
        decoder.push(&Header { len: 0, kind: 8 }.encode());
        assert!(matches!(decoder.next(limit), Err(DecodeError::Unknown { .. })));
    }

    #[test]
    fn buffer_makes_room_for_the_rest_of_the_message_only() {
        let mut decoder = Decoder::<Header>::new();
        let large = 8 << 20;
        decoder.push(&Header { len: large, kind: 7 }.encode());
        assert!(decoder.received.capacity() < 1 << 10);
        assert_eq!(decoder.next(|_| Some(large)), Ok(None));
        let spare = decoder.buffer().spare_capacity_mut().len();
        assert!((large as usize..=large as usize + READ_BYTES).contains(&spare), "{spare}");
    }
}
