//! A simulator of VideoToolbox for tests on any system: an encoder on a separate thread, whose access units
//! are converted to VideoToolbox's format, with faults on request.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use encode::annexb::{self, nal_type};
use encode::{Choice, Codec, EncodeError, Encoder, Output, Picture, PixelFormat, Settings, Sink};
use parking_lot::{Condvar, Mutex};

use crate::api::{Api, Deliver, Delivery, Frame, Property, Sample, Session, Shape, Status};

/// A fault of one picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Delivery is delayed.
    Late(Duration),
    /// The session's thread stops before delivery until [`Simulator::release`], or until the session is
    /// invalidated.
    Held,
    /// Delivered after the next picture.
    Reordered,
    /// Skipped by the encoder.
    Dropped,
    /// Encoding fails.
    Failed(Status),
    /// Submission fails and invalidates the session; pictures in flight fail, too.
    Invalidated,
    /// The format description is empty.
    NoParameterSets,
    /// Delivered twice.
    DeliveredTwice,
    /// Delivered again by [`Simulator::redeliver`], after the end of the session.
    DeliveredLater,
    /// The access unit is truncated.
    Truncated,
    /// Encoded as a delta although an IDR was requested.
    IdrIgnored,
}

/// Opens the encoder that does the work.
pub type Open = fn(Settings, Sink) -> Result<Box<dyn Encoder>, EncodeError>;

/// The simulator: makes sessions, and has the faults of their pictures by number.
#[derive(Debug)]
pub struct Simulator {
    open: Open,
    script: Mutex<HashMap<u64, Fault>>,
    refuse: Mutex<Option<Status>>,
    shared: Arc<Shared>,
}

/// State shared with the sessions' threads.
#[derive(Default)]
struct Shared {
    /// Deliveries to repeat.
    repeated: Mutex<Vec<(Deliver, u64, Delivery)>>,
    sessions: AtomicUsize,
    created: AtomicUsize,
    hold: Mutex<Hold>,
    hold_changed: Condvar,
}

/// State of [`Fault::Held`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Hold {
    #[default]
    None,
    /// A session's thread waits.
    Waiting,
    Released,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("sessions", &self.sessions).finish_non_exhaustive()
    }
}

impl Simulator {
    /// A simulator with x264 and these faults by picture number; the first picture has number 1.
    pub fn new(script: impl IntoIterator<Item = (u64, Fault)>) -> Arc<Self> {
        Self::with(|settings, sink| encode::open(&Choice::Element("x264enc"), settings, sink), script)
    }

    /// A simulator with another encoder. With [`Choice::Null`] no third-party code runs, but nothing decodes.
    pub fn with(open: Open, script: impl IntoIterator<Item = (u64, Fault)>) -> Arc<Self> {
        let script = Mutex::new(script.into_iter().collect());
        Arc::new(Self { open, script, refuse: Mutex::default(), shared: Arc::default() })
    }

    /// Lets the creation of sessions fail with `status`, or succeed again.
    pub fn refuse_sessions(&self, status: Option<Status>) {
        *self.refuse.lock() = status;
    }

    /// Number of existing sessions.
    pub fn sessions(&self) -> usize {
        self.shared.sessions.load(Ordering::Acquire)
    }

    /// Number of sessions created so far.
    pub fn sessions_created(&self) -> usize {
        self.shared.created.load(Ordering::Acquire)
    }

    /// Waits until a session's thread is stopped by [`Fault::Held`].
    pub fn await_held(&self) {
        let mut hold = self.shared.hold.lock();
        self.shared.hold_changed.wait_while(&mut hold, |hold| *hold != Hold::Waiting);
    }

    /// Lets a thread that [`Fault::Held`] stopped go on, now or when it gets there.
    pub fn release(&self) {
        *self.shared.hold.lock() = Hold::Released;
        self.shared.hold_changed.notify_all();
    }

    /// Repeats the deliveries of [`Fault::DeliveredLater`]; returns their number.
    pub fn redeliver(&self) -> usize {
        let repeated = std::mem::take(&mut *self.shared.repeated.lock());
        let count = repeated.len();
        for (deliver, number, delivery) in repeated {
            deliver(number, delivery);
        }
        count
    }
}

