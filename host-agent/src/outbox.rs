//! What waits to be written to a sidecar: bounded, whatever the sidecar does.
//!
//! A sidecar that reads slowly costs pictures, not memory and not order. First the encoder is held back:
//! it gets no picture while [`ROOM`] access units wait, so the newest picture wins at the source and
//! nothing is lost. An encoder that had pictures under way then may still fill the queue; past
//! [`MAX_UNITS`] its access units are lost, and so is everything after them up to the next IDR, which the
//! worker makes as soon as there is room. Messages that must not be lost end the connection instead when
//! too many of them wait.
//!
//! An access unit that finds nothing waiting is written by the thread that brings it, as far as the peer's
//! buffer takes it; all else is written by the connection's task.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol::frame::Encoded;
use protocol::stream::{AccessUnit, ErrorCode, ServerMessage};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::listen::Writer;
use crate::meter::{Count, Meter, Time};
use crate::waker::Waker;

/// Access units that may wait before the encoder is held back: one being written, one behind it.
pub const ROOM: usize = 2;
/// Access units that may wait at all.
pub const MAX_UNITS: usize = 8;
/// Bytes of access units that may wait; a single larger one may wait alone.
pub const MAX_UNIT_BYTES: usize = 8 << 20;
/// Other messages that may wait.
const MAX_CONTROL: usize = 256;
/// A sidecar that takes nothing for so long is gone.
const WRITE_TIME: Duration = Duration::from_secs(10);
/// See the module.
#[derive(Debug)]
pub struct Outbox {
    queue: Mutex<Queue>,
    changed: Notify,
    worker: Waker,
    meter: Meter,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Access units that wait or are being written, and their bytes.
    units: usize,
    unit_bytes: usize,
    /// Other messages that wait.
    control: usize,
    /// The task is writing a message: nobody else may.
    writing: bool,
    /// Where to write, while the task runs.
    writer: Option<Arc<Writer>>,
    /// An access unit was lost, and no IDR has been queued since.
    lost: bool,
    phase: Phase,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    /// Nothing more is taken; what waits is still written.
    Closed,
    /// What waits is no longer worth writing.
    Broken,
}

#[derive(Debug)]
struct Waiting {
    message: Encoded,
    /// Bytes of it that were written.
    sent: usize,
    /// When the access unit came out of the encoder.
    unit: Option<Instant>,
}

impl Outbox {
    /// An empty one, which wakes `worker` when there is room again.
    pub fn new(worker: Waker, meter: Meter) -> Self {
        Self { queue: Mutex::default(), changed: Notify::new(), worker, meter }
    }

    /// No code of others runs under the lock, so a poisoned one still holds a whole queue.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a message that must arrive. `false` if the connection can't take it any more.
    pub fn push(&self, message: &ServerMessage) -> bool {
        let mut queue = self.lock();
        if queue.phase != Phase::Open {
            return false;
        }
        if queue.control >= MAX_CONTROL {
            queue.phase = Phase::Broken;
        } else {
            queue.control += 1;
            queue.waiting.push_back(Waiting { message: message.encode(), sent: 0, unit: None });
        }
        let taken = queue.phase == Phase::Open;
        drop(queue);
        self.changed.notify_one();
        taken
    }

    /// Tells that a picture was dropped. Left out when many messages wait: the count is in `/status`, and a
    /// sidecar that does not read must not be cut off for pictures that it pushes.
    pub fn push_dropped(&self, seq: u64) {
        if self.lock().control < MAX_CONTROL / 2 {
            self.push(&ServerMessage::Dropped { seq });
        }
    }

    /// Queues an error.
    pub fn push_error(&self, code: ErrorCode, message: impl Into<String>) -> bool {
        self.push(&ServerMessage::Error { code, message: message.into() })
    }

