//! Waiting for a condition, with a limit.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);

/// Asks `probe` again and again until it gives a value; its last error, and `what` was waited for, when
/// `limit` is over. Rests four times as long as the probe takes: what is waited for may need the same emulated processor.
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        let asked = Instant::now();
        match probe() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() >= limit => {
                bail!("{what}: not within {limit:.0?}: {error:#}")
            }
            Err(_) => std::thread::sleep((asked.elapsed() * 4).clamp(SHORTEST, LONGEST)),
        }
    }
}
