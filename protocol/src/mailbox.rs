//! The mailbox: how a sidecar talks to the tap, in order with all GPU commands.
//!
//! A mailbox is one virtio-gpu resource of the sidecar's: 2D, R8G8B8A8, 1024 x 1, backed by one page of
//! guest memory. The sidecar writes a request into one of [`SLOTS`] slots and issues
//! `DRM_IOCTL_VIRTGPU_TRANSFER_TO_HOST` with that slot's offset; the tap sees the command after all
//! earlier GPU commands, with the context ID that the guest *kernel* stamped on it, copies the request
//! out once, acts, and writes the answer into the same page.
//!
//! | offset           | size      | what                  |
//! |------------------|-----------|-----------------------|
//! | 0 + 128 * slot   | 64        | request of that slot  |
//! | 2048 + 128 * slot| 64        | answer of that slot   |
//!
//! Request:
//!
//! | offset | size | field                                                        |
//! |--------|------|--------------------------------------------------------------|
//! | 0      | 4    | magic `DSMB`                                                 |
//! | 4      | 1    | version, 1                                                   |
//! | 5      | 1    | operation: 1 echo, 2 bind, 3 frame                           |
//! | 6      | 2    | zero                                                         |
//! | 8      | 8    | sequence number; the answer repeats it                       |
//! | 16     | 16   | bind: nonce                                                  |
//! | 16     | 4    | frame: resource ID                                           |
//! | 20     | 4    | frame: DRM fourcc                                            |
//! | 24     | 2+2  | frame: width, height in pixels                               |
//! | 28     | 4    | frame: stride in bytes, as the guest knows it                |
//! | 32     | 2*4  | frame: damage x, y, width, height                            |
//! | 40     | 8    | frame: capture time, guest's `CLOCK_MONOTONIC` in ns         |
//! | 48     | 16   | zero                                                         |
//!
//! Answer: sequence number (8, written last), status (4), tap's time on this request in ns (4),
//! frames dropped since bind (4), tap version (2), zero.

use crate::pixel::{MAX_SIDE, PixelFormat, Rect};
use crate::wire::DecodeError;

/// `DSMB`.
pub const MAGIC: u32 = u32::from_le_bytes(*b"DSMB");
/// Version of the layout.
pub const VERSION: u8 = 1;
/// Width of the mailbox resource in pixels; its height is 1.
pub const WIDTH: u32 = 1024;
/// Bytes of the mailbox: one page.
pub const BYTES: usize = 4096;
/// virgl's `VIRGL_FORMAT_R8G8B8A8_UNORM`, the mailbox's format.
pub const VIRGL_FORMAT: u32 = 67;
/// Requests that may be under way at once.
pub const SLOTS: usize = 8;
/// Bytes of one request: what crosses the boundary per frame.
pub const REQUEST_BYTES: usize = 64;
/// Bytes of one answer.
pub const ANSWER_BYTES: usize = 64;
/// Bytes of an answer that have a meaning; the others are zero.
const ANSWER_USED: usize = 22;
const SLOT_STRIDE: usize = 128;
const ANSWERS_AT: usize = 2048;

/// Where the request of `slot` lies.
pub const fn request_offset(slot: usize) -> usize {
    slot * SLOT_STRIDE
}

/// Where the answer of `slot` lies.
pub const fn answer_offset(slot: usize) -> usize {
    ANSWERS_AT + slot * SLOT_STRIDE
}

/// The slot whose request lies at `offset`, if there is one.
pub const fn slot_at(offset: u64) -> Option<usize> {
    if offset.is_multiple_of(SLOT_STRIDE as u64) && offset < (SLOTS * SLOT_STRIDE) as u64 {
        Some((offset / SLOT_STRIDE as u64) as usize)
    } else {
        None
    }
}

/// A frame to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRequest {
    /// virtio-gpu resource ID.
    pub resource: u32,
    /// Its pixels' layout; never [`PixelFormat::Nv12`].
    pub format: PixelFormat,
    /// Width in pixels, at most [`MAX_SIDE`].
    pub width: u16,
    /// Height in pixels, at most [`MAX_SIDE`].
    pub height: u16,
    /// Bytes from row to row as the guest knows it; informational.
    pub stride: u32,
    /// What changed since the frame before; inside the picture.
    pub damage: Rect,
    /// When the compositor finished it: guest's `CLOCK_MONOTONIC`, ns.
    pub capture_ns: u64,
}

