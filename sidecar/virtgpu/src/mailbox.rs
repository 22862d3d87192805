//! The mailbox: asking the tap, in order with all GPU commands. The layout is [`protocol::mailbox`]'s.
//!
//! ```text
//! send: request into the slot ── TRANSFER_TO_HOST(box of the slot) ──▶ kernel queue ──▶ VMM ──▶ tap
//! poll: answer's first word == our sequence number?  ◀── the tap writes into the same page ──────┘
//! ```
//!
//! No interrupt comes with an answer: it appears in memory. Fences are no help, the VMM signals them up to
//! 10 ms late. So [`Mailbox::wait`] sleeps by a [`Pacer`](crate::pacer::Pacer).
//!
//! Several requests may be under way at once, each in a slot of its own. It does not know what the answers
//! mean for a stream.

use std::io;
use std::sync::atomic::{Ordering, fence};
use std::thread;
use std::time::{Duration, Instant};

use protocol::DecodeError;
use protocol::mailbox::{
    self as layout, ANSWER_BYTES, Answer, Operation, REQUEST_BYTES, Request, SLOTS, answer_offset,
    request_offset,
};

use crate::allocate::{BIND_SAMPLER_VIEW, TARGET_2D};
use crate::device::Device;
use crate::gem::Handle;
use crate::map::Mapping;
use crate::pacer::Pacer;
use crate::{sys, uapi};

/// Bytes of one pixel of the mailbox: its box counts in pixels.
const PIXEL: usize = 4;
const WORD: usize = 8;

/// A request that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    slot: usize,
    seq: u64,
    sent: Instant,
}

impl Ticket {
    /// The request's sequence number.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// When it was sent.
    pub fn sent(&self) -> Instant {
        self.sent
    }
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The request could not be sent.
    #[error("the mailbox could not be rung: {0}")]
    Send(#[from] io::Error),
    /// Nothing answered.
    #[error(
        "no answer in the mailbox after {waited:?}: no tap in this VM's VMM process; start the VMM with the \
         tap loaded (host-agent's documentation, \"Installing the tap\")"
    )]
    NoTap {
        /// How long it was waited for.
        waited: Duration,
    },
    /// An answer that makes no sense to us.
    #[error("the tap's answer is not understood: {0}; bring sidecar and tap to the same version")]
    Answer(#[from] DecodeError),
}

/// A mailbox of our own.
#[derive(Debug)]
pub struct Mailbox {
    page: Page,
    handle: Handle,
    resource_id: u32,
    pacer: Pacer,
}

impl Mailbox {
    /// Makes the resource and maps its page.
    pub fn new(device: &Device) -> io::Result<Self> {
        let mut resource_id = 0;
        let handle = device.node.take(|node| {
            let made = sys::resource_create(
                node,
                uapi::ResourceCreate {
                    target: TARGET_2D,
                    format: layout::VIRGL_FORMAT,
                    bind: BIND_SAMPLER_VIEW,
                    width: layout::WIDTH,
                    height: 1,
                    depth: 1,
                    array_size: 1,
                    size: layout::BYTES as u32,
                    stride: layout::WIDTH * PIXEL as u32,
                    ..Default::default()
                },
            )?;
            resource_id = made.res_handle;
            Ok(made.bo_handle)
        })?;
        let offset = sys::map_offset(handle.fd(), handle.raw())?;
        let map = Mapping::new(handle.fd(), offset, layout::BYTES, true)?;
        Ok(Self { page: Page::new(map), handle, resource_id, pacer: Pacer::new() })
    }

    /// The mailbox's own resource ID; for logs.
    pub fn resource_id(&self) -> u32 {
        self.resource_id
    }

    /// Sends a request without waiting. `WouldBlock`: all slots hold requests that the VMM has not even taken
    /// from the queue.
    pub fn send(&mut self, operation: Operation) -> io::Result<Ticket> {
        self.send_as(self.page.last_seq + 1, operation)
    }

    /// [`Self::send`] with a sequence number of the caller's, not 0: the host-agent sees it too.
    pub fn send_as(&mut self, seq: u64, operation: Operation) -> io::Result<Ticket> {
        let handle = &self.handle;
        let slot = self.page.claim(seq, || sys::is_busy(handle.fd(), handle.raw()))?;
        let at = request_offset(slot);
        self.page.put(slot, &Request { seq, operation }.encode());
        let sent = Instant::now();
        let rung = sys::transfer_to_host(
            self.handle.fd(),
            uapi::Transfer {
                bo_handle: self.handle.raw(),
                area: uapi::Box3d {
                    x: (at / PIXEL) as u32,
                    w: (REQUEST_BYTES / PIXEL) as u32,
                    h: 1,
                    d: 1,
                    ..Default::default()
                },
                offset: at as u32,
                ..Default::default()
            },
        );
        if let Err(error) = rung {
            self.page.abandon(slot);
            return Err(error);
        }
        Ok(Ticket { slot, seq, sent })
    }

