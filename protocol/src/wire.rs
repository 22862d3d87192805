//! Reading and writing little-endian fields: the only place where offsets are counted.
//!
//! Reading fails with a [`DecodeError`], and what it accepts is canonical: encoding the value again gives
//! the same bytes. Writing cannot fail. A text is cut to its limit; a number that its field can't hold is
//! written as the largest that it can ([`saturate`]), and those are beyond the limits that the reader
//! checks. So a value that breaks its documented limits is refused by the peer, never misread.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Why bytes from a peer could not be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ended inside a field.
    #[error("message is too short: {field} needs {need} bytes, {have} are left")]
    Truncated {
        /// The field that did not fit.
        field: &'static str,
        /// Bytes the field needs.
        need: usize,
        /// Bytes that were left.
        have: usize,
    },
    /// Bytes remained after the last field.
    #[error("{0} unexpected bytes after the message")]
    Trailing(usize),
    /// A length is over its limit.
    #[error("{field} is {got}, the limit is {limit}")]
    TooLarge {
        /// What was measured.
        field: &'static str,
        /// What the peer asked for.
        got: u64,
        /// The named limit.
        limit: u64,
    },
    /// The first bytes are not of this protocol.
    #[error("not this protocol: magic is {0:#010x}")]
    BadMagic(u32),
    /// No version in common.
    #[error("peer speaks versions {min} to {max}, we speak {ours}")]
    Version {
        /// The peer's lowest version.
        min: u16,
        /// The peer's highest version.
        max: u16,
        /// Our version.
        ours: u16,
    },
    /// A tag or enumeration value that this version does not know.
    #[error("unknown {what} {value}")]
    Unknown {
        /// The enumeration.
        what: &'static str,
        /// The value received.
        value: u32,
    },
    /// A text field is no UTF-8.
    #[error("{0} is not UTF-8")]
    NotUtf8(&'static str),
    /// A field has a value that contradicts another.
    #[error("{0}")]
    Invalid(&'static str),
}

/// Takes fields off the front of a message.
#[derive(Debug)]
pub struct Reader {
    bytes: Bytes,
}

impl Reader {
    /// Reads from `bytes`.
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes }
    }

    fn need(&self, field: &'static str, need: usize) -> Result<(), DecodeError> {
        let have = self.bytes.len();
        if have < need { Err(DecodeError::Truncated { field, need, have }) } else { Ok(()) }
    }

    /// One byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.need(field, 1)?;
        Ok(self.bytes.get_u8())
    }

    /// Two bytes.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.need(field, 2)?;
        Ok(self.bytes.get_u16_le())
    }

    /// Four bytes.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.need(field, 4)?;
        Ok(self.bytes.get_u32_le())
    }

    /// Eight bytes.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        self.need(field, 8)?;
        Ok(self.bytes.get_u64_le())
    }

    /// Eight bytes, signed.
    pub fn i64(&mut self, field: &'static str) -> Result<i64, DecodeError> {
        self.need(field, 8)?;
        Ok(self.bytes.get_i64_le())
    }

    /// Four bytes, signed.
    pub fn i32(&mut self, field: &'static str) -> Result<i32, DecodeError> {
        self.need(field, 4)?;
        Ok(self.bytes.get_i32_le())
    }

    /// The four bytes that open a protocol's first message.
    pub fn magic(&mut self, ours: u32) -> Result<(), DecodeError> {
        match self.u32("magic")? {
            magic if magic == ours => Ok(()),
            other => Err(DecodeError::BadMagic(other)),
        }
    }

    /// A fixed array.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        self.need(field, N)?;
        let mut out = [0; N];
        self.bytes.copy_to_slice(&mut out);
        Ok(out)
    }

    /// A text: u16 length, then UTF-8, at most `limit` bytes.
    pub fn text(&mut self, field: &'static str, limit: usize) -> Result<String, DecodeError> {
        let len = usize::from(self.u16(field)?);
        if len > limit {
            return Err(DecodeError::TooLarge { field, got: len as u64, limit: limit as u64 });
        }
        self.need(field, len)?;
        String::from_utf8(self.bytes.split_to(len).to_vec()).map_err(|_| DecodeError::NotUtf8(field))
    }

    /// `len` bytes, without copying them.
    pub fn take(&mut self, field: &'static str, len: usize) -> Result<Bytes, DecodeError> {
        self.need(field, len)?;
        Ok(self.bytes.split_to(len))
    }

    /// All that is left, without copying it.
    pub fn rest(&mut self) -> Bytes {
        self.bytes.split_off(0)
    }

    /// Fails if anything is left.
    pub fn end(self) -> Result<(), DecodeError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.bytes.len())) }
    }
}

/// A number as its 16-bit field holds it: one that is too large becomes the largest, which is over every
/// limit on sides, edges and counts.
pub fn saturate(value: u32) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}

/// Appends a text as [`Reader::text`] reads it, cut at a character boundary to `limit` bytes.
pub fn put_text(out: &mut BytesMut, text: &str, limit: usize) {
    let mut len = text.len().min(limit).min(usize::from(u16::MAX));
    while !text.is_char_boundary(len) {
        len -= 1;
    }
    out.put_u16_le(len as u16);
    out.put_slice(&text.as_bytes()[..len]);
}
