//! Waiting for a condition, with a limit.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Asks `probe` again and again until it gives a value; its last error, and `what` was waited for, when
/// `limit` is over.
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() >= limit => {
                bail!("{what}: not within {limit:.0?}: {error:#}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
