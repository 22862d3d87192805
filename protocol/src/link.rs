//! The link between tap and host-agent: a Unix stream socket on the host with [`frame`](crate::frame)
//! framing. The host-agent listens; taps connect, and reconnect. Both ends run as the same user.
//!
//! Messages from tap to host-agent:
//!
//! | type | message       | payload: field and size in bytes                                           |
//! |------|---------------|----------------------------------------------------------------------------|
//! | 0x01 | `Hello`       | magic `DSLK` 4, lowest version 2, highest version 2, tap version 2, instance 16, process ID 4, callbacks version 4, VM name text |
//! | 0x02 | `Bind`        | context ID 4, generation 8, nonce 16, context name text                    |
//! | 0x03 | `ContextGone` | context ID 4, generation 8                                                 |
//! | 0x04 | `Stats`       | answers 12 x 8 ([`Status::ALL`]), request bytes 8, frame bytes 8, faults 8, disabled 1, contexts 4, resources 4, entry [`Quantiles`] 32, read [`Quantiles`] 32 |
//! | 0x05 | `RingReady`   | session 8, ring 8                                                          |
//! | 0x06 | `RingRefused` | session 8, ring 8, [`RingRefusal`] 1                                       |
//!
//! Messages from host-agent to tap:
//!
//! | type | message       | payload: field and size in bytes                                           |
//! |------|---------------|----------------------------------------------------------------------------|
//! | 0x81 | `HelloAck`    | magic `DSLK` 4, version 2                                                  |
//! | 0x82 | `Attach`      | session 8, ring 8, context ID 4, generation 8; with two descriptors        |
//! | 0x83 | `Detach`      | session 8                                                                  |
//! | 0x84 | `Expect`      | `n` 2, `n` [nonce prefixes](nonce_prefix) of 8                             |
//! | 0x85 | `Forget`      | nonce prefix 8                                                             |
//!
//! A text is a `u16` length in bytes, at most [`MAX_TEXT`], then UTF-8. The descriptors of `Attach` are
//! sent with its first byte (`SCM_RIGHTS`): the ring's memory, and the wake fd's socket that the tap
//! writes to when a slot is full. The tap answers each `Attach` with `RingReady` or `RingRefused`. A
//! refused ring is a matter of its session and leaves the link and all other sessions as they are.
//!
//! `Expect` tells the tap which nonces belong to sessions, by their first half. A guest that knows the
//! nonce of a session is thereby told apart from one that guesses, whose binds are limited more strictly.
//! The other half stays between host-agent and sidecar, so a VMM learns no nonce of another VM's sessions.
//!
//! virglrenderer reuses context IDs immediately. A *generation* distinguishes contexts that had the same
//! ID one after the other, so every message names both.

use bytes::{BufMut, Bytes, BytesMut};

use crate::frame::{Encoded, Header, message};
use crate::mailbox::Status;
use crate::wire::{DecodeError, Reader, put_text, saturate};

/// Magic number: `DSLK`.
pub const MAGIC: u32 = u32::from_le_bytes(*b"DSLK");
/// Version of the protocol.
pub const VERSION: u16 = 2;
/// Longest text in bytes. A guest's context name has at most 64 bytes, and a VM name is for display.
pub const MAX_TEXT: usize = 128;
/// Longest payload in bytes; the largest message (`Stats`) has 193.
pub const MAX_MESSAGE: u32 = 4 << 10;
/// Largest number of nonce prefixes in one [`ToTap::Expect`].
pub const MAX_EXPECT: usize = 256;
/// Largest total size of the rings that a tap keeps mapped, in bytes. A host-agent stays below it by at
/// least one ring of the largest size, because a ring that the VMM's thread uses is unmapped only after that.
pub const MAX_RING_BYTES: u64 = 4 << 30;
/// Number of descriptors sent with [`ToTap::Attach`].
pub const ATTACH_DESCRIPTORS: usize = 2;

