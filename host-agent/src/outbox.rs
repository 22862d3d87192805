//! Messages queued for a sidecar, bounded however slowly it reads.
//!
//! A slow sidecar loses frames, but not their order, and costs no memory. First the encoder is held back:
//! it gets no frame while [`MAX_UNITS_BEFORE_ENCODE`] access units are queued, so the newest frame wins at
//! the source and no access unit is lost. Frames that were in flight then may still fill the queue; over
//! [`MAX_UNITS`] their access units are lost, with all that follow up to the next IDR, which the worker
//! orders once there is space. Other messages must not be lost: too many of them end the connection.
//!
//! An access unit that finds the queue empty is written by the encoder's thread, as far as the socket's
//! buffer allows. Everything else is written by the connection's task.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

use frame_ring::wake::Waker;
use parking_lot::Mutex;
use protocol::frame::Encoded;
use protocol::stream::{AccessUnit, ErrorCode, ServerMessage};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::listen::Writer;
use crate::meter::{Count, Meter, Time};

/// Number of queued access units at which the encoder is held back: one being written, one behind it.
pub const MAX_UNITS_BEFORE_ENCODE: usize = 2;
/// Maximum number of queued access units.
pub const MAX_UNITS: usize = 8;
/// Maximum size of all queued access units in bytes; a single larger one is accepted.
pub const MAX_UNIT_BYTES: usize = 8 << 20;
/// Maximum number of other queued messages.
const MAX_CONTROL: usize = 256;
/// Time without progress after which a sidecar counts as disconnected.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// The queue of one connection.
#[derive(Debug)]
pub struct Outbox {
    queue: Mutex<Queue>,
    changed: Notify,
    worker: Arc<Waker>,
    meter: Meter,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Queued>,
    /// Number and bytes of access units that are queued or being written.
    units: usize,
    unit_bytes: usize,
    /// Number of other queued messages.
    control: usize,
    /// The task is writing a message, so the encoder's thread must not write.
    writing: bool,
    /// The connection, while the task runs.
    writer: Option<Arc<Writer>>,
    /// An access unit was lost, and no IDR was queued since.
    lost: bool,
    phase: Phase,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Accepts messages.
    #[default]
    Open,
    /// Accepts no messages, writes what is queued.
    Closed,
    /// Accepts and writes nothing.
    Broken,
}

#[derive(Debug)]
struct Queued {
    message: Encoded,
    /// Bytes already written.
    written: usize,
    /// For an access unit, the time at which the encoder returned it.
    encoded_at: Option<Instant>,
}

impl Outbox {
    /// An empty queue that wakes `worker` when the encoder may continue.
    pub fn new(worker: Arc<Waker>, meter: Meter) -> Self {
        Self { queue: Mutex::default(), changed: Notify::new(), worker, meter }
    }

    /// Queues a message that must not be lost. Returns false if the connection is over.
    pub fn push(&self, message: &ServerMessage) -> bool {
        let mut queue = self.queue.lock();
        if queue.phase != Phase::Open {
            return false;
        }
        if queue.control >= MAX_CONTROL {
            queue.phase = Phase::Broken;
        } else {
            queue.control += 1;
            queue.messages.push_back(Queued { message: message.encode(), written: 0, encoded_at: None });
        }
        let accepted = queue.phase == Phase::Open;
        drop(queue);
        self.changed.notify_one();
        accepted
    }

    /// Queues the notice that a frame was dropped, unless many messages are queued: `/status` has the
    /// count, and a sidecar that pushes frames without reading must not be disconnected for it.
    pub fn push_dropped(&self, seq: u64) {
        if self.queue.lock().control < MAX_CONTROL / 2 {
            self.push(&ServerMessage::Dropped { seq });
        }
    }

    /// Queues an error. Returns false if the connection is over.
    pub fn push_error(&self, code: ErrorCode, message: impl Into<String>) -> bool {
        self.push(&ServerMessage::Error { code, message: message.into() })
    }

    /// Writes or queues an access unit that the encoder returned at `encoded_at`, or counts it as lost.
    pub fn push_unit(&self, unit: AccessUnit, encoded_at: Instant) {
        let mut queue = self.queue.lock();
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
        let mut queued = Queued { message, written: 0, encoded_at: Some(encoded_at) };
        if queue.messages.is_empty() && !queue.writing {
            // The task meets the same error and handles it.
            queued.written =
                queue.writer.as_ref().and_then(|w| w.try_write(&queued.remainder()).ok()).unwrap_or(0);
            if queued.is_written() {
                drop(queue);
                self.count_written(&queued);
                return;
            }
        }
        queue.units += 1;
        queue.unit_bytes += bytes;
        queue.messages.push_back(queued);
        drop(queue);
        self.changed.notify_one();
    }