enum Job {
    Encode(Frame, Option<Fault>),
    Rate(u32, u32),
    Complete(mpsc::Sender<()>),
}

#[derive(Debug)]
struct Simulated {
    simulator: Arc<Simulator>,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// Status of all further pictures, if the session is invalid.
    invalid: Arc<Mutex<Option<Status>>>,
    bits: i64,
    fps: i32,
}

/// The simulator as an [`Api`]; sessions keep it alive.
#[derive(Debug, Clone)]
pub struct SimulatorApi(pub Arc<Simulator>);

impl Api for SimulatorApi {
    fn create(&self, shape: Shape, deliver: Deliver) -> Result<Box<dyn Session>, Status> {
        if let Some(status) = *self.0.refuse.lock() {
            return Err(status);
        }
        let (jobs, todo) = mpsc::channel();
        let shared = Arc::clone(&self.0.shared);
        let open = self.0.open;
        let invalid: Arc<Mutex<Option<Status>>> = Arc::default();
        let invalidated = Arc::clone(&invalid);
        shared.sessions.fetch_add(1, Ordering::AcqRel);
        shared.created.fetch_add(1, Ordering::AcqRel);
        let thread = std::thread::Builder::new()
            .name("simulated-vt".to_owned())
            .spawn(move || run_session(shape, open, &todo, &deliver, &shared, &invalidated))
            .map_err(|_| Status::MALFUNCTION)?;
        Ok(Box::new(Simulated {
            simulator: Arc::clone(&self.0),
            jobs: Some(jobs),
            thread: Some(thread),
            invalid,
            bits: 1_000_000,
            fps: 60,
        }))
    }
}

impl Simulated {
    fn send(&self, job: Job) -> Result<(), Status> {
        self.jobs.as_ref().and_then(|jobs| jobs.send(job).ok()).ok_or(Status::MALFUNCTION)
    }
}

impl Session for Simulated {
    fn set(&mut self, property: Property) -> Result<(), Status> {
        if let Some(status) = *self.invalid.lock() {
            return Err(status);
        }
        match property {
            Property::AverageBitRate(bits) => self.bits = bits,
            Property::ExpectedFrameRate(fps) => self.fps = fps,
            // Some Macs lack it.
            Property::MaxFrameDelayCount(_) => return Err(Status::PROPERTY_NOT_SUPPORTED),
            _ => return Ok(()),
        }
        self.send(Job::Rate((self.bits / 1000) as u32, self.fps as u32))
    }

    fn encode(&mut self, frame: &Frame) -> Result<(), Status> {
        if let Some(status) = *self.invalid.lock() {
            return Err(status);
        }
        let fault = self.simulator.script.lock().remove(&frame.number);
        if fault == Some(Fault::Invalidated) {
            *self.invalid.lock() = Some(Status::INVALID_SESSION);
            self.simulator.release();
            return Err(Status::INVALID_SESSION);
        }
        self.send(Job::Encode(frame.clone(), fault))
    }

