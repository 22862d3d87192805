//! Waking a thread that waits in `poll(2)`: a socket pair that holds a byte while there is something to
//! look at. Many wakes become one.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// The end that wakes; clones wake the same thread.
#[derive(Debug, Clone)]
pub struct Waker {
    stream: Arc<UnixStream>,
}

/// The end that sleeps.
#[derive(Debug)]
pub struct Sleeper {
    stream: UnixStream,
}

/// Makes a pair.
pub fn pair() -> io::Result<(Waker, Sleeper)> {
    let (wakes, sleeps) = UnixStream::pair()?;
    wakes.set_nonblocking(true)?;
    sleeps.set_nonblocking(true)?;
    Ok((Waker { stream: Arc::new(wakes) }, Sleeper { stream: sleeps }))
}

impl Waker {
    /// Wakes. Never blocks: a full pair is awake already, and a closed one has nobody to wake.
    pub fn wake(&self) {
        let _awake_or_gone = (&*self.stream).write(&[1]);
    }
}

impl Sleeper {
    /// Forgets the wakes so far; `true` if there was one.
    pub fn drain(&self) -> bool {
        let mut sink = [0; 64];
        let mut woken = false;
        while matches!((&self.stream).read(&mut sink), Ok(read) if read > 0) {
            woken = true;
        }
        woken
    }
}

impl AsFd for Sleeper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
