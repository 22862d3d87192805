//! A session's encoder thread: takes the newest frame, encodes it, and passes the access unit to the outbox.
//!
//! ```text
//!   ring, inbox, outbox space, access unit  --poll-->  orders  -->  new frame?  -->  encode
//!        ^                                                             |no: repeat due?
//!        +-------------------------------------------------------------+
//! ```
//!
//! The thread waits in `poll(2)` for the ring and the inbox itself, so that one wake-up of one thread lies
//! between a full slot and the encoder. [`pace`] decides when a frame is due; [`session_encoder`] replaces
//! an encoder that fails.

mod output;
mod pace;
mod session_encoder;
mod source;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use frame_ring::clock::monotonic_ns;
use frame_ring::wake::Waker;
use parking_lot::Mutex;
use protocol::stream::{Config, ErrorCode, Path, ServerMessage};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::encoders::Choice;
use crate::hub::{Session, StreamLimits};
use crate::inbox::{InboxReader, Orders, RingReader};
use crate::meter::{Count, Meter, Time};
use crate::outbox::Outbox;
use pace::Pace;
use session_encoder::SessionEncoder;
use source::{Frame, Source};

/// A wait that takes this much longer than requested means that the process did not run: asleep, stopped or
/// starved.
const SUSPENSION_THRESHOLD: Duration = Duration::from_secs(2);
/// Interval at which a configuration that waits for the limit on encoders is tried again. Nothing is encoded
/// meanwhile.
const OPENING_INTERVAL: Duration = Duration::from_millis(50);
/// Delay after a failed poll.
const POLL_RETRY_INTERVAL: Duration = Duration::from_millis(10);
/// Maximum length of a thread name on Linux (pthread_setname_np(3)).
const MAX_THREAD_NAME: usize = 15;

/// Encoding policy of all sessions.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Encoder to open.
    pub encoder: Choice,
    /// Rate at which an unchanged frame is encoded again, frames per second; 0 for never.
    pub keepalive_fps: u32,
}

/// Starts the worker of a session. `waker` wakes the thread that reads `inbox`.
///
/// # Errors
/// The operating system refused another thread.
pub fn spawn(
    session: &Session,
    limits: Arc<StreamLimits>,
    policy: Policy,
    inbox: InboxReader,
    waker: Arc<Waker>,
) -> std::io::Result<JoinHandle<()>> {
    let (outbox, meter) = (Arc::clone(&session.outbox), session.meter.clone());
    let Policy { encoder, keepalive_fps } = policy;
    let encoder = SessionEncoder::new(
        Box::new(move |settings, sink| crate::encoders::open(&encoder, settings, sink)),
        Arc::clone(&outbox),
        meter.clone(),
        waker,
    );
    let worker = Worker {
        inbox,
        outbox,
        meter,
        encoder_name: Arc::clone(&session.encoder),
        encoder,
        keepalive_fps,
        config: None,
        opening: None,
        limits,
        source: Source::default(),
        pace: Pace::new(60, keepalive_fps),
        keyframe_requested: false,
        last: None,
    };
    let name: String = format!("encode-{}", session.info.id).chars().take(MAX_THREAD_NAME).collect();
    std::thread::Builder::new().name(name).spawn(move || worker.run())
}

struct Worker {
    inbox: InboxReader,
    outbox: Arc<Outbox>,
    meter: Meter,
    /// Name of the open encoder, for `/status`.
    encoder_name: Arc<Mutex<Option<String>>>,
    encoder: SessionEncoder,
    keepalive_fps: u32,
    config: Option<Config>,
    /// Configuration for which no encoder was opened yet.
    opening: Option<Config>,
    limits: Arc<StreamLimits>,
    source: Source,
    pace: Pace,
    /// An IDR was requested and is not encoded yet.
    keyframe_requested: bool,
    /// The last encoded frame, for repeats. It occupies a slot of the ring.
    last: Option<Frame>,
}

impl Worker {
    fn run(mut self) {
        let mut wait = None;
        loop {
            self.sleep(wait);
            let orders = self.inbox.take_orders();
            if orders.stop {
                return;
            }
            self.execute(orders);
            wait = self.step();
        }
    }

    /// Waits for the ring, the inbox or the time; with `None` without a timeout.
    fn sleep(&mut self, time: Option<Duration>) {
        let begin = Instant::now();
        let timeout = time.and_then(|time| Timespec::try_from(time).ok());
        let ring = self.source.ring.as_ref().map(|ring| ring.wake_fd.as_fd());
        let mut fds = Vec::with_capacity(2);
        fds.push(PollFd::new(&self.inbox.wake_fd, PollFlags::IN));
        if let Some(ring) = &ring {
            fds.push(PollFd::new(ring, PollFlags::IN));
        }
        // An interrupted poll is handled like a wake.
        if let Err(error) = rustix::event::poll(&mut fds, timeout.as_ref())
            && error != rustix::io::Errno::INTR
        {
            tracing::error!(%error, "poll failed");
            std::thread::sleep(POLL_RETRY_INTERVAL);
        }
        if time.is_some_and(|time| begin.elapsed() > time + SUSPENSION_THRESHOLD) {
            self.encoder.extend_deadlines();
        }
        self.inbox.wake_fd.clear();
        self.source.clear_wakes();
    }

