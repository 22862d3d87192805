//! Captures the sound of a desktop and encodes it as Opus.
//!
//! ```text
//!  monitor of the default sink ─▶ pipewire (samples) ─▶ frames (10 ms, capture time) ─▶ gate (silence) ─▶ opus ─▶ Sink
//! ```
//!
//! Runs only while sound is wanted: otherwise there is no connection to PipeWire. Silence is captured, but produces no packets.
//!
//! The PipeWire daemon is a program of the desktop, and untrusted: samples are copied within the bounds of their buffer,
//! and their rate is limited. A desktop without PipeWire, or without a sink, is a [`State`] and not an error of the
//! stream; the capture tries again.

mod error;
mod frames;
mod gate;
mod opus;
mod pipewire;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

pub use error::AudioError;

/// Samples per second and channel.
pub const SAMPLE_RATE: u32 = 48_000;
/// Number of channels.
pub const CHANNELS: usize = 2;
/// Bytes of one sample of each channel, 16 bits each.
const FRAME_BYTES: usize = CHANNELS * size_of::<i16>();
/// Sample frames per packet: 10 ms.
pub const FRAMES_PER_PACKET: usize = 480;

/// Delay of the first retry; also the minimum time between two connections to PipeWire.
const INITIAL_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Source of the sound.
#[derive(Debug, Clone)]
pub struct AudioOptions {
    /// Runtime directory of the desktop, with the socket of its PipeWire daemon.
    pub runtime_dir: PathBuf,
    /// Name of the socket in that directory.
    pub remote: String,
}

impl AudioOptions {
    /// The default socket, `pipewire-0`, of a runtime directory.
    pub fn new(runtime_dir: PathBuf) -> Self {
        Self { runtime_dir, remote: "pipewire-0".to_owned() }
    }
}

/// 10 ms of sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Number of the packet, counted since the start of the program.
    pub seq: u64,
    /// Time at which the first sample was played in the desktop, ns of `CLOCK_MONOTONIC`.
    pub capture_ns: u64,
    /// True if the packet does not continue the preceding one: after silence, or after lost sound.
    pub discontinuity: bool,
    /// Opus packet (RFC 6716), 48 kHz, stereo.
    pub data: Bytes,
}

/// State of the capture.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum State {
    /// Sound is not wanted, and not captured.
    #[default]
    Idle,
    /// Connecting to the desktop's PipeWire daemon.
    Connecting,
    /// Sound is captured.
    Running,
    /// Sound cannot be captured; the next attempt follows.
    Unavailable {
        /// Reason and remedy.
        reason: String,
    },
}

/// Receiver of packets and states. Called on the capture thread, so calls must not block.
pub trait Sink: Send + Sync + 'static {
    /// Receives the next packet.
    fn packet(&self, packet: Packet);
    /// Receives a change of state.
    fn state(&self, state: State);
}

#[derive(Debug, Default)]
struct Wish {
    wanted: bool,
    stop: bool,
}

/// Whether sound is wanted. Shared by [`Audio`] and its thread.
#[derive(Debug, Default)]
struct Control {
    wish: Mutex<Wish>,
    changed: Condvar,
}

impl Control {
    fn wanted(&self) -> bool {
        let wish = self.wish.lock();
        wish.wanted && !wish.stop
    }

    /// Waits until sound is wanted; false at the end of the capture.
    fn wait_until_wanted(&self) -> bool {
        let mut wish = self.wish.lock();
        self.changed.wait_while(&mut wish, |wish| !wish.wanted && !wish.stop);
        !wish.stop
    }

    /// Sleeps for `duration`, or until sound is no longer wanted.
    fn sleep(&self, duration: Duration) {
        let end = Instant::now() + duration;
        let mut wish = self.wish.lock();
        while wish.wanted && !wish.stop && !self.changed.wait_until(&mut wish, end).timed_out() {}
    }

    fn set(&self, change: impl FnOnce(&mut Wish)) {
        change(&mut self.wish.lock());
        self.changed.notify_all();
    }
}

/// The capture thread. Dropping it stops the capture.
#[derive(Debug)]
pub struct Audio(Arc<Control>);

impl Audio {
    /// Starts the thread, which is idle until sound is wanted.
    ///
    /// # Errors
    /// The error of starting a thread.
    pub fn start(options: AudioOptions, sink: impl Sink) -> std::io::Result<Self> {
        let control = Arc::new(Control::default());
        thread::Builder::new().name("audio".into()).spawn({
            let control = Arc::clone(&control);
            move || run(&options, &control, &sink)
        })?;
        Ok(Self(control))
    }

    /// Starts or ends the capture.
    pub fn set_wanted(&self, wanted: bool) {
        self.0.set(|wish| wish.wanted = wanted);
    }
}

impl Drop for Audio {
    fn drop(&mut self) {
        self.0.set(|wish| wish.stop = true);
    }
}

/// Captures while sound is wanted, with back-off after failures.
fn run(options: &AudioOptions, control: &Control, sink: &impl Sink) {
    let mut seq = 0;
    let mut backoff = INITIAL_BACKOFF;
    while control.wait_until_wanted() {
        sink.state(State::Connecting);
        let started = Instant::now();
        let before = seq;
        let result = capture(options, control, sink, &mut seq);
        if seq > before {
            backoff = INITIAL_BACKOFF;
        }
        match result {
            Ok(()) => {
                sink.state(State::Idle);
                backoff = INITIAL_BACKOFF;
                // A viewer that asks for sound and ends it in turns makes no more connections than this.
                thread::sleep(INITIAL_BACKOFF.saturating_sub(started.elapsed()));
            }
            Err(error) => {
                tracing::debug!(%error, ?backoff, "sound capture failed");
                sink.state(State::Unavailable { reason: error.to_string() });
                control.sleep(backoff);
                backoff = (backoff * 2).min(MAX_BACKOFF);
                if !control.wanted() {
                    sink.state(State::Idle);
                }
            }
        }
    }
}

/// Captures until sound is no longer wanted (`Ok`) or the capture fails.
fn capture(
    options: &AudioOptions,
    control: &Control,
    sink: &impl Sink,
    seq: &mut u64,
) -> Result<(), AudioError> {
    let mut encoder = opus::Encoder::new()?;
    let mut gate = gate::Gate::default();
    let mut running = false;
    pipewire::run(
        options,
        || control.wanted(),
        |frame| {
            if !running {
                running = true;
                sink.state(State::Running);
            }
            let Some(discontinuity) = gate.admit(&frame) else { return Ok(()) };
            let data = encoder.encode(&frame.samples)?;
            sink.packet(Packet { seq: *seq, capture_ns: frame.capture_ns, discontinuity, data });
            *seq += 1;
            Ok(())
        },
    )
}
