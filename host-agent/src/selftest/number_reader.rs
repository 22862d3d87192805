//! Decodes access units and reads the frames' numbers. The decoder is written in Rust, so the result does
//! not depend on what is installed. It decodes only what host-agent itself encoded.

use anyhow::{Context as _, Result, ensure};
use encode::PixelFormat;
use rusty_h264_decoder::Decoder;

/// An H.264 decoder with its reference frames.
#[derive(Default)]
pub struct NumberReader {
    decoder: Decoder,
}

impl NumberReader {
    /// Decodes an access unit and reads the number of its frame.
    ///
    /// # Errors
    /// The access unit does not decode to a whole frame with a number.
    pub fn read(&mut self, access_unit: &[u8]) -> Result<u32> {
        // The decoder's error does not implement std::error::Error.
        let frame =
            self.decoder.decode(access_unit).map_err(|error| anyhow::anyhow!("does not decode: {error}"))?;
        let frame = frame.context("the access unit has no whole frame")?;
        let (width, height) = (frame.width as u32, frame.height as u32);
        ensure!(frame.y.len() >= frame.width * frame.height, "the decoded frame has too few bytes");
        Ok(numbered::read_number(&frame.y, width, height, width, PixelFormat::Nv12)?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use encode::{Codec, Picture, Settings};

    use super::*;
    use crate::encoders::{self, Choice};

    /// Access units of frames 7, 8 and 9.
    fn access_units() -> Vec<Vec<u8>> {
        let (width, height) = (320, 240);
        let settings =
            Settings { width, height, codec: Codec::H264, bitrate_kbps: 2000, max_fps: 60, keyframe_ms: 0 };
        let (sender, outputs) = mpsc::channel();
        let sink = move |outcome: Result<encode::Output, _>| {
            sender.send(outcome.expect("encoded").data.to_vec()).expect("received");
        };
        let mut encoder = encoders::open(&Choice::Auto, settings, Box::new(sink)).expect("an encoder");
        for number in 7..10 {
            let format = PixelFormat::Nv12;
            let mut data = vec![0; format.bytes(width, height)];
            numbered::draw(number, &mut data, width, height, width, format).expect("drawn");
            let frame = Picture { format, width, height, stride: width, data: data.into() };
            encoder.submit(&frame, u64::from(number), u64::from(number) * 16_667, false).expect("submitted");
        }
        drop(encoder);
        outputs.iter().collect()
    }

    #[test]
    fn numbers_of_encoded_frames_are_read_back() {
        let mut reader = NumberReader::default();
        let numbers: Vec<_> = access_units().iter().map(|unit| reader.read(unit).expect("decoded")).collect();
        assert_eq!(numbers, [7, 8, 9]);
    }

    #[test]
    fn undecodable_data_is_an_error() {
        let units = access_units();
        let mut reader = NumberReader::default();
        assert!(reader.read(&units[1]).is_err(), "its reference frame is missing");
        assert!(reader.read(b"garbage").is_err());
        let truncated = &units[0][..units[0].len() / 2];
        assert!(reader.read(truncated).is_err());
    }
}
