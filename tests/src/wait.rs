//! Polling for a condition.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Bounds of the pause between two attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Calls `probe` until it succeeds, and returns its value.
///
/// Pauses four times as long as an attempt takes: the condition may need the same emulated processor.
///
/// # Errors
/// Returns the last error of `probe`, with `condition`, once `limit` has passed.
pub fn until<T>(condition: &str, limit: Duration, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        let attempt = Instant::now();
        match probe() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() >= limit => {
                bail!("{condition}: not met within {limit:.0?}: {error:#}")
            }
            Err(_) => std::thread::sleep((attempt.elapsed() * 4).clamp(PAUSE.0, PAUSE.1)),
        }
    }
}
