//! What the rest of the process tells a session's worker. Every kind of order has one place, the newest
//! wins, so that it needs no bound; pushed pixels build on each other and come by a channel of their own.

use std::sync::{Arc, Mutex, PoisonError};

use protocol::stream::{Config, Pixels};
use frame_ring::Consumer;
use frame_ring::wake::WakeFd;
use tokio::sync::mpsc;

use crate::waker::{self, Sleeper, Waker};

/// `Pixels` messages that may wait for the worker; the connection is not read meanwhile.
const PIXELS_WAITING: usize = 2;

/// A ring to read, and the socket that says when to look.
#[derive(Debug)]
pub struct RingEnd {
    /// The pictures.
    pub consumer: Consumer,
    /// Rung by the tap.
    pub bell: WakeFd,
}

/// Orders that wait.
#[derive(Debug, Default)]
pub struct Orders {
    /// Encode this way from now on.
    pub config: Option<Config>,
    /// Read this ring, or none.
    pub ring: Option<Option<RingEnd>>,
    /// New rate limits: kbit/s and fps.
    pub rate: Option<(u32, u16)>,
    /// The next picture is an IDR.
    pub keyframe: bool,
    /// End.
    pub stop: bool,
}

/// A `Pixels` message and when it was read: host's `CLOCK_MONOTONIC`, ns.
#[derive(Debug)]
pub struct Pushed {
    /// The message.
    pub pixels: Pixels,
    /// When its last byte was read.
    pub read_at_ns: u64,
}

/// The end that gives orders.
#[derive(Debug, Clone)]
pub struct Inbox {
    orders: Arc<Mutex<Orders>>,
    pixels: mpsc::Sender<Pushed>,
    waker: Waker,
}

/// The worker's end.
#[derive(Debug)]
pub struct InboxReader {
    orders: Arc<Mutex<Orders>>,
    pixels: mpsc::Receiver<Pushed>,
    /// Awake when there is something to take.
    pub sleeper: Sleeper,
}

/// Makes both ends.
pub fn inbox() -> std::io::Result<(Inbox, InboxReader)> {
    let (waker, sleeper) = waker::pair()?;
    let (sender, receiver) = mpsc::channel(PIXELS_WAITING);
    let orders = Arc::default();
    Ok((
        Inbox { orders: Arc::clone(&orders), pixels: sender, waker },
        InboxReader { orders, pixels: receiver, sleeper },
    ))
}

impl Inbox {
    /// Wakes the worker without an order.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut self.orders.lock().unwrap_or_else(PoisonError::into_inner));
        self.waker.wake();
    }

    /// Encode this way from now on.
    pub fn configure(&self, config: Config) {
        self.order(|orders| {
            orders.config = Some(config);
            orders.rate = None;
        });
    }

    /// Read this ring, or none.
    pub fn set_ring(&self, ring: Option<RingEnd>) {
        self.order(|orders| orders.ring = Some(ring));
    }

    /// New rate limits.
    pub fn set_rate(&self, bitrate_kbps: u32, max_fps: u16) {
        self.order(|orders| orders.rate = Some((bitrate_kbps, max_fps)));
    }

    /// The next picture is an IDR.
    pub fn request_keyframe(&self) {
        self.order(|orders| orders.keyframe = true);
    }

    /// End.
    pub fn stop(&self) {
        self.order(|orders| orders.stop = true);
    }

    /// Hands over pixels; waits while the worker has enough. `false` if it ended.
    pub async fn push(&self, pushed: Pushed) -> bool {
        let taken = self.pixels.send(pushed).await.is_ok();
        self.waker.wake();
        taken
    }
}

impl InboxReader {
    /// All orders so far.
    pub fn take(&self) -> Orders {
        std::mem::take(&mut *self.orders.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The next pixels, if some wait.
    pub fn next_pixels(&mut self) -> Option<Pushed> {
        self.pixels.try_recv().ok()
    }
}
