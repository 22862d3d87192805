//! Selection of an encoder: by name, or the best one that works on this machine.
//!
//! An installed element need not work (a driver without its hardware has a plugin, too). An element counts
//! as working if it encodes [`TRIAL_PICTURES`] small pictures; the result is remembered per process.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::annexb;
use crate::encoder::{Codec, EncodeError, Encoder, Output, Picture, PixelFormat, Settings, Sink};
use crate::gst::Gst;
use crate::gst::elements::{self, ELEMENTS, Element};
use crate::null::{self, Null};

/// Selection of an encoder.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Choice {
    /// The first one that works, hardware before software.
    #[default]
    Auto,
    /// [`Null`], for benchmarks; makes no video.
    Null,
    /// A GStreamer element by name.
    Element(&'static str),
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Null => null::NAME,
            Self::Element(name) => name,
        })
    }
}

impl FromStr for Choice {
    type Err = EncodeError;

    fn from_str(name: &str) -> Result<Self, EncodeError> {
        match name {
            "auto" => Ok(Self::Auto),
            null::NAME => Ok(Self::Null),
            _ => elements::find(name).map(|element| Self::Element(element.name)).ok_or_else(|| {
                let known: Vec<_> = ELEMENTS.iter().map(|element| element.name).collect();
                EncodeError::Unavailable(format!(
                    "`{name}` is not one of auto, {}, {}",
                    null::NAME,
                    known.join(", ")
                ))
            }),
        }
    }
}

/// Opens an encoder.
///
/// # Errors
/// If the encoder is not installed, fails, or does not support the settings; for [`Choice::Auto`] the error
/// of an installed one is preferred.
pub fn open(choice: &Choice, settings: Settings, sink: Sink) -> Result<Box<dyn Encoder>, EncodeError> {
    match choice {
        Choice::Null => Ok(Box::new(Null::new(settings, sink)?)),
        Choice::Element(name) => {
            let element = elements::find(name).ok_or_else(|| {
                EncodeError::Unavailable(format!("`{name}` is not supported on this system"))
            })?;
            Ok(Box::new(Gst::new(element, settings, sink)?))
        }
        Choice::Auto => auto(settings, sink),
    }
}

fn auto(settings: Settings, sink: Sink) -> Result<Box<dyn Encoder>, EncodeError> {
    let sink = Arc::new(sink);
    let mut last = EncodeError::Unavailable("install gstreamer1.0-plugins-ugly for x264enc".to_owned());
    for element in &ELEMENTS {
        let shared = Arc::clone(&sink);
        let made = remembered_trial(element)
            .and_then(|()| Gst::new(element, settings, Box::new(move |output| shared(output))));
        match made {
            Ok(encoder) => return Ok(Box::new(encoder)),
            // The error of an installed encoder is more useful than that of a missing one.
            Err(error @ EncodeError::Unavailable(_)) => {
                tracing::debug!(element = element.name, %error, "encoder skipped");
            }
            Err(error) => {
                tracing::debug!(element = element.name, %error, "encoder skipped");
                last = error;
            }
        }
    }
    Err(last)
}

/// Result of trying an encoder.
#[derive(Debug, Clone)]
pub struct Found {
    /// Encoder name.
    pub name: &'static str,
    /// True for a hardware encoder.
    pub hardware: bool,
    /// Time for [`TRIAL_PICTURES`] pictures including start-up, or the error.
    pub trial: Result<Duration, EncodeError>,
}

/// Tries every supported encoder with a few pictures.
pub fn available() -> Vec<Found> {
    ELEMENTS
        .iter()
        .map(|element| Found { name: element.name, hardware: element.hardware, trial: trial(element) })
        .collect()
}

/// Number of pictures that an encoder must encode to count as working.
pub const TRIAL_PICTURES: u64 = 3;

fn remembered_trial(element: &'static Element) -> Result<(), EncodeError> {
    static TRIED: Mutex<Option<HashMap<&str, Result<(), EncodeError>>>> = Mutex::new(None);
    let mut tried = TRIED.lock();
    tried.get_or_insert_default().entry(element.name).or_insert_with(|| trial(element).map(drop)).clone()
}

fn trial(element: &'static Element) -> Result<Duration, EncodeError> {
    try_out(element.name, |settings, sink| Ok(Box::new(Gst::new(element, settings, sink)?)))
}

/// Encodes [`TRIAL_PICTURES`] pictures; returns the time including start-up.
///
/// # Errors
/// If the encoder does not open, fails, or its output does not start with an IDR.
pub fn try_out(
    name: &str,
    open: impl FnOnce(Settings, Sink) -> Result<Box<dyn Encoder>, EncodeError>,
) -> Result<Duration, EncodeError> {
    let start = Instant::now();
    let settings = Settings {
        width: 320,
        height: 240,
        codec: Codec::H264,
        bitrate_kbps: 500,
        max_fps: 30,
        keyframe_ms: 0,
    };
    let outputs: Arc<Mutex<Vec<Output>>> = Arc::default();
    let collected = Arc::clone(&outputs);
    let sink: Sink = Box::new(move |output| {
        if let Ok(output) = output {
            collected.lock().push(output);
        }
    });
    let mut encoder = open(settings, sink)?;
    let picture = Picture {
        format: PixelFormat::Bgrx,
        width: settings.width,
        height: settings.height,
        stride: 4 * settings.width,
        data: Bytes::from(vec![0x80; PixelFormat::Bgrx.bytes(settings.width, settings.height)]),
    };
    for number in 0..TRIAL_PICTURES {
        encoder.submit(&picture, number, number * 33_333, false)?;
    }
    drop(encoder);
    let outputs = outputs.lock();
    match outputs.first() {
        Some(first) if outputs.len() as u64 == TRIAL_PICTURES && annexb::is_entry_point(&first.data) => {
            Ok(start.elapsed())
        }
        _ => Err(EncodeError::Broken(format!("{name} produced no usable video in a trial"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choice_round_trips_as_text() {
        let named = ELEMENTS.iter().map(|element| Choice::Element(element.name));
        for choice in named.chain([Choice::Auto, Choice::Null]) {
            assert_eq!(choice.to_string().parse::<Choice>(), Ok(choice));
        }
        let error = "x265enc".parse::<Choice>().expect_err("not supported");
        assert!(error.to_string().contains("x264enc"), "{error} lists the encoders");
    }
}
