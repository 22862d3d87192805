//! The bell: what wakes a source that waits for its compositor, because a buffer came back or it is to stop.
//!
//! An eventfd, so that it can stand beside a socket in one `poll`, or in PipeWire's loop. It does not know
//! who rings.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Rings, and remembers whether to stop.
#[derive(Debug)]
pub struct Bell {
    fd: Option<OwnedFd>,
    stop: AtomicBool,
}

impl Bell {
    /// A bell that has not rung.
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { fd: Some(fd), stop: AtomicBool::new(false) })
    }

    /// A bell for a capture that never began.
    pub fn broken() -> Self {
        Self { fd: None, stop: AtomicBool::new(true) }
    }

    /// Wakes whoever waits.
    pub fn ring(&self) {
        if let Some(fd) = &self.fd {
            // Full means that it rings already.
            let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
        }
    }

    /// Tells all to end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.ring();
    }

    /// Whether to end.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// The descriptor, for another loop; readable when the bell has rung.
    pub fn raw(&self) -> Option<RawFd> {
        self.fd.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Makes it silent again.
    pub fn hush(&self) {
        if let Some(fd) = &self.fd {
            let _ = rustix::io::read(fd, &mut [0u8; 8]);
        }
    }

    /// Waits until it rings, `other` is readable, or `timeout` is over; then it is silent again. True if
    /// `other` is readable or broken.
    pub fn wait(&self, other: Option<BorrowedFd<'_>>, timeout: Duration) -> io::Result<bool> {
        let Some(own) = &self.fd else { return Ok(false) };
        let mut fds = Vec::with_capacity(2);
        fds.push(PollFd::from_borrowed_fd(own.as_fd(), PollFlags::IN));
        if let Some(other) = other {
            fds.push(PollFd::from_borrowed_fd(other, PollFlags::IN));
        }
        let timeout = Timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !fds[0].revents().is_empty() {
            self.hush();
        }
        Ok(fds.get(1).is_some_and(|fd| !fd.revents().is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;

    #[test]
    fn it_wakes_once_per_ring_and_not_before() {
        let bell = Arc::new(Bell::new().expect("eventfd"));
        let ringer = Arc::clone(&bell);
        let start = Instant::now();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            ringer.ring();
        });
        assert!(!bell.wait(None, Duration::from_secs(10)).expect("poll"));
        assert!(start.elapsed() >= Duration::from_millis(20), "woke before it rang");
        assert!(start.elapsed() < Duration::from_secs(5), "did not wake");
        thread.join().expect("rang");
        let start = Instant::now();
        bell.wait(None, Duration::from_millis(30)).expect("poll");
        assert!(start.elapsed() >= Duration::from_millis(30), "still rang");
        assert!(!bell.stopped());
        bell.stop();
        assert!(bell.stopped());
    }
}
