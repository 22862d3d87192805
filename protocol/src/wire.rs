//! Reading and writing of little-endian fields.
//!
//! Reading is strict: it accepts only canonical bytes, which encoding the value produces again. Writing
//! cannot fail: a text is cut to its limit, and a number too large for its field is written as the
//! field's maximum ([`saturate`]), which is over the limit that the reader checks. So the peer refuses a
//! value that breaks its documented limits and never misreads it.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes from a peer are malformed or over a limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends inside a field.
    #[error("message is too short: {field} needs {need} bytes, but only {have} are left")]
    Truncated {
        /// Field name.
        field: &'static str,
        /// Length of the field in bytes.
        need: usize,
        /// Remaining length of the message in bytes.
        have: usize,
    },
    /// Bytes remain after the last field.
    #[error("message is too long by {0} bytes")]
    Trailing(usize),
    /// A length or number is over its limit.
    #[error("{field} is {got}, but must be at most {limit}")]
    TooLarge {
        /// Field name.
        field: &'static str,
        /// Value from the peer.
        got: u64,
        /// Largest allowed value.
        limit: u64,
    },
    /// The message does not begin with the protocol's magic number.
    #[error("unknown protocol: the magic number is {0:#010x}")]
    BadMagic(u32),
    /// The peer does not support this version.
    #[error("the peer supports versions {min} to {max}, but this program supports {ours}")]
    Version {
        /// Lowest version of the peer.
        min: u16,
        /// Highest version of the peer.
        max: u16,
        /// Version of this program.
        ours: u16,
    },
    /// A tag or enumeration value is not defined in this version.
    #[error("unknown {what} {value}")]
    Unknown {
        /// Name of the enumeration.
        what: &'static str,
        /// Value from the peer.
        value: u32,
    },
    /// A text field is not UTF-8.
    #[error("{0} is not UTF-8")]
    NotUtf8(&'static str),
    /// A field's value is invalid, or contradicts another field.
    #[error("{0}")]
    Invalid(&'static str),
}

/// Reads the fields of a message from front to back.
///
/// Each function takes the field's name for the error. All fail with [`DecodeError::Truncated`] if the
/// message ends inside the field.
#[derive(Debug)]
pub struct Reader {
    bytes: Bytes,
}

impl Reader {
    /// A reader of `bytes`.
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes }
    }

    fn need(&self, field: &'static str, need: usize) -> Result<(), DecodeError> {
        let have = self.bytes.len();
        if have < need { Err(DecodeError::Truncated { field, need, have }) } else { Ok(()) }
    }

    /// Reads a `u8`.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.need(field, 1)?;
        Ok(self.bytes.get_u8())
    }

    /// Reads a `u16`.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.need(field, 2)?;
        Ok(self.bytes.get_u16_le())
    }

    /// Reads a `u32`.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.need(field, 4)?;
        Ok(self.bytes.get_u32_le())
    }

    /// Reads a `u64`.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        self.need(field, 8)?;
        Ok(self.bytes.get_u64_le())
    }

    /// Reads an `i64`.
    pub fn i64(&mut self, field: &'static str) -> Result<i64, DecodeError> {
        self.need(field, 8)?;
        Ok(self.bytes.get_i64_le())
    }

    /// Reads an `i32`.
    pub fn i32(&mut self, field: &'static str) -> Result<i32, DecodeError> {
        self.need(field, 4)?;
        Ok(self.bytes.get_i32_le())
    }

    /// Reads the magic number at the start of a protocol's first message.
    ///
    /// # Errors
    /// [`DecodeError::BadMagic`] if it is not `ours`.
    pub fn magic(&mut self, ours: u32) -> Result<(), DecodeError> {
        match self.u32("magic")? {
            magic if magic == ours => Ok(()),
            other => Err(DecodeError::BadMagic(other)),
        }
    }

    /// Reads `N` bytes.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        self.need(field, N)?;
        let mut out = [0; N];
        self.bytes.copy_to_slice(&mut out);
        Ok(out)
    }

    /// Reads a text: a `u16` length in bytes, at most `limit`, then UTF-8.
    ///
    /// # Errors
    /// Also if the length is over `limit`, which is checked before the text is read, or if it is not UTF-8.
    pub fn text(&mut self, field: &'static str, limit: usize) -> Result<String, DecodeError> {
        let len = usize::from(self.u16(field)?);
        if len > limit {
            return Err(DecodeError::TooLarge { field, got: len as u64, limit: limit as u64 });
        }
        self.need(field, len)?;
        String::from_utf8(self.bytes.split_to(len).to_vec()).map_err(|_| DecodeError::NotUtf8(field))
    }

    /// Reads `len` bytes without a copy.
    pub fn take(&mut self, field: &'static str, len: usize) -> Result<Bytes, DecodeError> {
        self.need(field, len)?;
        Ok(self.bytes.split_to(len))
    }

    /// Reads all remaining bytes without a copy.
    pub fn rest(&mut self) -> Bytes {
        self.bytes.split_off(0)
    }

    /// Ends the message.
    ///
    /// # Errors
    /// [`DecodeError::Trailing`] if bytes remain.
    pub fn end(self) -> Result<(), DecodeError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.bytes.len())) }
    }
}

/// A number for a 16-bit field. One that is too large becomes `u16::MAX`, which is over every limit on
/// sides, edges and counts.
pub fn saturate(value: u32) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}

/// Appends a text for [`Reader::text`], cut to at most `limit` bytes at a character boundary.
pub fn put_text(out: &mut BytesMut, text: &str, limit: usize) {
    let mut len = text.len().min(limit).min(usize::from(u16::MAX));
    while !text.is_char_boundary(len) {
        len -= 1;
    }
    out.put_u16_le(len as u16);
    out.put_slice(&text.as_bytes()[..len]);
}
