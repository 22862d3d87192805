//! What every encoder must do. One suite for all of them: [`contract!`] makes tests of it for a [`Subject`].
//!
//! Panics where a promise is broken: that is how tests say no.

#![expect(clippy::missing_panics_doc, reason = "every function here is a test")]

pub mod decode;
pub mod hevc;
pub mod pictures;
pub mod stream;
mod suite;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use encode::encoder::PATIENCE;
use encode::{Codec, EncodeError, Encoder, Output, Picture, Settings, Sink};

pub use suite::*;

/// What is asked of an encoder unless a test needs something else.
pub const SETTINGS: Settings =
    Settings { width: 320, height: 240, codec: Codec::H264, bitrate_kbps: 2000, max_fps: 60, keyframe_ms: 0 };
/// Their size.
pub const SIZE: (u32, u32) = (320, 240);

/// An encoder to be tested.
#[derive(Debug, Clone, Copy)]
pub struct Subject {
    /// Its name.
    pub name: &'static str,
    /// Makes one.
    pub open: fn(Settings, Sink) -> Result<Box<dyn Encoder>, EncodeError>,
    /// IDRs that a change of rate may cost.
    pub idrs_of_a_rate: usize,
    /// It makes video: what it gives decodes, and its size follows the bit rate.
    pub video: bool,
    /// It says in the stream that a decoder need not wait, and which matrix it is.
    pub tags: bool,
    /// It makes HEVC, too.
    pub hevc: bool,
    /// What is asked of it.
    pub codec: Codec,
}

impl Subject {
    /// One that keeps all of it.
    pub const fn new(
        name: &'static str,
        open: fn(Settings, Sink) -> Result<Box<dyn Encoder>, EncodeError>,
    ) -> Self {
        Self { name, open, idrs_of_a_rate: 1, video: true, tags: true, hevc: false, codec: Codec::H264 }
    }

    /// [`SETTINGS`] of its codec.
    pub const fn settings(&self) -> Settings {
        Settings { codec: self.codec, ..SETTINGS }
    }
}

/// An encoder and what it gave.
#[derive(Debug)]
pub struct Bench {
    /// The encoder.
    pub encoder: Box<dyn Encoder>,
    outputs: Arc<Mutex<Vec<Output>>>,
    next: u64,
}

impl Bench {
    /// With these settings.
    pub fn new(subject: &Subject, settings: Settings) -> Result<Self, EncodeError> {
        let outputs: Arc<Mutex<Vec<Output>>> = Arc::default();
        let collected = Arc::clone(&outputs);
        let sink: Sink = Box::new(move |output| {
            let output = output.expect("no picture fails here");
            collected.lock().unwrap_or_else(PoisonError::into_inner).push(output);
        });
        Ok(Self { encoder: (subject.open)(settings, sink)?, outputs, next: 0 })
    }

    /// Encodes the next picture, 1/60 s after the one before.
    pub fn push(&mut self, picture: &Picture, idr: bool) -> Result<(), EncodeError> {
        self.submit(picture, 100 + self.next, self.next * 16_667, idr)
    }

    /// Encodes a picture with a number and a time of its own.
    pub fn submit(&mut self, picture: &Picture, ticket: u64, pts: u64, idr: bool) -> Result<(), EncodeError> {
        self.encoder.submit(picture, ticket, pts, idr)?;
        self.next += 1;
        Ok(())
    }

    /// What came of all that were pushed; waits for what is still under way.
    pub fn outputs(&self) -> Vec<Output> {
        let until = Instant::now() + PATIENCE;
        loop {
            let outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if outputs.len() as u64 >= self.next {
                return outputs;
            }
            assert!(Instant::now() < until, "{} of {} access units came", outputs.len(), self.next);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends the encoder; what it gave.
    pub fn end(self) -> Vec<Output> {
        drop(self.encoder);
        assert_eq!(Arc::strong_count(&self.outputs), 1, "the sink is gone with the encoder");
        self.outputs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Tests of a subject, in a module of their own. A subject that this machine lacks is named and skipped.
#[macro_export]
macro_rules! contract {
    ($module:ident, $subject:expr, $($test:ident),+ $(,)?) => {
        mod $module {
            $(
                #[test]
                fn $test() {
                    let subject: $crate::Subject = $subject;
                    if let Err(missing @ encode::EncodeError::Unavailable(_)) =
                        $crate::Bench::new(&subject, subject.settings())
                    {
                        eprintln!("skipped: {missing}");
                        return;
                    }
                    $crate::$test(&subject);
                }
            )+
        }
    };
}
