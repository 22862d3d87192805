//! The host's monotonic clock.

use rustix::time::{ClockId, clock_gettime};

/// The host's `CLOCK_MONOTONIC` in ns.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}
