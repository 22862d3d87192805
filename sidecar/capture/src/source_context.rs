//! Interface between a running source and its capture: frame delivery, events, stop flag.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use crate::CaptureEvent;
use crate::error::CaptureError;
use crate::frame::Frame;
use crate::negotiated::Negotiated;
use crate::pointer::PointerSender;
use crate::resizer::Resizer;
use crate::slot::Slot;
use crate::waker::Waker;

/// A capture as seen by its source; used on the capture thread only.
#[derive(Debug)]
pub struct SourceContext {
    slot: Arc<Slot>,
    waker: Arc<Waker>,
    resizer: Resizer,
    pointer: PointerSender,
    events: SyncSender<CaptureEvent>,
    delivered: Cell<u64>,
    negotiated: RefCell<Option<Negotiated>>,
    last_error: RefCell<String>,
}

impl SourceContext {
    /// A context that has delivered no frames and sent no events.
    pub fn new(
        slot: Arc<Slot>,
        resizer: Resizer,
        pointer: PointerSender,
        waker: Arc<Waker>,
        events: SyncSender<CaptureEvent>,
    ) -> Self {
        Self {
            slot,
            waker,
            resizer,
            pointer,
            events,
            delivered: Cell::new(0),
            negotiated: RefCell::default(),
            last_error: RefCell::default(),
        }
    }

    /// Wakes the source.
    pub fn waker(&self) -> &Arc<Waker> {
        &self.waker
    }

    /// Size that the desktop is asked to have.
    pub fn resizer(&self) -> &Resizer {
        &self.resizer
    }

    /// Publishes the desktop's pointer.
    pub fn pointer(&self) -> &PointerSender {
        &self.pointer
    }

    /// True if the source must return.
    pub fn is_stopped(&self) -> bool {
        self.waker.is_stopped()
    }

    /// Number of frames delivered over the capture's life.
    pub fn delivered(&self) -> u64 {
        self.delivered.get()
    }

    /// Assigns the next sequence number to a frame and delivers it.
    pub fn deliver(&self, mut frame: Frame) {
        self.delivered.set(self.delivered.get() + 1);
        frame.seq = self.delivered.get();
        self.slot.put(frame);
    }

    /// Sends the outcome of a negotiation, unless it equals the previous one.
    pub fn report_negotiated(&self, negotiated: Negotiated) {
        if self.negotiated.borrow().as_ref() == Some(&negotiated) {
            return;
        }
        tracing::info!(
            source = negotiated.source,
            chosen = negotiated.chosen,
            shm_reason = negotiated.shm_reason.as_ref().map(tracing::field::display),
            "capture negotiated"
        );
        self.last_error.borrow_mut().clear();
        *self.negotiated.borrow_mut() = Some(negotiated.clone());
        self.send(CaptureEvent::Negotiated(negotiated));
    }

    /// Discards an undelivered frame of the failed source and sends the error, unless it equals the previous
    /// one.
    pub fn report_lost(&self, error: CaptureError) {
        self.slot.clear();
        self.pointer.reset();
        *self.negotiated.borrow_mut() = None;
        let text = error.to_string();
        if *self.last_error.borrow() != text {
            *self.last_error.borrow_mut() = text;
            self.send(CaptureEvent::Lost(error));
        }
    }

    fn send(&self, event: CaptureEvent) {
        if self.events.try_send(event).is_err() {
            tracing::warn!("capture event dropped: the consumer reads none");
        }
    }
}
