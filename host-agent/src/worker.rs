//! A session's encoder thread: takes the newest picture, has it encoded, hands the access unit to the
//! outbox.
//!
//! ```text
//!   ring's bell, inbox, room in the outbox, encoder done  --poll-->  orders  -->  picture?  -->  encode
//!        ^                                                                          |no: repeat due?
//!        +--------------------------------------------------------------------------+
//! ```
//!
//! It waits in `poll(2)` on the bell and the inbox itself, so that between a full slot and the encoder
//! there is one wake-up of one thread. What is due when is [`pace`]'s; encoders that break are
//! [`engine`]'s. It knows no connection, no VM and no token.

mod engine;
mod flight;
mod pace;
mod source;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use protocol::stream::{Config, ErrorCode, Path, ServerMessage};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::encoders::Choice;
use crate::inbox::{InboxReader, Orders, RingEnd};
use crate::meter::{Count, Meter, Time};
use crate::outbox::Outbox;
use engine::Engine;
use pace::Pace;
use source::{Fresh, Source};

/// Waking so much later than asked says that the process stood still: asleep, stopped, or starved.
const STOOD_STILL: Duration = Duration::from_secs(2);

/// How sessions are encoded.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Which encoder.
    pub encoder: Choice,
    /// How often a still picture is encoded again, per second; 0 is never.
    pub keepalive_fps: u32,
}

/// What the worker tells about itself, for `/status`.
pub type Report = Arc<std::sync::Mutex<Option<String>>>;

/// Starts a session's worker.
pub fn spawn(
    name: &str,
    policy: Policy,
    inbox: InboxReader,
    outbox: Arc<Outbox>,
    meter: Meter,
    report: Report,
    waker: crate::waker::Waker,
) -> std::io::Result<JoinHandle<()>> {
    let engine = Engine::new(
        Box::new(move |settings, sink| crate::encoders::open(&policy.encoder, settings, sink)),
        outbox.clone(),
        meter.clone(),
        waker,
    );
    let worker = Worker {
        inbox,
        outbox,
        meter,
        report,
        engine,
        keepalive_fps: policy.keepalive_fps,
        config: None,
        source: Source::default(),
        pace: Pace::new(60, policy.keepalive_fps),
        keyframe: false,
        last: None,
    };
    std::thread::Builder::new().name(name.chars().take(15).collect()).spawn(move || worker.run())
}

struct Worker {
    inbox: InboxReader,
    outbox: Arc<Outbox>,
    meter: Meter,
    report: Report,
    engine: Engine,
    keepalive_fps: u32,
    config: Option<Config>,
    source: Source,
    pace: Pace,
    /// An IDR was asked for and not made yet.
    keyframe: bool,
    /// What is on the screen: its ring slot stays taken while it is shown.
    last: Option<Fresh>,
}

impl Worker {
    fn run(mut self) {
        let mut wait = None;
        loop {
            self.sleep(wait);
            let orders = self.inbox.take();
            if orders.stop {
                return;
            }
            self.obey(orders);
            wait = self.step();
        }
    }

    /// Waits for the bell, the inbox or the time. With no time, for ever.
    fn sleep(&mut self, time: Option<Duration>) {
        let begin = Instant::now();
        let timeout = time.and_then(|time| Timespec::try_from(time).ok());
        let bell = self.source.ring.as_ref().map(|ring| ring.bell.as_fd());
        let mut fds = Vec::with_capacity(2);
        fds.push(PollFd::new(&self.inbox.sleeper, PollFlags::IN));
        if let Some(bell) = &bell {
            fds.push(PollFd::new(bell, PollFlags::IN));
        }
        // An interrupted poll is a wake-up like any other.
        if let Err(error) = rustix::event::poll(&mut fds, timeout.as_ref())
            && error != rustix::io::Errno::INTR
        {
            tracing::error!(%error, "a worker can't wait; slowing down instead of spinning");
            std::thread::sleep(Duration::from_millis(10));
        }
        if time.is_some_and(|time| begin.elapsed() > time + STOOD_STILL) {
            self.engine.pardon();
        }
        self.inbox.sleeper.drain();
        self.source.hear();
    }

    fn obey(&mut self, orders: Orders) {
        if let Some(ring) = orders.ring {
            self.set_ring(ring);
        }
        if let Some(config) = orders.config {
            self.configure(config);
        }
        if let Some((bitrate_kbps, max_fps)) = orders.rate {
            match self.engine.set_rate(bitrate_kbps, max_fps.into()) {
                Ok(()) => self.pace.set_max_fps(max_fps.into()),
                Err(error) => {
                    self.outbox.push_error(ErrorCode::Encoder, format!("the new rate is not taken: {error}"));
                }
            }
        }
        self.keyframe |= orders.keyframe;
    }

