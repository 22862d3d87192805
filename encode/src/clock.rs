//! The one clock of the path inside the guest.

/// `CLOCK_MONOTONIC` in nanoseconds: what compositors stamp frames with.
pub fn clock_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
