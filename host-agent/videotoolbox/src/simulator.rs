//! VideoToolbox without a Mac: x264, or another encoder, in a thread of its own, its access units taken apart as VideoToolbox has them, and
//! misbehaviour on command.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use encode::annexb::{self, nal_type};
use encode::{Choice, Codec, EncodeError, Encoder, Output, Picture, PixelFormat, Settings, Sink};

use crate::api::{Api, Deliver, Delivery, Frame, Property, Sample, Session, Shape, Status};

/// What goes wrong with a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Its access unit takes that much longer.
    Late(Duration),
    /// It comes after the next one.
    Overtaken,
    /// It is left out.
    Dropped,
    /// It fails.
    Failed(Status),
    /// Submitting it fails, and the session is of no more use; what is under way fails, too.
    Invalidated,
    /// Its access unit comes with an empty format description.
    NoParameterSets,
    /// Its access unit comes twice.
    Twice,
    /// Its access unit comes a second time when its session is long gone.
    Haunting,
    /// Its access unit is cut off.
    Cut,
    /// It comes as a delta although an IDR was asked for.
    NoIdr,
}

/// Makes the encoder behind the curtain.
pub type Open = fn(Settings, Sink) -> Result<Box<dyn Encoder>, EncodeError>;

/// See the module.
#[derive(Debug)]
pub struct Simulator {
    coder: Open,
    script: Mutex<HashMap<u64, Fault>>,
    refuse: Mutex<Option<Status>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Delivered again after the end of their sessions.
    haunting: Mutex<Vec<(Deliver, u64, Delivery)>>,
    sessions: AtomicUsize,
    made: AtomicUsize,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("sessions", &self.sessions).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Simulator {
    /// One that does these things to the pictures of these numbers; the first is 1.
    pub fn new(script: impl IntoIterator<Item = (u64, Fault)>) -> Arc<Self> {
        Self::with(|settings, sink| encode::open(&Choice::Element("x264enc"), settings, sink), script)
    }

    /// The same with another encoder; with [`Choice::Null`] nothing but our own code runs, and nothing can be looked at.
    pub fn with(coder: Open, script: impl IntoIterator<Item = (u64, Fault)>) -> Arc<Self> {
        let script = Mutex::new(script.into_iter().collect());
        Arc::new(Self { coder, script, refuse: Mutex::default(), shared: Arc::default() })
    }

    /// From now on sessions can't be made, or can be again.
    pub fn refuse(&self, status: Option<Status>) {
        *lock(&self.refuse) = status;
    }

    /// Sessions that there are.
    pub fn sessions(&self) -> usize {
        self.shared.sessions.load(Ordering::Acquire)
    }

    /// Sessions that there ever were.
    pub fn made(&self) -> usize {
        self.shared.made.load(Ordering::Acquire)
    }

    /// Delivers what haunts.
    pub fn haunt(&self) -> usize {
        let haunting = std::mem::take(&mut *lock(&self.shared.haunting));
        let count = haunting.len();
        for (deliver, number, delivery) in haunting {
            deliver(number, delivery);
        }
        count
    }
}

enum Job {
    Encode(Frame, Option<Fault>),
    Rate(u32, u32),
    Complete(mpsc::Sender<()>),
    FailAll(Status),
}

#[derive(Debug)]
struct Simulated {
    simulator: Arc<Simulator>,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    valid: bool,
    bits: i64,
    fps: i32,
}

/// Makes [`Simulator`] an API: sessions keep it alive.
#[derive(Debug, Clone)]
pub struct Handle(pub Arc<Simulator>);

impl Api for Handle {
    fn create(&self, shape: Shape, deliver: Deliver) -> Result<Box<dyn Session>, Status> {
        if let Some(status) = *lock(&self.0.refuse) {
            return Err(status);
        }
        let (jobs, todo) = mpsc::channel();
        let shared = Arc::clone(&self.0.shared);
        let coder = self.0.coder;
        shared.sessions.fetch_add(1, Ordering::AcqRel);
        shared.made.fetch_add(1, Ordering::AcqRel);
        let thread = std::thread::Builder::new()
            .name("simulated-vt".to_owned())
            .spawn(move || work(shape, coder, &todo, &deliver, &shared))
            .map_err(|_| Status::MALFUNCTION)?;
        Ok(Box::new(Simulated {
            simulator: Arc::clone(&self.0),
            jobs: Some(jobs),
            thread: Some(thread),
            valid: true,
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
        if !self.valid {
            return Err(Status::INVALID_SESSION);
        }
        match property {
            Property::AverageBitRate(bits) => self.bits = bits,
            Property::ExpectedFrameRate(fps) => self.fps = fps,
            // Lacking on some Macs.
            Property::MaxFrameDelayCount(_) => return Err(Status::PROPERTY_NOT_SUPPORTED),
            _ => return Ok(()),
        }
        self.send(Job::Rate((self.bits / 1000) as u32, self.fps as u32))
    }

    fn encode(&mut self, frame: &Frame) -> Result<(), Status> {
        if !self.valid {
            return Err(Status::INVALID_SESSION);
        }
        let fault = lock(&self.simulator.script).remove(&frame.number);
        if fault == Some(Fault::Invalidated) {
            self.valid = false;
            self.send(Job::FailAll(Status::INVALID_SESSION))?;
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
            // A panic in there has failed the test already.
            let _joined = thread.join();
        }
        self.simulator.shared.sessions.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The session's thread: encodes, applies faults, delivers.
fn work(shape: Shape, open: Open, todo: &mpsc::Receiver<Job>, deliver: &Deliver, shared: &Shared) {
    let Shape { width, height, codec } = shape;
    let mut settings = Settings { width, height, codec, bitrate_kbps: 1000, max_fps: 60, keyframe_ms: 0 };
    let mut coder = None;
    let mut overtaken: Option<(u64, Delivery)> = None;
    let mut broken = None;
    while let Ok(job) = todo.recv() {
        match job {
            Job::Rate(kbps, fps) => {
                (settings.bitrate_kbps, settings.max_fps) = (kbps.max(1), fps.clamp(1, 240));
                if let Some(Coder { encoder, .. }) = &mut coder {
                    encoder.set_rate(settings.bitrate_kbps, settings.max_fps).unwrap_or_else(|error| {
                        tracing::error!(%error, "the simulator's rate");
                    });
                }
            }
            Job::Complete(done) => {
                if let Some((number, delivery)) = overtaken.take() {
                    deliver(number, delivery);
                }
                let _waits = done.send(());
            }
            Job::FailAll(status) => broken = Some(status),
            Job::Encode(frame, fault) => {
                let number = frame.number;
                let delivery = match (broken, fault) {
                    (Some(status), _) | (None, Some(Fault::Failed(status))) => Delivery::Failed(status),
                    (None, Some(Fault::Dropped)) => Delivery::Dropped,
                    (None, fault) => {
                        coder.get_or_insert_with(|| Coder::new(open, settings)).encode(&frame, fault)
                    }
                };
                drop(frame);
                match fault {
                    Some(Fault::Late(time)) => std::thread::sleep(time),
                    Some(Fault::Twice) => deliver(number, delivery.clone()),
                    Some(Fault::Haunting) => {
                        lock(&shared.haunting).push((Arc::clone(deliver), number, delivery.clone()));
                    }
                    Some(Fault::Overtaken) => {
                        overtaken = Some((number, delivery));
                        continue;
                    }
                    _ => {}
                }
                deliver(number, delivery);
                if let Some((number, delivery)) = overtaken.take() {
                    deliver(number, delivery);
                }
            }
        }
    }
}

struct Coder {
    codec: Codec,
    encoder: Box<dyn Encoder>,
    output: Arc<Mutex<Option<Output>>>,
    sets: Vec<Bytes>,
}

impl Coder {
    #[expect(clippy::panic, reason = "part of a test: without an encoder it can't run")]
    fn new(open: Open, settings: Settings) -> Self {
        let output: Arc<Mutex<Option<Output>>> = Arc::default();
        let taken = Arc::clone(&output);
        let sink = move |outcome: Result<Output, _>| *lock(&taken) = outcome.ok();
        match open(settings, Box::new(sink)) {
            Ok(encoder) => Self { codec: settings.codec, encoder, output, sets: Vec::new() },
            Err(error) => panic!("the simulator needs its encoder: {error}"),
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
        let idr = frame.idr && fault != Some(Fault::NoIdr);
        if self.encoder.submit(&picture, frame.number, frame.pts_us, idr).is_err() {
            return Delivery::Failed(Status::MALFUNCTION);
        }
        let Some(output) = lock(&self.output).take() else { return Delivery::Failed(Status::MALFUNCTION) };
        Delivery::Sample(self.sample(&output, fault))
    }

    /// Annex B taken apart as VideoToolbox has it.
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
        if fault == Some(Fault::Cut) {
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