/// What is asked of the tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Answer and do nothing else: is there a tap?
    Echo,
    /// "The session with this nonce is mine": see DESIGN, "Pairing and rights".
    Bind([u8; 16]),
    /// Read a picture.
    Frame(FrameRequest),
}

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Never 0; the answer repeats it.
    pub seq: u64,
    /// What to do.
    pub operation: Operation,
}

/// How the tap answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// The request makes no sense: wrong version, operation or field.
    BadRequest = 1,
    /// No such resource, or one of a kind that can't be read.
    UnknownResource = 2,
    /// The resource is not attached to the context that asks.
    NotAttached = 3,
    /// The context has no session: bind first.
    NotBound = 4,
    /// The pixel format is not the resource's, or not readable.
    BadFormat = 5,
    /// The size or damage does not lie in the resource.
    BadBox = 6,
    /// Too many requests of this kind from this context.
    RateLimited = 7,
    /// virglrenderer could not read the resource.
    ReadFailed = 8,
    /// The tap switched itself off after faults.
    Disabled = 9,
    /// No host-agent is connected to the tap.
    NoHostAgent = 10,
    /// The picture is larger than the session's ring slots.
    TooLarge = 11,
}

impl Status {
    /// All values, in the order of their numbers.
    pub const ALL: [Self; 12] = [
        Self::Ok,
        Self::BadRequest,
        Self::UnknownResource,
        Self::NotAttached,
        Self::NotBound,
        Self::BadFormat,
        Self::BadBox,
        Self::RateLimited,
        Self::ReadFailed,
        Self::Disabled,
        Self::NoHostAgent,
        Self::TooLarge,
    ];

    /// A word for logs and metrics labels.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::BadRequest => "bad_request",
            Self::UnknownResource => "unknown_resource",
            Self::NotAttached => "not_attached",
            Self::NotBound => "not_bound",
            Self::BadFormat => "bad_format",
            Self::BadBox => "bad_box",
            Self::RateLimited => "rate_limited",
            Self::ReadFailed => "read_failed",
            Self::Disabled => "disabled",
            Self::NoHostAgent => "no_host_agent",
            Self::TooLarge => "too_large",
        }
    }
}

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The request's sequence number.
    pub seq: u64,
    /// How it went.
    pub status: Status,
    /// Time that the tap spent on it on the VMM's thread, ns.
    pub spent_ns: u32,
    /// Frames that were overwritten before the encoder took them, since bind.
    pub dropped: u32,
    /// The tap's version.
    pub tap_version: u16,
}

fn u16_at(bytes: &[u8; 64], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8; 64], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8; 64], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

