//! The encoders of host-agent: VideoToolbox on macOS, and those of the crate [`encode`].

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use encode::open::try_out;
use encode::{EncodeError, Encoder, Found, Settings, Sink};

/// An encoder, by name or automatic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Choice {
    /// VideoToolbox if it is available, else the best working encoder of [`encode`].
    #[default]
    Auto,
    /// VideoToolbox of macOS.
    VideoToolbox,
    /// An encoder of [`encode`].
    Other(encode::Choice),
}

impl Choice {
    /// Whether the encoder produces decodable video.
    pub fn makes_video(&self) -> bool {
        *self != Self::Other(encode::Choice::Null)
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => encode::Choice::Auto.fmt(f),
            Self::VideoToolbox => f.write_str(videotoolbox::NAME),
            Self::Other(other) => other.fmt(f),
        }
    }
}

impl FromStr for Choice {
    type Err = EncodeError;

    fn from_str(name: &str) -> Result<Self, EncodeError> {
        if name == videotoolbox::NAME {
            return Ok(Self::VideoToolbox);
        }
        Ok(match name.parse()? {
            encode::Choice::Auto => Self::Auto,
            other => Self::Other(other),
        })
    }
}

/// Opens an encoder.
///
/// # Errors
/// The encoder is not available, or does not support the settings.
pub fn open(choice: &Choice, settings: Settings, sink: Sink) -> Result<Box<dyn Encoder>, EncodeError> {
    match choice {
        Choice::VideoToolbox => Ok(Box::new(videotoolbox::open(settings, sink)?)),
        Choice::Other(other) => encode::open(other, settings, sink),
        Choice::Auto => {
            let shared = Arc::new(sink);
            let sink = Arc::clone(&shared);
            match videotoolbox::open(settings, Box::new(move |output| sink(output))) {
                Err(EncodeError::Unavailable(_)) => {
                    encode::open(&encode::Choice::Auto, settings, Box::new(move |output| shared(output)))
                }
                opened => Ok(Box::new(opened?)),
            }
        }
    }
}

/// Tests every known encoder with a few frames.
pub fn available() -> Vec<Found> {
    let mut found = encode::available();
    let trial =
        try_out(videotoolbox::NAME, |settings, sink| Ok(Box::new(videotoolbox::open(settings, sink)?)));
    // Not listed on systems that cannot have it.
    if !matches!(trial, Err(EncodeError::Unavailable(_))) {
        found.insert(0, Found { name: videotoolbox::NAME, hardware: true, trial });
    }
    found
}

#[cfg(test)]
mod tests {
    use encode::Codec;

    use super::*;

    const SETTINGS: Settings = Settings {
        width: 320,
        height: 240,
        codec: Codec::H264,
        bitrate_kbps: 500,
        max_fps: 30,
        keyframe_ms: 0,
    };

    #[test]
    fn printed_choice_parses_to_itself() {
        for name in ["auto", "null", "x264enc", "videotoolbox"] {
            let choice: Choice = name.parse().expect(name);
            assert_eq!(choice.to_string(), name);
        }
        assert!("x265".parse::<Choice>().is_err());
    }

    #[test]
    fn only_the_null_encoder_makes_no_video() {
        for (name, makes_video) in [("auto", true), ("x264enc", true), ("null", false)] {
            assert_eq!(name.parse::<Choice>().expect(name).makes_video(), makes_video, "{name}");
        }
    }

    #[test]
    fn auto_opens_an_encoder_that_makes_video() {
        let encoder = open(&Choice::Auto, SETTINGS, Box::new(|_| {})).expect("an encoder works");
        assert_ne!(encoder.name(), "null");
    }

    #[test]
    fn video_toolbox_is_available_on_macos_only() {
        let opened = open(&Choice::VideoToolbox, SETTINGS, Box::new(|_| {}));
        let listed = available().iter().any(|found| found.name == videotoolbox::NAME);
        match opened {
            Ok(_) => assert!(std::env::consts::OS == "macos" && listed),
            Err(error) => {
                assert!(std::env::consts::OS != "macos" && !listed, "{error}");
                assert!(error.to_string().contains("x264enc"), "{error}");
            }
        }
    }
}