    /// Whether the encoder may take another frame.
    pub fn has_space(&self) -> bool {
        let queue = self.queue.lock();
        queue.phase == Phase::Open && queue.units < MAX_UNITS_BEFORE_ENCODE
    }

    /// Whether the next frame must be an IDR because access units were lost.
    pub fn needs_idr(&self) -> bool {
        self.queue.lock().lost
    }

    /// Counts an access unit that cannot be queued as lost.
    pub fn mark_lost(&self) {
        self.queue.lock().lost = true;
        self.meter.add(Count::Lost, 1);
    }

    /// Accepts no further messages; queued ones are still written.
    pub fn close(&self) {
        let mut queue = self.queue.lock();
        if queue.phase == Phase::Open {
            queue.phase = Phase::Closed;
        }
        drop(queue);
        self.changed.notify_one();
    }

    fn take_next(&self) -> Next {
        let mut queue = self.queue.lock();
        if queue.phase == Phase::Broken {
            return Next::End;
        }
        match queue.messages.pop_front() {
            Some(queued) => {
                queue.control -= usize::from(queued.encoded_at.is_none());
                queue.writing = true;
                Next::Write(queued)
            }
            None if queue.phase == Phase::Closed => Next::End,
            None => Next::Wait,
        }
    }

    fn count_written(&self, queued: &Queued) {
        self.meter.add(Count::BytesOut, queued.message.len() as u64);
        if let Some(encoded_at) = queued.encoded_at {
            self.meter.record(Time::Wire, encoded_at.elapsed().as_micros() as u64);
        }
    }

    /// Called by the task after it wrote a message.
    fn finish_write(&self, queued: &Queued) {
        self.count_written(queued);
        let mut queue = self.queue.lock();
        queue.writing = false;
        if queued.encoded_at.is_none() {
            return;
        }
        queue.units -= 1;
        queue.unit_bytes -= queued.message.body.len();
        let encoder_may_continue = queue.units + 1 == MAX_UNITS_BEFORE_ENCODE;
        drop(queue);
        if encoder_may_continue {
            self.worker.wake();
        }
    }

    /// Writes messages until the queue is closed and empty, or the connection fails.
    ///
    /// # Errors
    /// The connection failed, or the sidecar read nothing for [`WRITE_TIMEOUT`].
    pub async fn run(&self, writer: Writer) -> io::Result<()> {
        let writer = Arc::new(writer);
        self.queue.lock().writer = Some(Arc::clone(&writer));
        let mut outcome = self.write_messages(&writer).await;
        if outcome.is_ok() {
            let shutdown = timeout(WRITE_TIMEOUT, writer.shutdown()).await;
            outcome = shutdown.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        }
        {
            let mut queue = self.queue.lock();
            queue.phase = Phase::Broken;
            queue.writer = None;
            queue.messages.clear();
        }
        self.worker.wake();
        outcome
    }

    async fn write_messages(&self, writer: &Writer) -> io::Result<()> {
        loop {
            match self.take_next() {
                Next::Write(mut queued) => {
                    let write = queued.write(writer);
                    timeout(WRITE_TIMEOUT, write)
                        .await
                        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
                    self.finish_write(&queued);
                }
                Next::Wait => self.changed.notified().await,
                Next::End => return Ok(()),
            }
        }
    }
}

impl Queued {
    fn is_written(&self) -> bool {
        self.written >= self.message.len()
    }

    /// Bytes of head and body that are not written.
    fn remainder(&self) -> [IoSlice<'_>; 2] {
        let (head, body) = (&self.message.head, &self.message.body);
        let after_head = self.written.saturating_sub(head.len());
        let rest = |bytes, from: usize| IoSlice::new(<[u8]>::get(bytes, from..).unwrap_or_default());
        [rest(head, self.written), rest(body, after_head)]
    }

    async fn write(&mut self, writer: &Writer) -> io::Result<()> {
        while !self.is_written() {
            match writer.write(&self.remainder()).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => self.written += written,
            }
        }
        Ok(())
    }
}

/// The task's next step.
enum Next {
    Write(Queued),
    Wait,
    End,
}

#[cfg(test)]
mod tests;
