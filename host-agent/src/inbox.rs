//! Orders for a session's worker. Each kind of order has one place, in which the newest wins, so orders
//! need no bound. Pushed pixels build on each other and have a bounded channel of their own.

use std::sync::Arc;

use frame_ring::Consumer;
use frame_ring::wake::{self, WakeFd, Waker};
use parking_lot::Mutex;
use protocol::stream::{Config, Pixels};
use tokio::sync::mpsc;

/// Maximum number of queued `Pixels` messages. The connection is not read while the queue is full.
const MAX_QUEUED_PIXELS: usize = 2;

/// A ring to read frames from.
#[derive(Debug)]
pub struct RingReader {
    /// Reading end of the ring.
    pub consumer: Consumer,
    /// Woken by the tap when a slot is full.
    pub wake_fd: WakeFd,
}

/// Pending orders.
#[derive(Debug, Default)]
pub struct Orders {
    /// New configuration.
    pub config: Option<Config>,
    /// New ring, or `Some(None)` for none.
    pub ring: Option<Option<RingReader>>,
    /// Encode the next frame as an IDR.
    pub keyframe: bool,
    /// End the worker.
    pub stop: bool,
}

/// A `Pixels` message and the time at which it was read: the host's `CLOCK_MONOTONIC`, ns.
#[derive(Debug)]
pub struct PushedPixels {
    /// The message.
    pub pixels: Pixels,
    /// Time at which its last byte was read.
    pub read_at_ns: u64,
}

/// The sending end.
#[derive(Debug, Clone)]
pub struct Inbox {
    orders: Arc<Mutex<Orders>>,
    pixels: mpsc::Sender<PushedPixels>,
    waker: Arc<Waker>,
}

/// The worker's end.
#[derive(Debug)]
pub struct InboxReader {
    orders: Arc<Mutex<Orders>>,
    pixels: mpsc::Receiver<PushedPixels>,
    /// Readable while there may be something to take.
    pub wake_fd: WakeFd,
}

/// Creates both ends.
///
/// # Errors
/// The process is out of file descriptors.
pub fn inbox() -> std::io::Result<(Inbox, InboxReader)> {
    let (wake_fd, waker) = wake::pair()?;
    let (sender, receiver) = mpsc::channel(MAX_QUEUED_PIXELS);
    let orders = Arc::default();
    Ok((
        Inbox { orders: Arc::clone(&orders), pixels: sender, waker: Arc::new(waker) },
        InboxReader { orders, pixels: receiver, wake_fd },
    ))
}

impl Inbox {
    /// Wakes the worker without an order.
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut self.orders.lock());
        self.waker.wake();
    }

    /// Orders a new configuration.
    pub fn configure(&self, config: Config) {
        self.order(|orders| orders.config = Some(config));
    }

    /// Orders a new ring, or none.
    pub fn set_ring(&self, ring: Option<RingReader>) {
        self.order(|orders| orders.ring = Some(ring));
    }

    /// Orders an IDR.
    pub fn request_keyframe(&self) {
        self.order(|orders| orders.keyframe = true);
    }

    /// Orders the worker to end.
    pub fn stop(&self) {
        self.order(|orders| orders.stop = true);
    }

    /// Queues pixels; waits while the queue is full. Returns false if the worker ended.
    pub async fn push(&self, pushed: PushedPixels) -> bool {
        let queued = self.pixels.send(pushed).await.is_ok();
        self.waker.wake();
        queued
    }
}

impl InboxReader {
    /// Takes all pending orders.
    pub fn take_orders(&self) -> Orders {
        std::mem::take(&mut *self.orders.lock())
    }

    /// Takes the oldest queued pixels.
    pub fn next_pixels(&mut self) -> Option<PushedPixels> {
        self.pixels.try_recv().ok()
    }
}
