//! Ctrl-C as a word that long work asks for: what was started is then ended by its owner's `Drop`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

static STOP: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C and SIGTERM no longer end the process.
pub fn listen() -> Result<()> {
    ctrlc::set_handler(now).context("handling Ctrl-C")
}

/// What Ctrl-C does.
pub fn now() {
    STOP.store(true, Ordering::Relaxed);
}

/// Whether somebody wants the end.
pub fn wanted() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// An error if somebody wants the end.
pub fn check() -> Result<()> {
    if wanted() {
        bail!("interrupted");
    }
    Ok(())
}

/// Sleeps, but not on when somebody wants the end.
pub fn sleep(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        check()?;
        std::thread::sleep(end.saturating_duration_since(Instant::now()).min(Duration::from_millis(100)));
    }
    Ok(())
}
