//! Contents of clipboards on the WebSocket. Both directions use the same messages:
//!
//! 1. Text: `{"type":"selection","id":7,"parts":[{"format":"text/plain","bytes":12},…]}` announces a content.
//! 2. Binary, little-endian, until all bytes of all parts are sent in their order; other messages may come between:
//!
//! | offset | size | field                                                          |
//! |--------|------|----------------------------------------------------------------|
//! | 0      | 1    | [`TAG`]; binary messages of pictures and sound begin with 1    |
//! | 1      | 1    | version, 1                                                     |
//! | 2      | 1    | format: 1 text, 2 HTML, 3 PNG                                  |
//! | 3      | 1    | zero                                                           |
//! | 4      | 4    | `id` of the content                                            |
//! | 8      |      | at most [`MAX_CHUNK`] bytes of the part                        |
//!
//! The server answers a viewer's content with `{"type":"stored","id":7}`, which has an `error` if the desktop does not have it. It
//! sends contents of the desktop only to viewers that said `{"type":"accepts","formats":[…]}`. A new content replaces one that is
//! not complete.

use bytes::{BufMut as _, Bytes, BytesMut};
use contract::clipboard::{ClipboardPolicy, Format, Part};
use serde::{Deserialize, Serialize};

/// First byte of a chunk.
pub const TAG: u8 = b'C';
/// Version of the chunk.
pub const VERSION: u8 = 1;
/// Size of the chunk's header in bytes.
pub const HEADER_BYTES: usize = 8;
/// Maximum size of a chunk without its header, bytes. Between chunks, access units, sound and input are sent.
pub const MAX_CHUNK: usize = 32 << 10;

/// Bytes of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Number of the content.
    pub id: u32,
    /// Format of the part.
    pub format: Format,
    /// One to [`MAX_CHUNK`] bytes.
    pub bytes: Bytes,
}

impl Chunk {
    /// Encodes the chunk as a binary message.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER_BYTES + self.bytes.len());
        out.put_slice(&[TAG, VERSION, self.format.number(), 0]);
        out.put_u32_le(self.id);
        out.put_slice(&self.bytes);
        out.freeze()
    }

    /// Decodes a binary message; `None` if it is not a chunk.
    pub fn decode(message: &Bytes) -> Option<Self> {
        let (header, rest) = message.split_first_chunk::<HEADER_BYTES>()?;
        let [TAG, VERSION, format, 0, id @ ..] = *header else { return None };
        let is_accepted = !rest.is_empty() && rest.len() <= MAX_CHUNK;
        let format = Format::from_number(format).filter(|_| is_accepted)?;
        Some(Self { id: u32::from_le_bytes(id), format, bytes: message.slice(HEADER_BYTES..) })
    }
}

/// Announcement of a content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Announcement {
    /// Number of the content, which the sender chooses.
    pub id: u32,
    /// Parts in the order in which they are sent.
    pub parts: Vec<Part>,
}

/// A viewer's access to the clipboard of the desktop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClipboardInfo {
    /// Policy of the desktop.
    pub policy: ClipboardPolicy,
    /// Protocol in use; `None` while the clipboard is not available.
    pub protocol: Option<&'static str>,
    /// Reason why the clipboard is not available; empty if it is.
    pub reason: String,
}

/// Result of a viewer's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stored {
    /// Number of the content.
    pub id: u32,
    /// Reason why the desktop does not have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_matches_its_golden_bytes_and_decodes_to_the_same() {
        let chunk = Chunk { id: 0x0102_0304, format: Format::Html, bytes: Bytes::from_static(b"<b>") };
        let golden = [b'C', 1, 2, 0, 4, 3, 2, 1, b'<', b'b', b'>'];
        assert_eq!(&chunk.encode()[..], golden);
        assert_eq!(Chunk::decode(&chunk.encode()), Some(chunk));
    }

    #[test]
    fn binary_message_that_is_not_a_chunk_is_refused() {
        let chunk =
            |bytes: usize| Chunk { id: 1, format: Format::Png, bytes: vec![7; bytes].into() }.encode();
        assert!(Chunk::decode(&chunk(MAX_CHUNK)).is_some());
        assert_eq!(Chunk::decode(&chunk(MAX_CHUNK + 1)), None);
        assert_eq!(Chunk::decode(&chunk(0)), None, "an empty chunk would be endless progress");
        for (at, value) in [(0, 1), (1, 2), (2, 0), (2, 4), (3, 1)] {
            let mut bytes = chunk(9).to_vec();
            bytes[at] = value;
            assert_eq!(Chunk::decode(&bytes.into()), None, "byte {at} is {value}");
        }
        assert_eq!(Chunk::decode(&Bytes::from_static(&[1, 2, 3])), None);
    }
}