    fn complete(&mut self) -> Result<(), Status> {
        let (done, completed) = mpsc::channel();
        self.send(Job::Complete(done))?;
        completed.recv().map_err(|_| Status::INVALID_SESSION)
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has failed the test.
            let _joined = thread.join();
        }
        self.simulator.shared.sessions.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The session's thread: encodes, applies faults and delivers.
fn run_session(
    shape: Shape,
    open: Open,
    todo: &mpsc::Receiver<Job>,
    deliver: &Deliver,
    shared: &Shared,
    invalid: &Mutex<Option<Status>>,
) {
    let Shape { width, height, codec } = shape;
    let mut settings = Settings { width, height, codec, bitrate_kbps: 1000, max_fps: 60, keyframe_ms: 0 };
    let mut coder = None;
    let mut reordered: Option<(u64, Delivery)> = None;
    while let Ok(job) = todo.recv() {
        match job {
            Job::Rate(kbps, fps) => {
                (settings.bitrate_kbps, settings.max_fps) = (kbps.max(1), fps.clamp(1, 240));
                if let Some(Coder { encoder, .. }) = &mut coder {
                    encoder.set_rate(settings.bitrate_kbps, settings.max_fps).unwrap_or_else(|error| {
                        tracing::error!(%error, "simulated encoder refused the rate");
                    });
                }
            }
            Job::Complete(done) => {
                if let Some((number, delivery)) = reordered.take() {
                    deliver(number, delivery);
                }
                let _timed_out = done.send(());
            }
            Job::Encode(frame, fault) => {
                let number = frame.number;
                let status = *invalid.lock();
                let delivery = match (status, fault) {
                    (Some(status), _) | (None, Some(Fault::Failed(status))) => Delivery::Failed(status),
                    (None, Some(Fault::Dropped)) => Delivery::Dropped,
                    (None, fault) => {
                        coder.get_or_insert_with(|| Coder::new(open, settings)).encode(&frame, fault)
                    }
                };
                drop(frame);
                match fault {
                    Some(Fault::Late(time)) => std::thread::sleep(time),
                    Some(Fault::Held) => {
                        let mut hold = shared.hold.lock();
                        if *hold == Hold::None {
                            *hold = Hold::Waiting;
                            shared.hold_changed.notify_all();
                        }
                        shared.hold_changed.wait_while(&mut hold, |hold| *hold != Hold::Released);
                    }
                    Some(Fault::DeliveredTwice) => deliver(number, delivery.clone()),
                    Some(Fault::DeliveredLater) => {
                        shared.repeated.lock().push((Arc::clone(deliver), number, delivery.clone()));
                    }
                    Some(Fault::Reordered) => {
                        reordered = Some((number, delivery));
                        continue;
                    }
                    _ => {}
                }
                deliver(number, delivery);
                if let Some((number, delivery)) = reordered.take() {
                    deliver(number, delivery);
                }
            }
        }
    }
}

/// The encoder of a session, and its last parameter sets.
struct Coder {
    codec: Codec,
    encoder: Box<dyn Encoder>,
    output: Arc<Mutex<Option<Output>>>,
    sets: Vec<Bytes>,
}

impl Coder {
    #[expect(clippy::panic, reason = "a part of tests, which need the encoder")]
    fn new(open: Open, settings: Settings) -> Self {
        let output: Arc<Mutex<Option<Output>>> = Arc::default();
        let taken = Arc::clone(&output);
        let sink = move |outcome: Result<Output, _>| *taken.lock() = outcome.ok();
        match open(settings, Box::new(sink)) {
            Ok(encoder) => Self { codec: settings.codec, encoder, output, sets: Vec::new() },
            Err(error) => panic!("the simulator needs an encoder: {error}"),
        }
    }

    fn encode(&mut self, frame: &Frame, fault: Option<Fault>) -> Delivery {
        let picture = Picture {
            format: PixelFormat::Nv12,
            width: frame.width,
            height: frame.height,
            stride: frame.stride,
            data: frame.data.clone(),
        };
        let idr = frame.idr && fault != Some(Fault::IdrIgnored);
        if self.encoder.submit(&picture, frame.number, frame.pts_us, idr).is_err() {
            return Delivery::Failed(Status::MALFUNCTION);
        }
        let Some(output) = self.output.lock().take() else { return Delivery::Failed(Status::MALFUNCTION) };
        Delivery::Sample(self.sample(&output, fault))
    }

    /// Converts an access unit to VideoToolbox's format.
    fn sample(&mut self, output: &Output, fault: Option<Fault>) -> Sample {
        let mut data = BytesMut::new();
        let mut sets = Vec::new();
        for unit in annexb::nal_units(&output.data) {
            let is_set = match self.codec {
                Codec::H264 => matches!(annexb::kind(unit), Some(nal_type::SPS | nal_type::PPS)),
                // VPS, SPS, PPS (Rec. ITU-T H.265, table 7-1).
                Codec::Hevc => unit.first().is_some_and(|byte| (32..=34).contains(&(byte >> 1))),
            };
            if is_set {
                sets.push(Bytes::copy_from_slice(unit));
            } else {
                data.put_u32(unit.len() as u32);
                data.put_slice(unit);
            }
        }
        if !sets.is_empty() {
            self.sets = sets;
        }
        if fault == Some(Fault::Truncated) {
            data.truncate(data.len() - 3);
        }
        let none = fault == Some(Fault::NoParameterSets);
        Sample {
            keyframe: output.idr,
            length_bytes: 4,
            parameter_sets: if none { Vec::new() } else { self.sets.clone() },
            data: data.freeze(),
        }
    }
}
