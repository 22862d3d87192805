//! The null encoder: returns an access unit of constant size immediately, for any picture.
//!
//! It is for benchmarks of the path around an encoder (capture, mailbox, ring, sockets) and for tests that
//! need no video. Its output has the start codes and NAL unit types that the path inspects, but does not
//! decode, so `auto` never selects it.

use bytes::Bytes;

use crate::encoder::{Codec, EncodeError, Encoder, Output, Picture, Settings, Sink};
use crate::picture;

/// Name of the encoder.
pub const NAME: &str = "null";

/// SPS (constrained baseline, level 3.0, 320 x 240), PPS, and a slice NAL unit of type 5 without a slice.
const IDR: &[u8] = &[
    0, 0, 0, 1, 0x67, 0x42, 0xC0, 0x1E, 0xDA, 0x05, 0x07, 0xE4, // SPS
    0, 0, 0, 1, 0x68, 0xCE, 0x3C, 0x80, // PPS
    0, 0, 0, 1, 0x65, 0x88, 0x84, 0x00, 0xFF, // IDR
];
/// A slice NAL unit of type 1, padded to the length of [`IDR`] so that the size is constant.
const DELTA: &[u8] = &[
    0, 0, 0, 1, 0x41, 0x9A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
    0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
];

/// The null encoder.
pub struct Null {
    settings: Settings,
    sink: Sink,
    last_idr_us: Option<u64>,
}

impl Null {
    /// Opens the encoder.
    ///
    /// # Errors
    /// [`EncodeError::Unsupported`] if a setting is out of range or the codec is not H.264.
    pub fn new(settings: Settings, sink: Sink) -> Result<Self, EncodeError> {
        picture::check_settings(&settings)?;
        if settings.codec != Codec::H264 {
            return Err(EncodeError::Unsupported("the null encoder has H.264 only".to_owned()));
        }
        Ok(Self { settings, sink, last_idr_us: None })
    }
}

impl std::fmt::Debug for Null {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Null").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Encoder for Null {
    fn name(&self) -> &'static str {
        NAME
    }

    fn submit(&mut self, picture: &Picture, ticket: u64, pts_us: u64, idr: bool) -> Result<(), EncodeError> {
        picture::check(picture, &self.settings)?;
        let idr = idr || keyframe_due(self.last_idr_us, pts_us, self.settings.keyframe_ms);
        if idr {
            self.last_idr_us = Some(pts_us);
        }
        (self.sink)(Ok(Output { ticket, idr, data: Bytes::from_static(if idr { IDR } else { DELTA }) }));
        Ok(())
    }

    fn set_rate(&mut self, bitrate_kbps: u32, max_fps: u32) -> Result<(), EncodeError> {
        picture::check_rate(bitrate_kbps, max_fps)?;
        (self.settings.bitrate_kbps, self.settings.max_fps) = (bitrate_kbps, max_fps);
        Ok(())
    }
}

/// True if the keyframe interval requires an IDR at `pts_us`. The interval is measured in time, because
/// the frame rate of a desktop varies.
pub fn keyframe_due(last_idr_us: Option<u64>, pts_us: u64, keyframe_ms: u32) -> bool {
    match last_idr_us {
        None => true,
        Some(last) => keyframe_ms > 0 && pts_us.saturating_sub(last) >= u64::from(keyframe_ms) * 1000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_have_equal_size_and_the_right_types() {
        assert_eq!(IDR.len(), DELTA.len());
        assert!(crate::annexb::is_idr(IDR));
        assert!(!crate::annexb::is_idr(DELTA));
        assert_eq!(crate::codec_string(IDR).as_deref(), Some("avc1.42C01E"));
    }

    #[test]
    fn keyframe_is_due_after_the_interval_in_time() {
        assert!(keyframe_due(None, 0, 0));
        assert!(!keyframe_due(Some(0), u64::MAX, 0));
        assert!(!keyframe_due(Some(1_000), 1_999_999, 2_000));
        assert!(keyframe_due(Some(1_000), 2_001_000, 2_000));
    }
}
