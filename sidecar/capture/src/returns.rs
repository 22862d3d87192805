//! The way back of buffers: from whatever thread drops a frame to the source's own.
//!
//! A frame's drop only notes a number and rings the bell; the source looks when it wakes. It does not know
//! what the numbers stand for.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};

use super::bell::Bell;
use super::frame::GiveBack;

/// Buffers that come back, by a channel and the bell.
pub struct Returns {
    sender: Mutex<Sender<u64>>,
    bell: Arc<Bell>,
}

impl Returns {
    /// A way back, and where it leads.
    pub fn new(bell: &Arc<Bell>) -> (Arc<Self>, Receiver<u64>) {
        let (sender, receiver) = mpsc::channel();
        (Arc::new(Self { sender: Mutex::new(sender), bell: Arc::clone(bell) }), receiver)
    }
}

impl GiveBack for Returns {
    fn give_back(&self, token: u64) {
        // A source that has ended takes nothing back: the buffer is gone with it.
        let _ = self.sender.lock().unwrap_or_else(PoisonError::into_inner).send(token);
        self.bell.ring();
    }
}
