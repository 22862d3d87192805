//! The four framed message types behind one trait, so that a rule is written once and tried on all.

use std::fmt::Debug;

use bytes::Bytes;
use protocol::DecodeError;
use protocol::frame::{Encoded, HEADER_BYTES, Header};
use protocol::link::{FromTap, ToTap, from_tap_limit, to_tap_limit};
use protocol::stream::{ClientMessage, ServerMessage};

/// What one side of a framed protocol sends.
pub trait Framed: Debug + PartialEq + Sized {
    fn limit(kind: u8) -> Option<u32>;
    fn encode(&self) -> Encoded;
    fn decode(header: Header, payload: Bytes) -> Result<Self, DecodeError>;

    /// Decodes exactly one message, as a socket reader would: header, limit, payload.
    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let Some((head, payload)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err(DecodeError::Truncated { field: "header", need: HEADER_BYTES, have: bytes.len() });
        };
        let header = Header::decode(*head, Self::limit)?;
        let (need, have) = (header.len as usize, payload.len());
        if have < need {
            return Err(DecodeError::Truncated { field: "payload", need, have });
        }
        if have > need {
            return Err(DecodeError::Trailing(have - need));
        }
        Self::decode(header, Bytes::copy_from_slice(payload))
    }
}

macro_rules! framed {
    ($type:ty, $limit:expr) => {
        impl Framed for $type {
            fn limit(kind: u8) -> Option<u32> {
                $limit(kind)
            }
            fn encode(&self) -> Encoded {
                <$type>::encode(self)
            }
            fn decode(header: Header, payload: Bytes) -> Result<Self, DecodeError> {
                <$type>::decode(header, payload)
            }
        }
    };
}

framed!(ClientMessage, ClientMessage::limit);
framed!(ServerMessage, ServerMessage::limit);
framed!(FromTap, from_tap_limit);
framed!(ToTap, to_tap_limit);
