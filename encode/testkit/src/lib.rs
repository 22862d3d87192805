//! Conformance tests for video encoders: one suite, run for every encoder with [`conformance_tests!`].
//!
//! An encoder that is not installed fails its tests: every machine that runs them has the software
//! encoders. Encoders that need hardware are listed with [`hardware_conformance_tests!`] and reported as
//! ignored.

#![expect(clippy::missing_panics_doc, reason = "every function is a test or a part of one")]

pub mod byte_stream;
mod conformance;
pub mod decode;
pub mod pictures;
pub mod x265;

use std::sync::Arc;
use std::time::{Duration, Instant};

use encode::{Codec, EncodeError, Encoder, Output, Picture, Settings, Sink};
use parking_lot::Mutex;

pub use conformance::*;

/// Settings of most tests.
pub const SETTINGS: Settings =
    Settings { width: 320, height: 240, codec: Codec::H264, bitrate_kbps: 2000, max_fps: 60, keyframe_ms: 0 };
/// Width and height of [`SETTINGS`].
pub const SIZE: (u32, u32) = (320, 240);
/// Longest wait for an access unit.
const TIMEOUT: Duration = Duration::from_mins(1);

/// Opens an encoder.
pub type Open = fn(Settings, Sink) -> Result<Box<dyn Encoder>, EncodeError>;

/// An encoder under test and its known deviations.
#[derive(Debug, Clone, Copy)]
pub struct Subject {
    /// Name for messages.
    pub name: &'static str,
    /// Opens the encoder.
    pub open: Open,
    /// Largest number of IDRs in a stream whose rate changes once; 1 is the first picture's.
    pub idrs_with_rate_change: usize,
    /// The output decodes, and its size follows the bit rate.
    pub makes_video: bool,
    /// The byte stream signals BT.709 and that pictures are not reordered.
    pub signals_colours_and_order: bool,
    /// The encoder supports HEVC, too.
    pub supports_hevc: bool,
    /// Codec to test.
    pub codec: Codec,
}

impl Subject {
    /// An H.264 encoder without deviations.
    pub const fn new(name: &'static str, open: Open) -> Self {
        Self {
            name,
            open,
            idrs_with_rate_change: 1,
            makes_video: true,
            signals_colours_and_order: true,
            supports_hevc: false,
            codec: Codec::H264,
        }
    }

    /// [`SETTINGS`] with the subject's codec.
    pub const fn settings(&self) -> Settings {
        Settings { codec: self.codec, ..SETTINGS }
    }
}

/// An open encoder, and the access units that it has produced.
#[derive(Debug)]
pub struct Harness {
    /// The encoder.
    pub encoder: Box<dyn Encoder>,
    outputs: Arc<Mutex<Vec<Output>>>,
    submitted: u64,
}

impl Harness {
    /// Opens the subject. Panics if it is not available, with the package to install.
    pub fn open(subject: &Subject, settings: Settings) -> Self {
        Self::try_open(subject, settings).expect(subject.name)
    }

    /// Opens the subject.
    ///
    /// # Errors
    /// As the subject's [`Open`].
    pub fn try_open(subject: &Subject, settings: Settings) -> Result<Self, EncodeError> {
        let outputs: Arc<Mutex<Vec<Output>>> = Arc::default();
        let collected = Arc::clone(&outputs);
        let sink: Sink = Box::new(move |output| {
            let output = output.expect("every picture is encoded");
            collected.lock().push(output);
        });
        Ok(Self { encoder: (subject.open)(settings, sink)?, outputs, submitted: 0 })
    }

    /// Submits the next picture, 1/60 s after the previous one. Tickets count from 100.
    ///
    /// # Errors
    /// As [`Encoder::submit`].
    pub fn push(&mut self, picture: &Picture, idr: bool) -> Result<(), EncodeError> {
        self.submit(picture, 100 + self.submitted, self.submitted * 16_667, idr)
    }

    /// Submits a picture with a ticket and a time stamp.
    ///
    /// # Errors
    /// As [`Encoder::submit`].
    pub fn submit(
        &mut self,
        picture: &Picture,
        ticket: u64,
        pts_us: u64,
        idr: bool,
    ) -> Result<(), EncodeError> {
        self.encoder.submit(picture, ticket, pts_us, idr)?;
        self.submitted += 1;
        Ok(())
    }

    /// Waits for the access units of all submitted pictures and returns them.
    pub fn outputs(&self) -> Vec<Output> {
        let end = Instant::now() + TIMEOUT;
        loop {
            let outputs = self.outputs.lock().clone();
            if outputs.len() as u64 >= self.submitted {
                return outputs;
            }
            assert!(
                Instant::now() < end,
                "{} of {} access units within {TIMEOUT:?}",
                outputs.len(),
                self.submitted
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Drops the encoder and returns all its access units.
    pub fn finish(self) -> Vec<Output> {
        drop(self.encoder);
        assert_eq!(Arc::strong_count(&self.outputs), 1, "the encoder dropped its sink");
        self.outputs.lock().clone()
    }
}

/// Makes a module with tests of a subject. A missing encoder fails them.
#[macro_export]
macro_rules! conformance_tests {
    ($module:ident, $subject:expr, $($test:ident),+ $(,)?) => {
        mod $module {
            $(
                #[test]
                fn $test() {
                    $crate::$test(&$subject);
                }
            )+
        }
    };
}

/// Makes a module with tests of a subject that needs hardware. They are ignored by default.
#[macro_export]
macro_rules! hardware_conformance_tests {
    ($module:ident, $subject:expr, $($test:ident),+ $(,)?) => {
        mod $module {
            $(
                #[test]
                #[ignore = "needs the encoder's hardware; run with --ignored"]
                fn $test() {
                    $crate::$test(&$subject);
                }
            )+
        }
    };
}
