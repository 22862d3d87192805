//! Wishes for a keyframe, many in and few out: however many viewers join or lose units, the encoder is
//! asked at most once per interval, and again only while no IDR has come.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Keyframes {
    interval: Duration,
    wanted: AtomicBool,
    closed: AtomicBool,
    changed: Notify,
    last: Mutex<Option<Instant>>,
}

impl Keyframes {
    pub(super) fn new(interval: Duration) -> Self {
        let flag = || AtomicBool::new(false);
        Self { interval, wanted: flag(), closed: flag(), changed: Notify::new(), last: Mutex::new(None) }
    }

    /// True when this wish is the first since the last IDR.
    pub(super) fn want(&self) -> bool {
        let first = !self.wanted.swap(true, Ordering::AcqRel);
        self.changed.notify_one();
        first
    }

    /// An IDR came.
    pub(super) fn satisfied(&self) {
        self.wanted.store(false, Ordering::Release);
    }

    /// Nobody will want one any more.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.changed.notify_one();
    }
}

/// Where whoever drives the encoder hears that a keyframe is wanted.
#[derive(Debug, Clone)]
pub struct KeyframeRequests(pub(super) Arc<Keyframes>);

impl KeyframeRequests {
    /// Returns when an IDR should be asked for; `None` once the hub is closed. Cancelling loses nothing.
    /// Meant for one caller at a time.
    pub async fn next(&mut self) -> Option<()> {
        let keyframes = &self.0;
        loop {
            while !keyframes.wanted.load(Ordering::Acquire) {
                if keyframes.closed.load(Ordering::Acquire) {
                    return None;
                }
                keyframes.changed.notified().await;
            }
            let last = *keyframes.last.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(last) = last {
                tokio::time::sleep_until(last + keyframes.interval).await;
            }
            if keyframes.closed.load(Ordering::Acquire) {
                return None;
            }
            if keyframes.wanted.load(Ordering::Acquire) {
                *keyframes.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                return Some(());
            }
        }
    }
}
