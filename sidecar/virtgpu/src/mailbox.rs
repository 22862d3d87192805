//! Mailbox requests to the tap, ordered with all GPU commands of this context. Layout: [`protocol::mailbox`].
//!
//! ```text
//! send: request into a slot ── TRANSFER_TO_HOST(box of the slot) ──▶ kernel queue ──▶ VMM ──▶ tap
//! poll: sequence number in the slot's answer matches?  ◀── the tap writes into the same page ──┘
//! ```
//!
//! No interrupt announces an answer, and the VMM signals fences up to 10 ms late, so [`Mailbox::wait`] polls the page
//! at intervals chosen by a [`Pacer`]. Several requests may be in flight, each in its own slot.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{Ordering, fence};
use std::thread;
use std::time::{Duration, Instant};

use drm::control::from_u32;
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

/// Bytes per pixel of the mailbox's format: transfer boxes are in pixels.
const PIXEL: usize = 4;
const WORD: usize = 8;

/// Request in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    slot: usize,
    seq: u64,
    sent: Instant,
}

/// Failed mailbox call.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The request could not be sent.
    #[error("cannot send the mailbox request: {0}")]
    Send(#[from] io::Error),
    /// No answer within the timeout.
    #[error(
        "no answer in the mailbox after {waited:?}: this VM's VMM process has no tap; start the VMM with the tap \
         loaded (host-agent's documentation, \"Installing the tap\")"
    )]
    NoTap {
        /// Time since the request was sent.
        waited: Duration,
    },
    /// The answer could not be decoded.
    #[error("cannot decode the tap's answer: {0}; install sidecar and tap of the same version")]
    Answer(#[from] DecodeError),
}

/// Mailbox resource and its mapped page.
#[derive(Debug)]
pub struct Mailbox {
    page: Page,
    handle: Handle,
    resource_id: u32,
    pacer: Pacer,
}

impl Mailbox {
    /// Creates the resource and maps its page.
    pub fn new(device: &Device) -> io::Result<Self> {
        let mut resource_id = 0;
        let handle = device.node.take(|node| {
            let created = sys::resource_create(
                node.as_fd(),
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
            resource_id = created.res_handle;
            from_u32(created.bo_handle).ok_or_else(|| io::ErrorKind::InvalidData.into())
        })?;
        let fd = handle.node().as_fd();
        let map = Mapping::new(fd, sys::map_offset(fd, handle.raw())?, layout::BYTES, true)?;
        Ok(Self { page: Page::new(map), handle, resource_id, pacer: Pacer::new() })
    }

    /// Resource ID of the mailbox; for logs.
    pub fn resource_id(&self) -> u32 {
        self.resource_id
    }

    /// Sends a request with the next sequence number, without waiting for the answer.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if all slots hold requests that the VMM has not read yet.
    pub fn send(&mut self, operation: Operation) -> io::Result<Ticket> {
        self.send_as(self.page.last_seq + 1, operation)
    }

    /// Sends a request with sequence number `seq`, not 0, which the host-agent sees too.
    ///
    /// # Errors
    ///
    /// As [`Self::send`]; `InvalidInput` if `seq` is 0.
    pub fn send_as(&mut self, seq: u64, operation: Operation) -> io::Result<Ticket> {
        let (fd, handle) = (self.handle.node().as_fd(), self.handle.raw());
        let slot = self.page.claim(seq, || sys::is_busy(fd, handle))?;
        let at = request_offset(slot);
        self.page.put(slot, &Request { seq, operation }.encode());
        let sent = Instant::now();
        let transfer = sys::transfer_to_host(
            fd,
            uapi::Transfer {
                bo_handle: handle.into(),
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
        if let Err(error) = transfer {
            self.page.abandon(slot);
            return Err(error);
        }
        Ok(Ticket { slot, seq, sent })
    }

    /// The answer, if it has arrived.
    pub fn poll(&self, ticket: Ticket) -> Option<Result<Answer, DecodeError>> {
        self.page.get(ticket.slot, ticket.seq).map(|bytes| Answer::decode(&bytes))
    }

    /// Waits for the answer, at most `timeout` from the time the request was sent.
    pub fn wait(&mut self, ticket: Ticket, timeout: Duration) -> Result<Answer, CallError> {
        loop {
            let answer = self.poll(ticket);
            let waited = ticket.sent.elapsed();
            if let Some(answer) = answer {
                self.pacer.observe(waited);
                return Ok(answer?);
            }
            if waited >= timeout {
                return Err(CallError::NoTap { waited });
            }
            thread::sleep(self.pacer.next_sleep(waited).min(timeout.saturating_sub(waited)));
        }
    }

    /// [`Self::send`], then [`Self::wait`].
    pub fn call(&mut self, operation: Operation, timeout: Duration) -> Result<Answer, CallError> {
        let ticket = self.send(operation)?;
        self.wait(ticket, timeout)
    }

    /// [`Self::send_as`], then [`Self::wait`].
    pub fn call_as(
        &mut self,
        seq: u64,
        operation: Operation,
        timeout: Duration,
    ) -> Result<Answer, CallError> {
        let ticket = self.send_as(seq, operation)?;
        self.wait(ticket, timeout)
    }
}

/// Mapped page and slot allocation; separate from the device for tests.
#[derive(Debug)]
struct Page {
    map: Mapping,
    /// Sequence number of each slot's last request; 0 if none.
    requested: [u64; SLOTS],
    last_seq: u64,
}

impl Page {
    fn new(map: Mapping) -> Self {
        Self { map, requested: [0; SLOTS], last_seq: 0 }
    }

    /// Allocates a slot for request `seq`: an answered one, else the oldest. `busy` tells whether the kernel still
    /// queues transfers; if so the host may not have read the requests yet, and none is overwritten.
    fn claim(&mut self, seq: u64, busy: impl FnOnce() -> io::Result<bool>) -> io::Result<usize> {
        if seq == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let next = (seq % SLOTS as u64) as usize;
        let free = (0..SLOTS).map(|i| (next + i) % SLOTS).find(|slot| self.is_free(*slot));
        let slot = match free {
            Some(slot) => slot,
            None if busy()? => return Err(io::ErrorKind::WouldBlock.into()),
            None => (0..SLOTS).min_by_key(|slot| self.requested[*slot]).unwrap_or(next),
        };
        // An earlier answer with the same number must not match the new request.
        self.map.word(answer_offset(slot)).store(0, Ordering::Relaxed);
        self.last_seq = seq;
        self.requested[slot] = seq;
        Ok(slot)
    }

    fn is_free(&self, slot: usize) -> bool {
        self.requested[slot] == 0 || self.answered(slot) == self.requested[slot]
    }

    /// Sequence number of the answer in `slot`. Acquire: the tap writes the rest of the answer first.
    fn answered(&self, slot: usize) -> u64 {
        u64::from_le(self.map.word(answer_offset(slot)).load(Ordering::Acquire))
    }

    /// Frees the slot of a request that was not sent.
    fn abandon(&mut self, slot: usize) {
        self.requested[slot] = 0;
    }

    fn put(&self, slot: usize, request: &[u8; REQUEST_BYTES]) {
        for (i, word) in request.as_chunks::<WORD>().0.iter().enumerate() {
            let at = request_offset(slot) + i * WORD;
            self.map.word(at).store(u64::from_ne_bytes(*word), Ordering::Relaxed);
        }
        // The stores must not move behind the ioctl that makes the host read them.
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
