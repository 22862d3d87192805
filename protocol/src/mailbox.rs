//! The mailbox: requests from a sidecar to the tap, in order with GPU commands.
//!
//! A mailbox is a virtio-gpu resource that the sidecar creates: 2D, `R8G8B8A8`, 1024 x 1 pixels, backed
//! by one page of guest memory. The sidecar writes a request into one of [`SLOTS`] slots and issues
//! `DRM_IOCTL_VIRTGPU_TRANSFER_TO_HOST` with that slot's offset. The tap receives the transfer after all
//! earlier GPU commands, with the context ID that the guest *kernel* sets. It copies the request out
//! once, executes it and writes the answer into the same page before the transfer returns.
//!
//! Page:
//!
//! | offset             | size | content                |
//! |--------------------|------|------------------------|
//! | 0 + 128 * slot     | 64   | request of the slot    |
//! | 2048 + 128 * slot  | 64   | answer of the slot     |
//!
//! Request:
//!
//! | offset | size | field                                                             |
//! |--------|------|-------------------------------------------------------------------|
//! | 0      | 4    | magic `DSMB`                                                      |
//! | 4      | 1    | version: 1                                                        |
//! | 5      | 1    | operation: 1 echo, 2 bind, 3 frame                                |
//! | 6      | 2    | reserved, zero                                                    |
//! | 8      | 8    | sequence number, not 0; the answer repeats it                     |
//! | 16     | 16   | bind: nonce of the session                                        |
//! | 16     | 4    | frame: resource ID                                                |
//! | 20     | 4    | frame: DRM fourcc code, not NV12                                  |
//! | 24     | 2    | frame: width in pixels, 1 to 8192                                 |
//! | 26     | 2    | frame: height in pixels, 1 to 8192                                |
//! | 28     | 4    | frame: stride in bytes in the guest; informational                |
//! | 32     | 8    | frame: damage, four `u16`: x, y, width, height; inside the frame  |
//! | 40     | 8    | frame: capture time, ns of the guest's `CLOCK_MONOTONIC`          |
//! | 48     | 16   | reserved, zero                                                    |
//!
//! Bytes that an operation does not use are zero.
//!
//! Answer:
//!
//! | offset | size | field                                                             |
//! |--------|------|-------------------------------------------------------------------|
//! | 0      | 8    | sequence number of the request; written last                      |
//! | 8      | 4    | [`Status`]                                                        |
//! | 12     | 4    | time spent on the VMM's thread, ns                                |
//! | 16     | 4    | frames overwritten since the session was attached                 |
//! | 20     | 2    | tap version                                                       |
//! | 22     | 42   | reserved, zero                                                    |

use crate::pixel::{MAX_SIDE, PixelFormat, Rect};
use crate::wire::DecodeError;

/// Magic number: `DSMB`.
pub const MAGIC: u32 = u32::from_le_bytes(*b"DSMB");
/// Version of the format.
pub const VERSION: u8 = 1;
/// Width of the mailbox resource in pixels; its height is 1.
pub const WIDTH: u32 = 1024;
/// Size of the mailbox in bytes: one page.
pub const BYTES: usize = 4096;
/// Format of the mailbox resource: `VIRGL_FORMAT_R8G8B8A8_UNORM` (`virgl_hw.h`).
pub const VIRGL_FORMAT: u32 = 67;
/// Number of slots, and so of requests that may be in flight.
pub const SLOTS: usize = 8;
/// Size of a request in bytes: all that crosses the VM boundary per frame.
pub const REQUEST_BYTES: usize = 64;
/// Size of an answer in bytes.
pub const ANSWER_BYTES: usize = 64;
/// Length of an answer's fields in bytes; the rest is zero.
const ANSWER_USED: usize = 22;
const SLOT_STRIDE: usize = 128;
const ANSWERS_AT: usize = 2048;

/// Offset of a slot's request in bytes.
pub const fn request_offset(slot: usize) -> usize {
    slot * SLOT_STRIDE
}

/// Offset of a slot's answer in bytes.
pub const fn answer_offset(slot: usize) -> usize {
    ANSWERS_AT + slot * SLOT_STRIDE
}

/// The slot whose request is at `offset`.
pub const fn slot_at(offset: u64) -> Option<usize> {
    if offset.is_multiple_of(SLOT_STRIDE as u64) && offset < (SLOTS * SLOT_STRIDE) as u64 {
        Some((offset / SLOT_STRIDE as u64) as usize)
    } else {
        None
    }
}

