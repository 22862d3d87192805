//! Coalesces keyframe requests: the encoder receives at most one per interval, and none once an IDR arrived.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Keyframes {
    interval: Duration,
    requested: AtomicBool,
    closed: AtomicBool,
    changed: Notify,
    last: Mutex<Option<Instant>>,
}

impl Keyframes {
    pub(super) fn new(interval: Duration) -> Self {
        let flag = || AtomicBool::new(false);
        Self { interval, requested: flag(), closed: flag(), changed: Notify::new(), last: Mutex::new(None) }
    }

    /// Requests a keyframe; true for the first request since the last IDR.
    pub(super) fn request(&self) -> bool {
        let first = !self.requested.swap(true, Ordering::AcqRel);
        self.changed.notify_one();
        first
    }

    /// Records the arrival of an IDR.
    pub(super) fn fulfil(&self) {
        self.requested.store(false, Ordering::Release);
    }

    /// Ends [`KeyframeRequests::next`].
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.changed.notify_one();
    }
}

/// Receiving end of keyframe requests, for the encoder's side.
#[derive(Debug, Clone)]
pub struct KeyframeRequests(pub(super) Arc<Keyframes>);

impl KeyframeRequests {
    /// Waits until an IDR should be requested from the encoder; `None` once the hub is closed. Cancel safe. Supports
    /// one caller at a time.
    pub async fn next(&mut self) -> Option<()> {
        let keyframes = &self.0;
        loop {
            while !keyframes.requested.load(Ordering::Acquire) {
                if keyframes.closed.load(Ordering::Acquire) {
                    return None;
                }
                keyframes.changed.notified().await;
            }
            let last = *keyframes.last.lock();
            if let Some(last) = last {
                tokio::time::sleep_until(last + keyframes.interval).await;
            }
            if keyframes.closed.load(Ordering::Acquire) {
                return None;
            }
            if keyframes.requested.load(Ordering::Acquire) {
                *keyframes.last.lock() = Some(Instant::now());
                return Some(());
            }
        }
    }
}
