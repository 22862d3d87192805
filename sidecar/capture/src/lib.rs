//! Captures a desktop and delivers the newest frame to one consumer.
//!
//! ```text
//!  wayland (wlr-screencopy) ─┐
//!  mutter ─▶ pipewire ───────┼─▶ slot (holds one frame, newest wins) ─▶ Capture::recv_newest
//!  testpattern ──────────────┘   events: Negotiated, Lost ────────────▶ Capture::try_event
//! ```
//!
//! The capture thread runs one source at a time. When a source fails, or the desktop is not up yet, the thread
//! retries with back-off. Dropping a [`Frame`] returns its buffer to the compositor.

mod copies;
mod error;
mod frame;
mod mutter;
mod negotiated;
mod options;
mod pipewire;
mod pointer;
mod release;
mod resizer;
pub mod resolve;
mod slot;
mod source_context;
mod supervise;
mod testpattern;
mod waker;
mod wayland;

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub use copies::Copies;
pub use error::CaptureError;
pub use frame::{BufferOwner, Frame, FrameBuffer, GpuBuffer, Lease, ShmView};
pub use negotiated::{Negotiated, ShmReason};
pub use options::{CaptureOptions, Cursor, Memory, Source};
pub use pipewire_buffers::{CursorBitmap, CursorFormat, survive_truncation};
pub use pointer::{Pointer, Shape};
pub use resizer::Resizer;

use pointer::PointerSender;
use slot::Slot;
use source_context::SourceContext;
use tokio::sync::watch;
use waker::Waker;

/// Maximum number of events queued for the consumer; further events are dropped.
const EVENT_QUEUE: usize = 64;

/// A change of the capture's state.
#[derive(Debug)]
pub enum CaptureEvent {
    /// A source started and buffers were negotiated.
    Negotiated(Negotiated),
    /// No source is running; capture keeps retrying. Sent once per distinct error.
    Lost(CaptureError),
}

/// A running capture; dropping it stops the capture thread.
#[derive(Debug)]
pub struct Capture {
    slot: Arc<Slot>,
    waker: Arc<Waker>,
    resizer: Resizer,
    pointer: PointerSender,
    events: Receiver<CaptureEvent>,
    thread: Option<JoinHandle<()>>,
}

/// Starts the capture thread. Failures are reported as [`CaptureEvent::Lost`].
pub fn start(options: CaptureOptions) -> Capture {
    let slot = Arc::new(Slot::default());
    let (sender, events) = mpsc::sync_channel(EVENT_QUEUE);
    let waker = match Waker::new() {
        Ok(waker) => Arc::new(waker),
        Err(error) => {
            let _ = sender.try_send(CaptureEvent::Lost(CaptureError::System(error)));
            let waker = Arc::new(Waker::disabled());
            let resizer = Resizer::new(Arc::clone(&waker));
            let pointer = PointerSender::default();
            return Capture { slot, waker, resizer, pointer, events, thread: None };
        }
    };
    let resizer = Resizer::new(Arc::clone(&waker));
    let pointer = PointerSender::default();
    let context = SourceContext::new(
        Arc::clone(&slot),
        resizer.clone(),
        pointer.clone(),
        Arc::clone(&waker),
        sender.clone(),
    );
    let spawned =
        thread::Builder::new().name("capture".to_owned()).spawn(move || supervise::run(&options, &context));
    let thread = match spawned {
        Ok(thread) => Some(thread),
        Err(error) => {
            let _ = sender.try_send(CaptureEvent::Lost(CaptureError::System(error)));
            None
        }
    };
    Capture { slot, waker, resizer, pointer, events, thread }
}

/// Producer's end of a capture made by [`external`].
#[derive(Debug, Clone)]
pub struct FrameSink(Arc<Slot>);

impl FrameSink {
    /// Delivers a frame. A previous frame that was not received is dropped, which releases its buffer.
    pub fn put(&self, frame: Frame) {
        self.0.put(frame);
    }

    /// True if the consumer received the previous frame.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A capture without a source: frames are delivered through the returned sink. It sends no events.
pub fn external() -> (FrameSink, Capture) {
    let slot = Arc::new(Slot::default());
    let (_, events) = mpsc::sync_channel(1);
    let waker = Arc::new(Waker::disabled());
    let resizer = Resizer::new(Arc::clone(&waker));
    let pointer = PointerSender::default();
    let capture = Capture { slot: Arc::clone(&slot), waker, resizer, pointer, events, thread: None };
    (FrameSink(slot), capture)
}

impl Capture {
    /// Receives the newest frame; waits up to `timeout` for one.
    pub fn recv_newest(&self, timeout: Duration) -> Option<Frame> {
        self.slot.take(timeout)
    }

    /// The next event, if one is queued.
    pub fn try_event(&self) -> Option<CaptureEvent> {
        self.events.try_recv().ok()
    }

    /// Asks the desktop for other sizes.
    pub fn resizer(&self) -> Resizer {
        self.resizer.clone()
    }

    /// The desktop's pointer, as it changes, with [`Cursor::Viewer`].
    pub fn pointer(&self) -> watch::Receiver<Pointer> {
        self.pointer.subscribe()
    }

    /// Number of frames that were replaced by a newer one before the consumer received them.
    pub fn overwritten(&self) -> u64 {
        self.slot.overwritten()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.waker.stop();
        self.slot.clear();
        if let Some(thread) = self.thread.take() {
            // Every wait of a source includes the waker, so the join is short. A panic in the thread was
            // reported by the panic hook.
            let _ = thread.join();
        }
    }
}
