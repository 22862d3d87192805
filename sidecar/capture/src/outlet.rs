//! What a source holds of the capture: where frames and news go, and when to stop.
//!
//! It does not know who consumes them.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use super::CaptureEvent;
use super::bell::Bell;
use super::error::CaptureError;
use super::frame::Frame;
use super::negotiated::Negotiated;
use super::slot::Slot;

/// The capture thread's end.
#[derive(Debug)]
pub struct Outlet {
    slot: Arc<Slot>,
    bell: Arc<Bell>,
    events: SyncSender<CaptureEvent>,
    seq: Cell<u64>,
    negotiated: RefCell<Option<Negotiated>>,
    complaint: RefCell<String>,
}

impl Outlet {
    /// An outlet that has told nothing yet.
    pub fn new(slot: Arc<Slot>, bell: Arc<Bell>, events: SyncSender<CaptureEvent>) -> Self {
        Self {
            slot,
            bell,
            events,
            seq: Cell::new(0),
            negotiated: RefCell::default(),
            complaint: RefCell::default(),
        }
    }

    /// What wakes the source.
    pub fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }

    /// Whether to end.
    pub fn stopped(&self) -> bool {
        self.bell.stopped()
    }

    /// Frames delivered so far.
    pub fn delivered(&self) -> u64 {
        self.seq.get()
    }

    /// Delivers a frame, numbering it.
    pub fn publish(&self, mut frame: Frame) {
        self.seq.set(self.seq.get() + 1);
        frame.seq = self.seq.get();
        self.slot.put(frame);
    }

    /// Tells what was agreed on, if it is news.
    pub fn negotiated(&self, negotiated: Negotiated) {
        if self.negotiated.borrow().as_ref() == Some(&negotiated) {
            return;
        }
        tracing::info!(
            source = negotiated.source,
            taken = negotiated.taken,
            reason = negotiated.reason,
            "capture negotiated"
        );
        self.complaint.borrow_mut().clear();
        *self.negotiated.borrow_mut() = Some(negotiated.clone());
        self.tell(CaptureEvent::Negotiated(negotiated));
    }

    /// Tells why there are no frames, once per reason. Frames of the source that was lost are not delivered
    /// any more.
    pub fn lost(&self, error: CaptureError) {
        self.slot.clear();
        *self.negotiated.borrow_mut() = None;
        let text = error.to_string();
        if *self.complaint.borrow() != text {
            *self.complaint.borrow_mut() = text;
            self.tell(CaptureEvent::Lost(error));
        }
    }

    fn tell(&self, event: CaptureEvent) {
        if self.events.try_send(event).is_err() {
            tracing::warn!("nobody takes capture's events");
        }
    }
}
