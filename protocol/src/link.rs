//! The link between a tap and the host-agent: a Unix stream socket on the host, [`frame`](crate::frame)
//! framing. The host-agent listens, taps connect and reconnect. Both ends run as the same user.
//!
//! | type | message       | payload                                                                      |
//! |------|---------------|------------------------------------------------------------------------------|
//! | 0x01 | `Hello`       | magic `DSLK` 4, lowest version 2, highest 2, tap version 2, instance 16, pid 4, callbacks ABI 4, VM text |
//! | 0x02 | `Bind`        | context 4, generation 8, nonce 16, context's name text                       |
//! | 0x03 | `ContextGone` | context 4, generation 8                                                      |
//! | 0x04 | `Stats`       | [`Stats`]                                                                    |
//! | 0x81 | `HelloAck`    | magic `DSLK` 4, version 2                                                    |
//! | 0x82 | `Attach`      | session 8, context 4, generation 8; two descriptors go with its first byte: the ring's memory and a socket to ring when a slot is full |
//! | 0x83 | `Detach`      | session 8                                                                    |
//!
//! A context's *generation* tells apart contexts that had the same ID one after the other: virglrenderer
//! reuses IDs at once, so every message names both.

use bytes::{BufMut, Bytes, BytesMut};

use crate::frame::{Encoded, Header, message};
use crate::mailbox::Status;
use crate::wire::{DecodeError, Reader, put_text};

/// `DSLK`.
pub const MAGIC: u32 = u32::from_le_bytes(*b"DSLK");
/// The version spoken here.
pub const VERSION: u16 = 1;
/// Longest text.
pub const MAX_TEXT: usize = 128;
/// Longest message.
pub const MAX_MESSAGE: u32 = 4 << 10;
/// Descriptors that come with [`ToTap::Attach`].
pub const ATTACH_DESCRIPTORS: usize = 2;

/// A virgl context of one VM, told apart from earlier ones with the same ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Context {
    /// virgl context ID.
    pub id: u32,
    /// Counts up with every context that the tap saw created.
    pub generation: u64,
}

/// A distribution in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quantiles {
    /// Samples.
    pub count: u64,
    /// Median.
    pub p50: u64,
    /// 99th percentile.
    pub p99: u64,
    /// Largest.
    pub max: u64,
}

/// What a tap counts; all numbers since it was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Answers by [`Status`], in the order of [`Status::ALL`].
    pub answers: [u64; Status::ALL.len()],
    /// Bytes of requests that came over mailboxes.
    pub request_bytes: u64,
    /// Bytes of pictures read.
    pub picture_bytes: u64,
    /// Panics caught.
    pub faults: u64,
    /// 1 when the tap has switched itself off.
    pub disabled: u8,
    /// Contexts alive.
    pub contexts: u32,
    /// Resources alive.
    pub resources: u32,
    /// The tap's whole time on the VMM's thread per frame request.
    pub entry: Quantiles,
    /// The reader's share of that: for `copy`, the bare `virgl_renderer_transfer_read_iov`.
    pub read: Quantiles,
}

/// From tap to host-agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromTap {
    /// First message.
    Hello {
        /// Lowest version spoken.
        min: u16,
        /// Highest version spoken.
        max: u16,
        /// The tap's own version.
        tap_version: u16,
        /// Random per tap: tells a reconnect from a new VM.
        instance: [u8; 16],
        /// Process ID of the VMM.
        pid: u32,
        /// `virgl_renderer_callbacks.version` that the VMM uses.
        abi: u32,
        /// The VM's name.
        vm: String,
    },
    /// A context rang its mailbox with a nonce.
    Bind {
        /// Whose mailbox, as the guest kernel stamped it.
        context: Context,
        /// The nonce.
        nonce: [u8; 16],
        /// The context's debug name, from the guest.
        name: String,
    },
    /// A context was destroyed, or the VM was reset.
    ContextGone(Context),
    /// Counters, about once a second while something happens.
    Stats(Stats),
}

/// From host-agent to tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToTap {
    /// The link stands.
    HelloAck {
        /// Version chosen.
        version: u16,
    },
    /// Pictures of this context go into the ring whose descriptors come with this message.
    Attach {
        /// The host-agent's session.
        session: u64,
        /// The context.
        context: Context,
    },
    /// The session is over; its ring is no longer written.
    Detach {
        /// The host-agent's session.
        session: u64,
    },
}

/// The longest payload of a message type that a host-agent takes.
pub fn from_tap_limit(kind: u8) -> Option<u32> {
    matches!(kind, 0x01..=0x04).then_some(MAX_MESSAGE)
}

/// The longest payload of a message type that a tap takes.
pub fn to_tap_limit(kind: u8) -> Option<u32> {
    matches!(kind, 0x81..=0x83).then_some(MAX_MESSAGE)
}

