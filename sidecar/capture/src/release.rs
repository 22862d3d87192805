//! Queue of released buffers, from the threads that drop frames to the capture thread.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use crate::frame::BufferOwner;
use crate::waker::Waker;

/// Queues released buffers by token and wakes the source.
#[derive(Debug)]
pub struct ReleaseQueue {
    sender: Sender<u64>,
    waker: Arc<Waker>,
}

impl ReleaseQueue {
    /// A queue and its receiving end.
    pub fn new(waker: &Arc<Waker>) -> (Arc<Self>, Receiver<u64>) {
        let (sender, receiver) = mpsc::channel();
        (Arc::new(Self { sender, waker: Arc::clone(waker) }), receiver)
    }
}

impl BufferOwner for ReleaseQueue {
    fn release(&self, token: u64) {
        // The send fails only after the source ended, and its buffers with it.
        let _ = self.sender.send(token);
        self.waker.wake();
    }
}