/// Request to read a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRequest {
    /// virtio-gpu resource ID.
    pub resource: u32,
    /// Memory layout; never [`PixelFormat::Nv12`].
    pub format: PixelFormat,
    /// Width in pixels, at most [`MAX_SIDE`].
    pub width: u16,
    /// Height in pixels, at most [`MAX_SIDE`].
    pub height: u16,
    /// Distance between rows in the guest, bytes; informational.
    pub stride: u32,
    /// Area that changed since the previous frame; inside the frame.
    pub damage: Rect,
    /// Time at which the compositor finished the frame, ns of the guest's `CLOCK_MONOTONIC`.
    pub capture_ns: u64,
}

/// Operation of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Answer without side effects: shows that a tap is present.
    Echo,
    /// Bind the requesting context to the host-agent session with this nonce.
    Bind([u8; 16]),
    /// Read a frame into the session's ring.
    Frame(FrameRequest),
}

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Sequence number, not 0; the answer repeats it.
    pub seq: u64,
    /// Requested operation.
    pub operation: Operation,
}

/// Result of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Status {
    /// The operation was done.
    Ok = 0,
    /// The request is malformed: wrong version, operation or field.
    BadRequest = 1,
    /// The resource does not exist, or is of a kind that cannot be read.
    UnknownResource = 2,
    /// The resource is not attached to the requesting context.
    NotAttached = 3,
    /// The context is not bound to a session.
    NotBound = 4,
    /// The pixel format differs from the resource's, or cannot be read.
    BadFormat = 5,
    /// The size differs from the resource's, or the damage lies outside it.
    BadBox = 6,
    /// The rate limit for this operation, or the context's share of the VMM's time, is exceeded.
    RateLimited = 7,
    /// virglrenderer failed to read the resource.
    ReadFailed = 8,
    /// The tap is disabled after internal faults.
    Disabled = 9,
    /// No host-agent is connected to the tap.
    NoHostAgent = 10,
    /// The frame is larger than the session's ring slots.
    TooLarge = 11,
}

impl Status {
    /// All values, in numeric order.
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

    /// Label for logs and metrics.
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

/// Answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Sequence number of the request.
    pub seq: u64,
    /// Result of the operation.
    pub status: Status,
    /// Time spent on the VMM's thread, ns.
    pub spent_ns: u32,
    /// Frames that were overwritten before the host-agent took them, since the session was attached.
    pub dropped: u32,
    /// Tap version.
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
    /// Encodes the request.
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

    /// True if the bytes begin with the magic number. Other transfers to the resource are not requests.
    pub fn is_request(bytes: &[u8; REQUEST_BYTES]) -> bool {
        u32_at(bytes, 0) == MAGIC
    }

    /// The sequence number of a request, also of a malformed one.
    pub fn seq_of(bytes: &[u8; REQUEST_BYTES]) -> u64 {
        u64_at(bytes, 8)
    }

    /// Decodes a request that was copied out of guest memory.
    ///
    /// # Errors
    /// If a field is invalid, over its limit, or a reserved byte is not zero.
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
            return Err(DecodeError::Invalid("unused request bytes are not zero"));
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
        return Err(DecodeError::Invalid("width and height must be between 1 and 8192"));
    }
    let damage = Rect::from_wire([32, 34, 36, 38].map(|at| u16_at(bytes, at)));
    if !damage.fits(width.into(), height.into()) {
        return Err(DecodeError::Invalid("damage must not be empty or outside the frame"));
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
    /// Encodes the answer. When it is copied into guest memory, the first eight bytes must be written last.
    pub fn encode(&self) -> [u8; ANSWER_BYTES] {
        let mut out = [0; ANSWER_BYTES];
        put(&mut out, 0, &self.seq.to_le_bytes());
        put(&mut out, 8, &(self.status as u32).to_le_bytes());
        put(&mut out, 12, &self.spent_ns.to_le_bytes());
        put(&mut out, 16, &self.dropped.to_le_bytes());
        put(&mut out, 20, &self.tap_version.to_le_bytes());
        out
    }

    /// Decodes an answer.
    ///
    /// # Errors
    /// If the status is unknown (the tap is newer), or a reserved byte is not zero.
    pub fn decode(bytes: &[u8; ANSWER_BYTES]) -> Result<Self, DecodeError> {
        if bytes[ANSWER_USED..].iter().any(|byte| *byte != 0) {
            return Err(DecodeError::Invalid("reserved answer bytes are not zero"));
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