    fn set_ring(&mut self, ring: Option<RingEnd>) {
        self.source.ring = ring;
        if self.config.is_none_or(|config| config.path == Path::ResourceId) {
            // Without its ring a picture is no longer the session's to show.
            self.last = None;
        }
    }

    fn configure(&mut self, config: Config) {
        self.config = Some(config);
        self.last = None;
        // The first picture is an IDR whoever asks.
        self.keyframe = true;
        self.source.configure(&config);
        self.pace = Pace::new(config.max_fps.into(), self.keepalive_fps);
        let name = match self.engine.configure(&config) {
            Ok(name) => {
                self.outbox.push(&ServerMessage::Configured { encoder: name.clone() });
                Some(name)
            }
            Err(error) => {
                self.outbox.push_error(ErrorCode::Encoder, error.to_string());
                None
            }
        };
        *self.report.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = name;
    }

    /// Does what is due, and says how long there is nothing to do.
    fn step(&mut self) -> Option<Duration> {
        if let Some(failure) = self.engine.check() {
            self.outbox.push_error(ErrorCode::Encoder, failure);
        }
        // Pushed pixels build on each other: they are applied even while nothing is encoded.
        while let Some(pushed) = self.inbox.next_pixels() {
            self.meter.add(Count::Captured, 1);
            let last = &mut self.last;
            // What is shown shares its memory with the canvas: let go of it, or painting copies it all.
            if let Some(overtaken) = self.source.push(pushed, || *last = None) {
                self.drop_picture(overtaken);
            }
        }
        if !self.engine.is_ready() || !self.outbox.has_room() {
            return self.engine.patience();
        }
        let now = Instant::now();
        let demanded_in = self.keyframe.then(|| self.pace.until_demanded(now));
        let idr = self.outbox.needs_idr() || demanded_in == Some(Duration::ZERO);
        let new_in = self.pace.until_next(now);
        if new_in.is_zero()
            && let Some(fresh) = self.newest()
        {
            self.pace.took(now);
            self.encode(fresh, idr, false);
            return Some(Duration::ZERO);
        }
        let again_in =
            if idr { Some(Duration::ZERO) } else { shorter(demanded_in, self.pace.until_repeat(now)) };
        let again_in = again_in.filter(|_| self.last.is_some());
        if again_in == Some(Duration::ZERO)
            && let Some(again) = self.last.clone()
        {
            self.pace.repeated(now);
            self.encode(again, idr, true);
            return Some(Duration::ZERO);
        }
        // With nothing held back by the pace, only the bell or the inbox can bring a new picture.
        shorter(again_in, (!new_in.is_zero()).then_some(new_in))
    }

    /// The newest picture that fits the configuration; what it overtook is told.
    fn newest(&mut self) -> Option<Fresh> {
        let config = self.config?;
        while let Some(newest) = self.source.newest(config.path) {
            if config.path == Path::ResourceId {
                self.meter.add(Count::Captured, 1 + newest.dropped.len() as u64);
            }
            for seq in newest.dropped {
                self.drop_picture(seq);
            }
            if let Some(us) = newest.read_us {
                self.meter.record(Time::Read, us);
            }
            let size = (newest.fresh.picture.width, newest.fresh.picture.height);
            if size == (config.width.into(), config.height.into()) {
                return Some(newest.fresh);
            }
            tracing::debug!(?size, "a picture of another size than configured");
            self.drop_picture(newest.fresh.seq);
        }
        None
    }

    fn drop_picture(&self, seq: u64) {
        self.meter.add(Count::Dropped, 1);
        self.outbox.push_dropped(seq);
    }

    fn encode(&mut self, fresh: Fresh, idr: bool, repeat: bool) {
        match self.engine.encode(&fresh, idr, repeat) {
            Ok(()) => {
                if idr {
                    self.keyframe = false;
                }
                self.pace.encoded(Instant::now(), idr);
                self.last = Some(fresh);
            }
            Err(refusal) => {
                self.drop_picture(fresh.seq);
                if let Some(failure) = refusal {
                    self.outbox.push_error(ErrorCode::Encoder, failure);
                }
            }
        }
    }
}

/// The shorter of two waits, where `None` is for ever.
fn shorter(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
    }
}