    /// Queues an access unit, or loses it. `out` is when it came out of the encoder.
    pub fn push_unit(&self, unit: AccessUnit, out: Instant) {
        let mut queue = self.lock();
        let bytes = unit.data.len();
        let full = queue.units >= MAX_UNITS || queue.units > 0 && queue.unit_bytes + bytes > MAX_UNIT_BYTES;
        if queue.phase != Phase::Open || full || queue.lost && !unit.idr {
            queue.lost = true;
            drop(queue);
            self.meter.add(Count::Lost, 1);
            return;
        }
        queue.lost = false;
        let message = ServerMessage::AccessUnit(unit).encode();
        let mut waiting = Waiting { message, sent: 0, unit: Some(out) };
        if queue.waiting.is_empty() && !queue.writing {
            // An error here is found again, and dealt with, by the task.
            waiting.sent =
                queue.writer.as_ref().and_then(|w| w.try_write(&waiting.parts()).ok()).unwrap_or(0);
            if waiting.is_done() {
                drop(queue);
                self.count_written(&waiting);
                return;
            }
        }
        queue.units += 1;
        queue.unit_bytes += bytes;
        queue.waiting.push_back(waiting);
        drop(queue);
        self.changed.notify_one();
    }

    /// Whether the encoder should get another picture.
    pub fn has_room(&self) -> bool {
        let queue = self.lock();
        queue.phase == Phase::Open && queue.units < ROOM
    }

    /// Whether the next picture must be an IDR because access units were lost.
    pub fn needs_idr(&self) -> bool {
        self.lock().lost
    }

    /// Notes that an access unit could not even be queued.
    pub fn mark_lost(&self) {
        self.lock().lost = true;
        self.meter.add(Count::Lost, 1);
    }

    /// Takes no more; what waits is still written.
    pub fn close(&self) {
        let mut queue = self.lock();
        if queue.phase == Phase::Open {
            queue.phase = Phase::Closed;
        }
        drop(queue);
        self.changed.notify_one();
    }

    fn take(&self) -> Next {
        let mut queue = self.lock();
        if queue.phase == Phase::Broken {
            return Next::End;
        }
        match queue.waiting.pop_front() {
            Some(waiting) => {
                queue.control -= usize::from(waiting.unit.is_none());
                queue.writing = true;
                Next::Write(waiting)
            }
            None if queue.phase == Phase::Closed => Next::End,
            None => Next::Wait,
        }
    }

    fn count_written(&self, waiting: &Waiting) {
        self.meter.add(Count::BytesOut, waiting.message.len() as u64);
        if let Some(out) = waiting.unit {
            self.meter.record(Time::Wire, out.elapsed().as_micros() as u64);
        }
    }

    fn written(&self, waiting: &Waiting) {
        self.count_written(waiting);
        let mut queue = self.lock();
        queue.writing = false;
        if waiting.unit.is_none() {
            return;
        }
        queue.units -= 1;
        queue.unit_bytes -= waiting.message.body.len();
        let room = queue.units + 1 == ROOM;
        drop(queue);
        if room {
            self.worker.wake();
        }
    }

    /// Writes what waits until the outbox is closed and empty, or the sidecar is gone.
    pub async fn run(&self, writer: Writer) -> io::Result<()> {
        let writer = Arc::new(writer);
        self.lock().writer = Some(Arc::clone(&writer));
        let outcome = self.write_all(&writer).await;
        {
            let mut queue = self.lock();
            queue.phase = Phase::Broken;
            queue.writer = None;
            queue.waiting.clear();
        }
        self.worker.wake();
        outcome
    }

    async fn write_all(&self, writer: &Writer) -> io::Result<()> {
        loop {
            match self.take() {
                Next::Write(mut waiting) => {
                    let write = waiting.write(writer);
                    timeout(WRITE_TIME, write)
                        .await
                        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
                    self.written(&waiting);
                }
                Next::Wait => self.changed.notified().await,
                Next::End => return Ok(()),
            }
        }
    }
}

impl Waiting {
    fn is_done(&self) -> bool {
        self.sent >= self.message.len()
    }

    /// What is left to write.
    fn parts(&self) -> [IoSlice<'_>; 2] {
        let (head, body) = (&self.message.head, &self.message.body);
        let after_head = self.sent.saturating_sub(head.len());
        let left = |bytes, from: usize| IoSlice::new(<[u8]>::get(bytes, from..).unwrap_or_default());
        [left(head, self.sent), left(body, after_head)]
    }

    async fn write(&mut self, writer: &Writer) -> io::Result<()> {
        while !self.is_done() {
            match writer.write(&self.parts()).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => self.sent += written,
            }
        }
        Ok(())
    }
}

enum Next {
    Write(Waiting),
    Wait,
    End,
}

#[cfg(test)]
mod tests;