    /// The answer, if it is there.
    pub fn poll(&self, ticket: Ticket) -> Option<Result<Answer, DecodeError>> {
        self.page.get(ticket.slot, ticket.seq).map(|bytes| Answer::decode(&bytes))
    }

    /// Waits for the answer, at most `timeout` from when the request was sent.
    pub fn wait(&mut self, ticket: Ticket, timeout: Duration) -> Result<Answer, CallError> {
        loop {
            let answer = self.poll(ticket);
            let waited = ticket.sent.elapsed();
            if let Some(answer) = answer {
                self.pacer.learn(waited);
                return Ok(answer?);
            }
            if waited >= timeout {
                return Err(CallError::NoTap { waited });
            }
            thread::sleep(self.pacer.next_sleep(waited).min(timeout.saturating_sub(waited)));
        }
    }

    /// Sends a request and waits for its answer.
    pub fn call(&mut self, operation: Operation, timeout: Duration) -> Result<Answer, CallError> {
        let ticket = self.send(operation)?;
        self.wait(ticket, timeout)
    }

    /// [`Self::call`] with a sequence number of the caller's, as in [`Self::send_as`].
    pub fn call_as(
        &mut self,
        seq: u64,
        operation: Operation,
        timeout: Duration,
    ) -> Result<Answer, CallError> {
        let ticket = self.send_as(seq, operation)?;
        self.wait(ticket, timeout)
    }

    /// How long answers usually take.
    pub fn usual_latency(&self) -> Duration {
        self.pacer.usual()
    }
}

/// The page, and which slots wait for an answer. Apart from the device, so that it can be tested without one.
#[derive(Debug)]
struct Page {
    map: Mapping,
    /// Per slot, the sequence number of its last request; 0 before the first.
    asked: [u64; SLOTS],
    last_seq: u64,
}

impl Page {
    fn new(map: Mapping) -> Self {
        Self { map, asked: [0; SLOTS], last_seq: 0 }
    }

    /// A slot for the next request: one whose answer is there, else the oldest, if nothing is queued in the
    /// kernel any more (`busy`), so that nobody reads the request that would be overwritten.
    fn claim(&mut self, seq: u64, busy: impl FnOnce() -> io::Result<bool>) -> io::Result<usize> {
        if seq == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let next = (seq % SLOTS as u64) as usize;
        let free = (0..SLOTS).map(|i| (next + i) % SLOTS).find(|slot| self.is_free(*slot));
        let slot = match free {
            Some(slot) => slot,
            None if busy()? => return Err(io::ErrorKind::WouldBlock.into()),
            None => (0..SLOTS).min_by_key(|slot| self.asked[*slot]).unwrap_or(next),
        };
        // An old answer with the same number must not be taken for the new one.
        self.map.word(answer_offset(slot)).store(0, Ordering::Relaxed);
        self.last_seq = seq;
        self.asked[slot] = seq;
        Ok(slot)
    }

    fn is_free(&self, slot: usize) -> bool {
        self.asked[slot] == 0 || self.answered(slot) == self.asked[slot]
    }

    /// The sequence number of the answer in `slot`. Acquire: the rest of the answer was written before it.
    fn answered(&self, slot: usize) -> u64 {
        u64::from_le(self.map.word(answer_offset(slot)).load(Ordering::Acquire))
    }

    /// Forgets a request that was never sent.
    fn abandon(&mut self, slot: usize) {
        self.asked[slot] = 0;
    }

    fn put(&self, slot: usize, request: &[u8; REQUEST_BYTES]) {
        for (i, word) in request.as_chunks::<WORD>().0.iter().enumerate() {
            let at = request_offset(slot) + i * WORD;
            self.map.word(at).store(u64::from_ne_bytes(*word), Ordering::Relaxed);
        }
        // The ioctl that follows is what makes the host look; nothing may move behind it.
        fence(Ordering::Release);
    }

    fn get(&self, slot: usize, seq: u64) -> Option<[u8; ANSWER_BYTES]> {
        if self.answered(slot) != seq {
            return None;
        }
        let mut answer = [0; ANSWER_BYTES];
        for (i, word) in answer.as_chunks_mut::<WORD>().0.iter_mut().enumerate() {
            *word = self.map.word(answer_offset(slot) + i * WORD).load(Ordering::Relaxed).to_ne_bytes();
        }
        Some(answer)
    }
}

#[cfg(test)]
mod tests;
