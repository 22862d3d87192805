//! The link thread: keeps a connection to the host-agent, for as long as the VMM lives.
//!
//! ```text
//!   connect ──fails──> wait 100 ms .. 1 s ──┐
//!      │   ^─────────────────────────────────┘
//!      v
//!    hello ──no answer in 5 s──> wait
//!      v
//!   session: events out, attach/detach in, stats once a second   (epoch is odd)
//!      └──closed, or the peer talks nonsense──> wait             (epoch is even)
//! ```
//!
//! It does everything that takes time: mapping rings, unmapping them, talking. It never calls
//! virglrenderer and holds nothing that the VMM's thread might wait for. Whatever the peer does ends
//! the connection at worst.

mod session;
mod socket;

use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use protocol::DecodeError;
use frame_ring::doorbell::{self, Bell};

use crate::settings::Settings;
use crate::shared::Shared;
use crate::{log, sys};

pub use session::MAX_RING_BYTES;

/// First wait between two attempts to connect; doubles up to [`LONGEST_WAIT`].
const SHORTEST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Why a connection ended, or there is none.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The operating system said no.
    #[error(
        "can't {step}: {source}; is the host-agent running, and does DESKTOPSTREAM_LINK name its socket?"
    )]
    System {
        /// What was tried.
        step: &'static str,
        /// What it said.
        source: std::io::Error,
    },
    /// The host-agent hung up.
    #[error("the host-agent closed the link")]
    Closed,
    /// The host-agent did not answer hello.
    #[error("no hello from the host-agent in time; is something else listening there?")]
    Silent,
    /// A message that is not of this protocol.
    #[error("the host-agent does not speak our protocol: {0}; run tap and host-agent of the same release")]
    Decode(#[from] DecodeError),
    /// A message at the wrong time or with the wrong descriptors.
    #[error("the host-agent broke the protocol: {0}")]
    Protocol(&'static str),
    /// A ring that can't be used.
    #[error(transparent)]
    Ring(#[from] frame_ring::RingError),
    /// More was asked or happened than one side keeps; both start over.
    #[error("{0}; starting over")]
    Overrun(&'static str),
}

/// What the link thread has to itself.
#[derive(Debug)]
struct Link {
    shared: Arc<Shared>,
    settings: Settings,
    wake: UnixStream,
    /// Tells a reconnect of this tap from a new VM.
    instance: [u8; 16],
}

/// Starts the thread; `abi` is what hello says of the VMM.
pub fn start(settings: Settings, abi: u32) -> Result<Arc<Shared>, LinkError> {
    let system = |step| move |source| LinkError::System { step, source };
    let (wake, bell) = doorbell::pair().map_err(system("make a socket pair"))?;
    let bell = Bell::new(bell).map_err(system("use a socket pair"))?;
    let mut instance = [0; 16];
    getrandom::fill(&mut instance)
        .map_err(|error| LinkError::System { step: "get random bytes", source: error.into() })?;
    let shared = Arc::new(Shared::new(bell));
    shared.abi.store(abi, Ordering::Relaxed);
    let link = Link { shared: Arc::clone(&shared), settings, wake, instance };
    let thread = std::thread::Builder::new().name("desktopstream".to_owned());
    sys::without_signals(|| thread.spawn(move || link.run())).map_err(system("start a thread"))?;
    Ok(shared)
}

impl Link {
    fn run(self) {
        let mut wait = SHORTEST_WAIT;
        loop {
            let shaken_hands = std::cell::Cell::new(false);
            let ended = catch_unwind(AssertUnwindSafe(|| session::run(&self, || shaken_hands.set(true))));
            self.shared.down();
            match ended {
                Ok(Err(error)) if shaken_hands.get() => log::line(format_args!("link: {error}")),
                Ok(_) => {}
                Err(_) => {
                    self.shared.counters.fault();
                }
            }
            wait = if shaken_hands.get() { SHORTEST_WAIT } else { LONGEST_WAIT.min(2 * wait) };
            self.rest(wait);
        }
    }

    /// Waits, unmapping rings that come back meanwhile.
    fn rest(&self, wait: Duration) {
        let end = Instant::now() + wait;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            if socket::wait(&self.wake, None, left).is_err() || !doorbell::drain(&self.wake) {
                // Can't happen with a socket pair of our own; without this it would spin.
                std::thread::sleep(left);
            }
            self.shared.unmap_retired();
        }
    }
}
