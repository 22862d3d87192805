//! The link thread: keeps a connection to the host-agent as long as the VMM runs.
//!
//! ```text
//!   connect ──fails──> wait 100 ms .. 1 s ──┐
//!      │   ^─────────────────────────────────┘
//!      v
//!    hello ──no answer within 5 s──> wait
//!      v
//!   session: events out, attach/detach in, stats once a second   (epoch is odd)
//!      └──closed, or protocol error──> wait                      (epoch is even)
//! ```
//!
//! All slow work is done here: mapping and unmapping rings, and socket IO. The thread never calls
//! virglrenderer and shares no lock with the VMM's thread. A ring that cannot be used is refused and
//! concerns its session only; a malformed message of the peer ends the connection and nothing else.

mod rings;
mod session;
mod socket;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use frame_ring::wake::{self, WakeFd, WakeState};
use protocol::DecodeError;

use crate::settings::Settings;
use crate::shared::Shared;
use crate::{log, sys};

use rings::Rings;

/// First delay before a new attempt to connect; doubles up to [`MAX_RETRY_DELAY`].
const MIN_RETRY_DELAY: Duration = Duration::from_millis(100);
/// Longest delay before a new attempt to connect.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(1);

/// A connection could not be made, or ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A system call failed.
    #[error(
        "failed to {step}: {source}; check that the host-agent runs and DESKTOPSTREAM_LINK names its socket"
    )]
    System {
        /// The failed step, an infinitive.
        step: &'static str,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// Another user listens on the socket.
    #[error(
        "user {0} listens on the link; run the host-agent as the VMM's user, and set DESKTOPSTREAM_LINK to its socket"
    )]
    ForeignUser(u32),
    /// The host-agent closed the connection.
    #[error("the host-agent closed the link")]
    Closed,
    /// The host-agent did not answer the hello in time.
    #[error("the host-agent did not answer the hello; check that no other program listens on its socket")]
    HelloTimeout,
    /// A message is malformed.
    #[error("malformed message from the host-agent: {0}; install tap and host-agent of the same release")]
    Decode(#[from] DecodeError),
    /// A message came out of order or with the wrong descriptors.
    #[error("protocol error of the host-agent: {0}")]
    Protocol(&'static str),
    /// A bounded queue or buffer is full; both ends start again with a new connection.
    #[error("{0}; reconnecting")]
    Overrun(&'static str),
}

/// State of the link thread.
#[derive(Debug)]
struct Link {
    shared: Arc<Shared>,
    settings: Settings,
    wake_fd: WakeFd,
    /// Random number; distinguishes a reconnect of this tap from a new VM.
    instance: [u8; 16],
    /// Mapped rings. They outlive a connection, because this thread alone unmaps them.
    rings: Rings,
}

/// Starts the link thread. `abi` is the version of the VMM's callbacks structure, for the hello.
///
/// # Errors
/// If the process is out of descriptors, threads or random bytes.
pub fn start(settings: Settings, abi: u32) -> Result<Arc<Shared>, LinkError> {
    let system = |step| move |source| LinkError::System { step, source };
    let (wake_fd, waker) = wake::pair().map_err(system("make a socket pair"))?;
    let mut instance = [0; 16];
    getrandom::fill(&mut instance)
        .map_err(|error| LinkError::System { step: "get random bytes", source: error.into() })?;
    let shared = Arc::new(Shared::new(waker));
    shared.abi.store(abi, Ordering::Relaxed);
    let rings = Rings::new(Arc::clone(&shared));
    let link = Link { shared: Arc::clone(&shared), settings, wake_fd, instance, rings };
    let thread = std::thread::Builder::new().name("desktopstream".to_owned());
    sys::without_signals(|| thread.spawn(move || link.run())).map_err(system("start a thread"))?;
    Ok(shared)
}

impl Link {
    fn run(mut self) {
        let mut delay = MIN_RETRY_DELAY;
        let mut reported_user = None;
        loop {
            let connected = std::cell::Cell::new(false);
            let ended = catch_unwind(AssertUnwindSafe(|| session::run(&mut self, || connected.set(true))));
            self.shared.disconnect();
            self.rings.end_all();
            match ended {
                Ok(Err(error)) if connected.get() => log::line(format_args!("link lost: {error}")),
                // Once, because the attempt is repeated every second.
                Ok(Err(ref error @ LinkError::ForeignUser(user))) if reported_user != Some(user) => {
                    reported_user = Some(user);
                    log::line(format_args!("{error}"));
                }
                Ok(_) => {}
                Err(_) => {
                    self.shared.counters.fault();
                }
            }
            delay = if connected.get() { MIN_RETRY_DELAY } else { MAX_RETRY_DELAY.min(2 * delay) };
            self.pause(delay);
        }
    }

    /// Waits, and unmaps rings that are given back meanwhile.
    fn pause(&mut self, delay: Duration) {
        let end = Instant::now() + delay;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = socket::wait(&self.wake_fd, None, left);
            if waited.is_err() || self.wake_fd.clear() == WakeState::Closed {
                // Not expected, as this process holds both ends; prevents a busy loop.
                std::thread::sleep(left);
            }
            self.rings.unmap_revoked();
        }
    }
}
