//! Rate limits of a stream. They outlive its sessions, so a sidecar that reconnects gets no others.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use protocol::rate::{RateLimit, TokenBucket};

/// Sessions that a stream may start. Each one starts a thread and sends messages to every tap.
pub(super) const SESSIONS: RateLimit = RateLimit::new(2, 16);
/// Rings that a stream may make: a window that is resized needs several.
pub(super) const RINGS: RateLimit = RateLimit::new(2, 8);
/// Encoders that a stream may open: one costs as much as many frames.
const ENCODERS: RateLimit = RateLimit::new(2, 8);
/// Number of streams above which those that used nothing lately are forgotten.
const MAX_STREAMS: usize = 256;

/// Rate limits of one stream.
#[derive(Debug)]
pub struct StreamLimits(Mutex<Buckets>);

#[derive(Debug)]
struct Buckets {
    sessions: TokenBucket,
    rings: TokenBucket,
    encoders: TokenBucket,
}

impl Default for StreamLimits {
    fn default() -> Self {
        let [sessions, rings, encoders] = [SESSIONS, RINGS, ENCODERS].map(TokenBucket::new);
        Self(Mutex::new(Buckets { sessions, rings, encoders }))
    }
}

impl StreamLimits {
    /// Counts a session, and returns how long it must wait. The time is that of the host's `CLOCK_MONOTONIC`,
    /// ns, here and below.
    pub(super) fn session_delay(&self, now_ns: u64) -> Duration {
        self.0.lock().sessions.take(now_ns)
    }

    /// True if the stream may make a ring now.
    pub(super) fn try_ring(&self, now_ns: u64) -> bool {
        self.0.lock().rings.try_take(now_ns)
    }

    /// True if the stream may open an encoder now.
    pub fn try_encoder(&self, now_ns: u64) -> bool {
        self.0.lock().encoders.try_take(now_ns)
    }

    fn is_unused(&self, now_ns: u64) -> bool {
        let Buckets { sessions, rings, encoders } = &*self.0.lock();
        [sessions, rings, encoders].iter().all(|bucket| bucket.is_full(now_ns))
    }
}

/// Limits by stream.
#[derive(Debug, Default)]
pub(super) struct Limits(HashMap<String, Arc<StreamLimits>>);

impl Limits {
    /// The limits of a stream.
    pub(super) fn of(&mut self, stream: &str, now_ns: u64) -> Arc<StreamLimits> {
        if let Some(limits) = self.0.get(stream) {
            return Arc::clone(limits);
        }
        if self.0.len() >= MAX_STREAMS {
            // Those in use are kept: their holders and the next session must share them.
            self.0.retain(|_, limits| Arc::strong_count(limits) > 1 || !limits.is_unused(now_ns));
        }
        Arc::clone(self.0.entry(stream.to_owned()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1 << 40;

    #[test]
    fn stream_without_use_is_forgotten_and_others_keep_their_limits() {
        let mut limits = Limits::default();
        let held = limits.of("held", START);
        assert!((0..100).any(|_| !limits.of("used", START).try_encoder(START)));
        for other in 0..MAX_STREAMS - 1 {
            limits.of(&other.to_string(), START);
        }
        assert_eq!(limits.0.len(), 3, "the two, and the newest");
        assert!(Arc::ptr_eq(&held, &limits.of("held", START)));
        assert!(!limits.of("used", START).try_encoder(START));
    }

    #[test]
    fn sessions_over_the_rate_limit_wait() {
        let limits = StreamLimits::default();
        let delays: Vec<_> = (0..18).map(|_| limits.session_delay(START).as_millis()).collect();
        assert_eq!(delays[..16], [0; 16]);
        assert_eq!(delays[16..], [500, 1000]);
    }
}