/// A virgl context of one VM, distinct from earlier ones with the same ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Context {
    /// virgl context ID, 1 and up.
    pub id: u32,
    /// Rises with every context that is created in the VM.
    pub generation: u64,
}

/// Reason why a tap refused a ring. On the wire: a `u8`, in this order from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RingRefusal {
    /// The VM's rings would exceed [`MAX_RING_BYTES`].
    Memory,
    /// The VM has too many sessions.
    Sessions,
    /// The memory is not a usable ring, or cannot be mapped.
    Memfd,
    /// The wake fd is not a connected socket.
    WakeFd,
}

impl RingRefusal {
    /// All values, in numeric order.
    pub const ALL: [Self; 4] = [Self::Memory, Self::Sessions, Self::Memfd, Self::WakeFd];

    const fn tag(self) -> u8 {
        match self {
            Self::Memory => 1,
            Self::Sessions => 2,
            Self::Memfd => 3,
            Self::WakeFd => 4,
        }
    }

    fn from_tag(tag: u8) -> Result<Self, DecodeError> {
        let found = Self::ALL.into_iter().find(|refusal| refusal.tag() == tag);
        found.ok_or_else(|| DecodeError::Unknown { what: "ring refusal", value: tag.into() })
    }
}

/// First half of a session's nonce, which identifies the session to a tap. The second half is the secret.
pub fn nonce_prefix(nonce: &[u8; 16]) -> u64 {
    let mut prefix = [0; 8];
    prefix.copy_from_slice(&nonce[..8]);
    u64::from_le_bytes(prefix)
}

/// Summary of a distribution of durations, ns. On the wire: four `u64` in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quantiles {
    /// Number of samples.
    pub count: u64,
    /// Median, ns.
    pub p50: u64,
    /// 99th percentile.
    pub p99: u64,
    /// Maximum, ns.
    pub max: u64,
}

/// Counters of a tap since it was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Number of answers by [`Status`], in the order of [`Status::ALL`].
    pub answers: [u64; Status::ALL.len()],
    /// Bytes of mailbox requests.
    pub request_bytes: u64,
    /// Bytes of frames read.
    pub picture_bytes: u64,
    /// Number of caught panics.
    pub faults: u64,
    /// 1 if the tap is disabled, else 0.
    pub disabled: u8,
    /// Existing contexts.
    pub contexts: u32,
    /// Existing resources.
    pub resources: u32,
    /// Time on the VMM's thread per frame read.
    pub entry: Quantiles,
    /// Time of the read alone: `virgl_renderer_transfer_read_iov`.
    pub read: Quantiles,
}

/// Message from tap to host-agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromTap {
    /// First message.
    Hello {
        /// Lowest supported version.
        min: u16,
        /// Highest supported version.
        max: u16,
        /// Tap version.
        tap_version: u16,
        /// Random number per tap; distinguishes a reconnect from a new VM.
        instance: [u8; 16],
        /// Process ID of the VMM.
        pid: u32,
        /// `virgl_renderer_callbacks.version` of the VMM.
        abi: u32,
        /// VM name.
        vm: String,
    },
    /// A context requested to be bound to a session.
    Bind {
        /// Requesting context, as the guest's kernel set it.
        context: Context,
        /// Nonce of the session.
        nonce: [u8; 16],
        /// Debug name of the context, from the guest.
        name: String,
    },
    /// A context that had sent `Bind` was destroyed, or the VM was reset.
    ContextGone(Context),
    /// Counters; at most once a second, if they changed.
    Stats(Stats),
    /// The ring of an `Attach` is mapped.
    RingReady {
        /// Session number of the host-agent.
        session: u64,
        /// Ring number of the host-agent.
        ring: u64,
    },
    /// The ring of an `Attach` is not used; the session has no ring.
    RingRefused {
        /// Session number of the host-agent.
        session: u64,
        /// Ring number of the host-agent.
        ring: u64,
        /// The reason.
        refusal: RingRefusal,
    },
}