    fn execute(&mut self, orders: Orders) {
        if let Some(ring) = orders.ring {
            self.set_ring(ring);
        }
        if let Some(config) = orders.config {
            self.configure(config);
        }
        self.keyframe_requested |= orders.keyframe;
    }

    fn set_ring(&mut self, ring: Option<RingReader>) {
        self.source.ring = ring;
        if self.config.is_none_or(|config| config.path == Path::ResourceId) {
            // The session must not show a frame of a ring that was taken from it.
            self.last = None;
        }
    }

    fn configure(&mut self, config: Config) {
        self.config = Some(config);
        self.last = None;
        // A stream starts with an IDR.
        self.keyframe_requested = true;
        self.source.configure(&config);
        self.pace = Pace::new(config.max_fps.into(), self.keepalive_fps);
        self.opening = Some(config);
    }

    /// Opens the encoder of the newest configuration, at a limited rate. Returns whether one must wait.
    fn open_encoder(&mut self) -> bool {
        let Some(config) = self.opening else { return false };
        if !self.limits.try_encoder(monotonic_ns()) {
            return true;
        }
        self.opening = None;
        let name = match self.encoder.configure(&config) {
            Ok(name) => {
                self.outbox.push(&ServerMessage::Configured { encoder: name.clone() });
                Some(name)
            }
            Err(error) => {
                self.outbox.push_error(ErrorCode::Encoder, error.to_string());
                None
            }
        };
        *self.encoder_name.lock() = name;
        false
    }

    /// Does what is due. Returns the time until something else is due; `None` if only an event can change
    /// that.
    fn step(&mut self) -> Option<Duration> {
        if let Some(error) = self.encoder.replace_if_stalled() {
            self.outbox.push_error(ErrorCode::Encoder, error);
        }
        // Pushed pixels build on each other, so they are applied even if nothing can be encoded.
        while let Some(pushed) = self.inbox.next_pixels() {
            self.meter.add(Count::Captured, 1);
            let last = &mut self.last;
            // The last frame shares its memory with the canvas; released, the canvas is changed in place.
            if let Some(replaced) = self.source.push(pushed, || *last = None) {
                self.drop_frame(replaced);
            }
        }
        if self.open_encoder() {
            return Some(OPENING_INTERVAL);
        }
        if !self.encoder.is_ready() || !self.outbox.has_space() {
            return self.encoder.time_to_stall();
        }
        let now = Instant::now();
        let keyframe_in = self.keyframe_requested.then(|| self.pace.until_keyframe(now));
        let idr = self.outbox.needs_idr() || keyframe_in == Some(Duration::ZERO);
        let new_in = self.pace.until_next(now);
        if new_in.is_zero()
            && let Some(frame) = self.newest()
        {
            self.pace.took(now);
            self.encode(frame, idr, false);
            return Some(Duration::ZERO);
        }
        let repeat_in =
            if idr { Some(Duration::ZERO) } else { earlier(keyframe_in, self.pace.until_repeat(now)) };
        let repeat_in = repeat_in.filter(|_| self.last.is_some());
        if repeat_in == Some(Duration::ZERO)
            && let Some(last) = self.last.clone()
        {
            self.pace.repeated(now);
            self.encode(last, idr, true);
            return Some(Duration::ZERO);
        }
        // If the pace allows a new frame now, the next one arrives with a wake.
        earlier(repeat_in, (!new_in.is_zero()).then_some(new_in))
    }

    /// The newest frame of the configured size. Frames that it replaces are dropped.
    fn newest(&mut self) -> Option<Frame> {
        let config = self.config?;
        while let Some(newest) = self.source.newest(config.path) {
            if config.path == Path::ResourceId {
                self.meter.add(Count::Captured, 1 + newest.replaced.len() as u64);
            }
            for seq in newest.replaced {
                self.drop_frame(seq);
            }
            if let Some(us) = newest.read_us {
                self.meter.record(Time::Read, us);
            }
            let size = (newest.frame.picture.width, newest.frame.picture.height);
            if size == (config.width.into(), config.height.into()) {
                return Some(newest.frame);
            }
            tracing::debug!(?size, "frame dropped: not of the configured size");
            self.drop_frame(newest.frame.seq);
        }
        None
    }

    fn drop_frame(&self, seq: u64) {
        self.meter.add(Count::Dropped, 1);
        self.outbox.push_dropped(seq);
    }

    fn encode(&mut self, frame: Frame, idr: bool, repeat: bool) {
        match self.encoder.encode(&frame, idr, repeat) {
            Ok(()) => {
                if idr {
                    self.keyframe_requested = false;
                }
                self.pace.encoded(Instant::now(), idr);
                self.last = Some(frame);
            }
            Err(failure) => {
                self.drop_frame(frame.seq);
                if let session_encoder::Failure::NoEncoder(message) = failure {
                    self.outbox.push_error(ErrorCode::Encoder, message);
                }
            }
        }
    }
}

/// The earlier of two times, where `None` is never.
fn earlier(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
    }
}