fn put(bytes: &mut [u8; 64], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

impl Request {
    /// The request's bytes.
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut out = [0; REQUEST_BYTES];
        put(&mut out, 0, &MAGIC.to_le_bytes());
        put(&mut out, 8, &self.seq.to_le_bytes());
        out[4] = VERSION;
        out[5] = match &self.operation {
            Operation::Echo => 1,
            Operation::Bind(nonce) => {
                put(&mut out, 16, nonce);
                2
            }
            Operation::Frame(frame) => {
                put(&mut out, 16, &frame.resource.to_le_bytes());
                put(&mut out, 20, &frame.format.fourcc().to_le_bytes());
                put(&mut out, 24, &frame.width.to_le_bytes());
                put(&mut out, 26, &frame.height.to_le_bytes());
                put(&mut out, 28, &frame.stride.to_le_bytes());
                for (i, value) in frame.damage.to_wire().into_iter().enumerate() {
                    put(&mut out, 32 + 2 * i, &value.to_le_bytes());
                }
                put(&mut out, 40, &frame.capture_ns.to_le_bytes());
                3
            }
        };
        out
    }

    /// Whether these bytes claim to be a request; anything else in a guest's transfer is none of ours.
    pub fn is_request(bytes: &[u8; REQUEST_BYTES]) -> bool {
        u32_at(bytes, 0) == MAGIC
    }

    /// The sequence number of a request, also of a malformed one.
    pub fn seq_of(bytes: &[u8; REQUEST_BYTES]) -> u64 {
        u64_at(bytes, 8)
    }

    /// Decodes a request that has been copied out of guest memory.
    pub fn decode(bytes: &[u8; REQUEST_BYTES]) -> Result<Self, DecodeError> {
        if !Self::is_request(bytes) {
            return Err(DecodeError::BadMagic(u32_at(bytes, 0)));
        }
        if bytes[4] != VERSION {
            let peer = bytes[4].into();
            return Err(DecodeError::Version { min: peer, max: peer, ours: VERSION.into() });
        }
        if bytes[6..8] != [0; 2] {
            return Err(DecodeError::Invalid("reserved bytes are not zero"));
        }
        let seq = u64_at(bytes, 8);
        if seq == 0 {
            return Err(DecodeError::Invalid("sequence number is 0"));
        }
        let used = match bytes[5] {
            1 => 16,
            2 => 32,
            3 => 48,
            other => return Err(DecodeError::Unknown { what: "operation", value: other.into() }),
        };
        if bytes[used..].iter().any(|byte| *byte != 0) {
            return Err(DecodeError::Invalid("bytes after the request are not zero"));
        }
        let operation = match bytes[5] {
            1 => Operation::Echo,
            2 => {
                let mut nonce = [0; 16];
                nonce.copy_from_slice(&bytes[16..32]);
                Operation::Bind(nonce)
            }
            _ => Operation::Frame(decode_frame(bytes)?),
        };
        Ok(Self { seq, operation })
    }
}

fn decode_frame(bytes: &[u8; REQUEST_BYTES]) -> Result<FrameRequest, DecodeError> {
    let format = PixelFormat::from_fourcc(u32_at(bytes, 20))?;
    if format == PixelFormat::Nv12 {
        return Err(DecodeError::Unknown { what: "pixel format", value: format.fourcc() });
    }
    let (width, height) = (u16_at(bytes, 24), u16_at(bytes, 26));
    if width == 0 || height == 0 || u32::from(width) > MAX_SIDE || u32::from(height) > MAX_SIDE {
        return Err(DecodeError::Invalid("width or height is 0 or over the limit"));
    }
    let damage = Rect::from_wire([32, 34, 36, 38].map(|at| u16_at(bytes, at)));
    if !damage.fits(width.into(), height.into()) {
        return Err(DecodeError::Invalid("damage is empty or outside the picture"));
    }
    Ok(FrameRequest {
        resource: u32_at(bytes, 16),
        format,
        width,
        height,
        stride: u32_at(bytes, 28),
        damage,
        capture_ns: u64_at(bytes, 40),
    })
}

impl Answer {
    /// The answer's bytes. Whoever puts them into shared memory writes the first eight last.
    pub fn encode(&self) -> [u8; ANSWER_BYTES] {
        let mut out = [0; ANSWER_BYTES];
        put(&mut out, 0, &self.seq.to_le_bytes());
        put(&mut out, 8, &(self.status as u32).to_le_bytes());
        put(&mut out, 12, &self.spent_ns.to_le_bytes());
        put(&mut out, 16, &self.dropped.to_le_bytes());
        put(&mut out, 20, &self.tap_version.to_le_bytes());
        out
    }

    /// Decodes an answer. An unknown status is an error: the tap is newer than we are.
    pub fn decode(bytes: &[u8; ANSWER_BYTES]) -> Result<Self, DecodeError> {
        if bytes[ANSWER_USED..].iter().any(|byte| *byte != 0) {
            return Err(DecodeError::Invalid("bytes after the answer are not zero"));
        }
        let number = u32_at(bytes, 8);
        let status = Status::ALL
            .get(number as usize)
            .copied()
            .ok_or(DecodeError::Unknown { what: "status", value: number })?;
        Ok(Self {
            seq: u64_at(bytes, 0),
            status,
            spent_ns: u32_at(bytes, 12),
            dropped: u32_at(bytes, 16),
            tap_version: u16_at(bytes, 20),
        })
    }
}