/// Message from host-agent to tap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToTap {
    /// Answer to `Hello`.
    HelloAck {
        /// Chosen version.
        version: u16,
    },
    /// Write frames of this context to the ring whose descriptors accompany this message. It replaces earlier
    /// rings of the session and of the context.
    Attach {
        /// Session number of the host-agent.
        session: u64,
        /// Ring number of the host-agent; the tap's answer repeats it.
        ring: u64,
        /// Context to bind.
        context: Context,
    },
    /// Stop writing to the session's ring.
    Detach {
        /// Session number of the host-agent.
        session: u64,
    },
    /// Sessions with these nonces started; at most [`MAX_EXPECT`] [prefixes](nonce_prefix).
    Expect(Vec<u64>),
    /// The session with this nonce prefix ended.
    Forget(u64),
}

/// Longest payload in bytes of a message type that a host-agent accepts.
pub fn from_tap_limit(kind: u8) -> Option<u32> {
    matches!(kind, 0x01..=0x06).then_some(MAX_MESSAGE)
}

/// Longest payload in bytes of a message type that a tap accepts.
pub fn to_tap_limit(kind: u8) -> Option<u32> {
    matches!(kind, 0x81..=0x85).then_some(MAX_MESSAGE)
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
            Self::RingReady { session, ring } => {
                out.put_u64_le(*session);
                out.put_u64_le(*ring);
                0x05
            }
            Self::RingRefused { session, ring, refusal } => {
                out.put_u64_le(*session);
                out.put_u64_le(*ring);
                out.put_u8(refusal.tag());
                0x06
            }
        };
        Encoded::new(kind, &out, Bytes::new())
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
            0x05 => Self::RingReady { session: r.u64("session")?, ring: r.u64("ring")? },
            0x06 => Self::RingRefused {
                session: r.u64("session")?,
                ring: r.u64("ring")?,
                refusal: RingRefusal::from_tag(r.u8("refusal")?)?,
            },
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
            Self::Attach { session, ring, context } => {
                out.put_u64_le(*session);
                out.put_u64_le(*ring);
                put_context(&mut out, *context);
                0x82
            }
            Self::Detach { session } => {
                out.put_u64_le(*session);
                0x83
            }
            Self::Expect(prefixes) => {
                let prefixes = prefixes.get(..MAX_EXPECT).unwrap_or(prefixes);
                out.put_u16_le(saturate(prefixes.len() as u32));
                for prefix in prefixes {
                    out.put_u64_le(*prefix);
                }
                0x84
            }
            Self::Forget(prefix) => {
                out.put_u64_le(*prefix);
                0x85
            }
        };
        Encoded::new(kind, &out, Bytes::new())
    }

    /// Decodes the payload that followed `header`.
    ///
    /// # Errors
    /// If the payload is malformed or a field is over its limit.
    pub fn decode(header: Header, payload: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(payload);
        let message = match header.kind {
            0x81 => {
                r.magic(MAGIC)?;
                Self::HelloAck { version: r.u16("version")? }
            }
            0x82 => Self::Attach {
                session: r.u64("session")?,
                ring: r.u64("ring")?,
                context: get_context(&mut r)?,
            },
            0x83 => Self::Detach { session: r.u64("session")? },
            0x84 => {
                let count = usize::from(r.u16("number of nonces")?);
                if count > MAX_EXPECT {
                    return Err(DecodeError::TooLarge {
                        field: "number of nonces",
                        got: count as u64,
                        limit: MAX_EXPECT as u64,
                    });
                }
                Self::Expect((0..count).map(|_| r.u64("nonce")).collect::<Result<_, _>>()?)
            }
            0x85 => Self::Forget(r.u64("nonce")?),
            other => return Err(DecodeError::Unknown { what: "message type", value: other.into() }),
        };
        r.end()?;
        Ok(message)
    }
}
