//! Wakes the capture thread from other threads: a consumer released a buffer, or the capture must stop.
//!
//! The waker is an eventfd, so a source can wait for it together with its socket in one `poll`, or register
//! it with PipeWire's loop.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// An eventfd and a stop flag.
#[derive(Debug)]
pub struct Waker {
    fd: Option<OwnedFd>,
    stop: AtomicBool,
}

impl Waker {
    /// Creates the eventfd.
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { fd: Some(fd), stop: AtomicBool::new(false) })
    }

    /// A stopped waker without an eventfd, for captures without a thread.
    pub fn disabled() -> Self {
        Self { fd: None, stop: AtomicBool::new(true) }
    }

    /// Wakes the waiting thread; the wake-up stays pending until [`Self::clear`] or [`Self::wait`].
    pub fn wake(&self) {
        if let Some(fd) = &self.fd {
            // The write fails only if the counter is at its maximum, when a wake-up is pending already.
            let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
        }
    }

    /// Sets the stop flag and wakes the waiting thread.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake();
    }

    /// True after [`Self::stop`].
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// The eventfd, for registration with another loop; readable while a wake-up is pending.
    pub fn raw_fd(&self) -> Option<RawFd> {
        self.fd.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Clears a pending wake-up.
    pub fn clear(&self) {
        if let Some(fd) = &self.fd {
            let _ = rustix::io::read(fd, &mut [0u8; 8]);
        }
    }

    /// Waits for a wake-up, for `other` to become readable, or for `timeout`; then clears the wake-up. Returns
    /// true if `other` is readable or in an error state.
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
            self.clear();
        }
        Ok(fds.get(1).is_some_and(|fd| !fd.revents().is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    #[test]
    fn waker_woken_by_another_thread_ends_the_wait_once() {
        let waker = Arc::new(Waker::new().expect("eventfd"));
        let start = Instant::now();
        let thread = std::thread::spawn({
            let waker = Arc::clone(&waker);
            move || waker.wake()
        });
        assert!(!waker.wait(None, TIMEOUT).expect("poll"));
        assert!(start.elapsed() < TIMEOUT, "the wake-up ends the wait");
        thread.join().expect("the waking thread ends");
        let start = Instant::now();
        waker.wait(None, Duration::from_millis(30)).expect("poll");
        assert!(start.elapsed() >= Duration::from_millis(30), "the wake-up was cleared by the first wait");
    }

    #[test]
    fn waker_stopped_reports_the_stop_and_wakes() {
        let waker = Waker::new().expect("eventfd");
        assert!(!waker.is_stopped());
        waker.stop();
        assert!(waker.is_stopped());
        let start = Instant::now();
        waker.wait(None, TIMEOUT).expect("poll");
        assert!(start.elapsed() < TIMEOUT, "a stop wakes");
    }

    #[test]
    fn wait_with_readable_descriptor_returns_true() {
        let (waker, other) = (Waker::new().expect("eventfd"), Waker::new().expect("eventfd"));
        let fd = other.fd.as_ref().expect("an eventfd").as_fd();
        assert!(!waker.wait(Some(fd), Duration::ZERO).expect("poll"));
        other.wake();
        assert!(waker.wait(Some(fd), TIMEOUT).expect("poll"));
    }
}