fn put_context(out: &mut BytesMut, context: Context) {
    out.put_u32_le(context.id);
    out.put_u64_le(context.generation);
}

fn get_context(r: &mut Reader) -> Result<Context, DecodeError> {
    Ok(Context { id: r.u32("context")?, generation: r.u64("generation")? })
}

fn put_quantiles(out: &mut BytesMut, q: Quantiles) {
    for value in [q.count, q.p50, q.p99, q.max] {
        out.put_u64_le(value);
    }
}

fn get_quantiles(r: &mut Reader) -> Result<Quantiles, DecodeError> {
    Ok(Quantiles { count: r.u64("count")?, p50: r.u64("p50")?, p99: r.u64("p99")?, max: r.u64("max")? })
}

message!(FromTap, from_tap_limit);
message!(ToTap, to_tap_limit);

impl FromTap {
    /// Frames the message.
    pub fn encode(&self) -> Encoded {
        let mut out = BytesMut::new();
        let kind = match self {
            Self::Hello { min, max, tap_version, instance, pid, abi, vm } => {
                out.put_u32_le(MAGIC);
                out.put_u16_le(*min);
                out.put_u16_le(*max);
                out.put_u16_le(*tap_version);
                out.put_slice(instance);
                out.put_u32_le(*pid);
                out.put_u32_le(*abi);
                put_text(&mut out, vm, MAX_TEXT);
                0x01
            }
            Self::Bind { context, nonce, name } => {
                put_context(&mut out, *context);
                out.put_slice(nonce);
                put_text(&mut out, name, MAX_TEXT);
                0x02
            }
            Self::ContextGone(context) => {
                put_context(&mut out, *context);
                0x03
            }
            Self::Stats(stats) => {
                for answers in stats.answers {
                    out.put_u64_le(answers);
                }
                out.put_u64_le(stats.request_bytes);
                out.put_u64_le(stats.picture_bytes);
                out.put_u64_le(stats.faults);
                out.put_u8(stats.disabled);
                out.put_u32_le(stats.contexts);
                out.put_u32_le(stats.resources);
                put_quantiles(&mut out, stats.entry);
                put_quantiles(&mut out, stats.read);
                0x04
            }
        };
        Encoded::new(kind, &out, Bytes::new())
    }

    /// Decodes the payload that followed `header`.
    pub fn decode(header: Header, payload: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(payload);
        let message = match header.kind {
            0x01 => {
                r.magic(MAGIC)?;
                Self::Hello {
                    min: r.u16("lowest version")?,
                    max: r.u16("highest version")?,
                    tap_version: r.u16("tap version")?,
                    instance: r.array("instance")?,
                    pid: r.u32("pid")?,
                    abi: r.u32("abi")?,
                    vm: r.text("vm", MAX_TEXT)?,
                }
            }
            0x02 => Self::Bind {
                context: get_context(&mut r)?,
                nonce: r.array("nonce")?,
                name: r.text("name", MAX_TEXT)?,
            },
            0x03 => Self::ContextGone(get_context(&mut r)?),
            0x04 => {
                let mut stats = Stats::default();
                for answers in &mut stats.answers {
                    *answers = r.u64("answers")?;
                }
                stats.request_bytes = r.u64("request bytes")?;
                stats.picture_bytes = r.u64("picture bytes")?;
                stats.faults = r.u64("faults")?;
                stats.disabled = r.u8("disabled")?;
                stats.contexts = r.u32("contexts")?;
                stats.resources = r.u32("resources")?;
                stats.entry = get_quantiles(&mut r)?;
                stats.read = get_quantiles(&mut r)?;
                Self::Stats(stats)
            }
            other => return Err(DecodeError::Unknown { what: "message type", value: other.into() }),
        };
        r.end()?;
        Ok(message)
    }
}

impl ToTap {
    /// Frames the message.
    pub fn encode(&self) -> Encoded {
        let mut out = BytesMut::new();
        let kind = match self {
            Self::HelloAck { version } => {
                out.put_u32_le(MAGIC);
                out.put_u16_le(*version);
                0x81
            }
            Self::Attach { session, context } => {
                out.put_u64_le(*session);
                put_context(&mut out, *context);
                0x82
            }
            Self::Detach { session } => {
                out.put_u64_le(*session);
                0x83
            }
        };
        Encoded::new(kind, &out, Bytes::new())
    }

    /// Decodes the payload that followed `header`.
    pub fn decode(header: Header, payload: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(payload);
        let message = match header.kind {
            0x81 => {
                r.magic(MAGIC)?;
                Self::HelloAck { version: r.u16("version")? }
            }
            0x82 => Self::Attach { session: r.u64("session")?, context: get_context(&mut r)? },
            0x83 => Self::Detach { session: r.u64("session")? },
            other => return Err(DecodeError::Unknown { what: "message type", value: other.into() }),
        };
        r.end()?;
        Ok(message)
    }
}
