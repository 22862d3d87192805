//! Sees what an encoder gave: decodes it in Rust alone, so that it is the same on every system and needs nothing
//! installed, and reads the pictures' numbers. It decodes what we encoded ourselves, nothing of a stranger's.

use anyhow::{Context as _, Result, ensure};
use encode::PixelFormat;
use rusty_h264_decoder::Decoder;

/// A decoder and its reference pictures.
#[derive(Default)]
pub struct Viewer {
    decoder: Decoder,
}

impl Viewer {
    /// The number of the picture that this access unit shows.
    pub fn number(&mut self, access_unit: &[u8]) -> Result<u32> {
        // Its errors know no std.
        let frame =
            self.decoder.decode(access_unit).map_err(|error| anyhow::anyhow!("does not decode: {error}"))?;
        let frame = frame.context("its access unit has no whole picture")?;
        let (width, height) = (frame.width as u32, frame.height as u32);
        ensure!(frame.y.len() >= frame.width * frame.height, "decoded, it has too few bytes");
        Ok(numbered::read_number(&frame.y, width, height, width, PixelFormat::Nv12)?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use encode::{Codec, Picture, Settings};

    use super::*;
    use crate::encoders::{self, Choice};

    /// Access units of pictures 7, 8 and 9.
    fn three() -> Vec<Vec<u8>> {
        let (width, height) = (320, 240);
        let settings =
            Settings { width, height, codec: Codec::H264, bitrate_kbps: 2000, max_fps: 60, keyframe_ms: 0 };
        let (sender, outputs) = mpsc::channel();
        let sink = move |outcome: Result<encode::Output, _>| {
            sender.send(outcome.expect("encodes").data.to_vec()).expect("waited for");
        };
        let mut encoder = encoders::open(&Choice::Auto, settings, Box::new(sink)).expect("an encoder");
        for number in 7..10 {
            let mut data = vec![0; PixelFormat::Nv12.bytes(width, height)];
            numbered::draw(number, &mut data, width, height, width, PixelFormat::Nv12).expect("fits");
            let picture =
                Picture { format: PixelFormat::Nv12, width, height, stride: width, data: data.into() };
            encoder.submit(&picture, u64::from(number), u64::from(number) * 16_667, false).expect("taken");
        }
        drop(encoder);
        outputs.iter().collect()
    }

    #[test]
    fn numbers_come_back() {
        let mut viewer = Viewer::default();
        let seen: Vec<_> = three().iter().map(|unit| viewer.number(unit).expect("decodes")).collect();
        assert_eq!(seen, [7, 8, 9]);
    }

    #[test]
    fn what_is_no_picture_is_said() {
        let three = three();
        let mut viewer = Viewer::default();
        assert!(viewer.number(&three[1]).is_err(), "there is nothing that it could refer to");
        assert!(viewer.number(b"garbage").is_err());
        let cut = &three[0][..three[0].len() / 2];
        assert!(viewer.number(cut).is_err(), "half a picture");
    }
}
