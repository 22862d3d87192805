//! The encoders that host-agent has: VideoToolbox on a Mac, and all that [`encode`] knows.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use encode::open::try_out;
use encode::{EncodeError, Encoder, Found, Settings, Sink};

/// Which encoder to take.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Choice {
    /// The best that works: VideoToolbox where there is one.
    #[default]
    Auto,
    /// VideoToolbox.
    VideoToolbox,
    /// One that is not only host-agent's.
    Other(encode::Choice),
}

impl Choice {
    /// Whether it makes something that can be looked at.
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

/// Makes the chosen encoder.
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
                made => Ok(Box::new(made?)),
            }
        }
    }
}

/// Tries every encoder that we know with a few pictures.
pub fn available() -> Vec<Found> {
    let mut found = encode::available();
    let trial =
        try_out(videotoolbox::NAME, |settings, sink| Ok(Box::new(videotoolbox::open(settings, sink)?)));
    // Where there can be none, nobody wants to read about it.
    if !matches!(trial, Err(EncodeError::Unavailable(_))) {
        found.insert(0, Found { name: videotoolbox::NAME, hardware: true, trial });
    }
    found
}

#[cfg(test)]
mod tests {
    use encode::Codec;

    use super::*;

    #[test]
    fn choices_round_trip_as_text() {
        for name in ["auto", "null", "x264enc", "videotoolbox"] {
            let choice: Choice = name.parse().expect(name);
            assert_eq!(choice.to_string(), name);
        }
        assert!("x265".parse::<Choice>().is_err());
        assert!(!"null".parse::<Choice>().expect("known").makes_video());
    }

    #[test]
    fn without_a_mac_video_toolbox_says_what_to_take() {
        let settings = Settings {
            width: 320,
            height: 240,
            codec: Codec::H264,
            bitrate_kbps: 500,
            max_fps: 30,
            keyframe_ms: 0,
        };
        if !cfg!(target_os = "macos") {
            let refused = open(&Choice::VideoToolbox, settings, Box::new(|_| {})).expect_err("no Mac");
            assert!(refused.to_string().contains("x264enc"), "{refused}");
            assert!(available().iter().all(|found| found.name != videotoolbox::NAME));
            assert_eq!(
                open(&Choice::Auto, settings, Box::new(|_| {})).map(|encoder| encoder.name() != "null"),
                Ok(true)
            );
        }
    }
}
