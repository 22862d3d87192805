//! What a picture must satisfy before an encoder touches it.
//!
//! Pictures come from other processes: a ring that a VMM writes, a socket that a guest writes. Their
//! sizes are numbers that somebody claims. This file is where the claims are held against the bytes, so
//! that nothing behind it indexes past an end. It does not know where a picture came from.

use protocol::pixel::MAX_SIDE;

use crate::encoder::{EncodeError, Picture, PixelFormat, Settings};

/// Highest bit rate that settings may ask for, kbit/s: the limit of H.264 level 6.2, High profile, is 800 Mbit/s
/// (Rec. ITU-T H.264, table A-1), and no rate control below has a 32-bit overflow there.
pub const MAX_BITRATE_KBPS: u32 = 800_000;
/// Highest frame rate that settings may ask for: what the wire allows.
pub const MAX_FPS: u32 = 240;

/// Bytes that a picture of this layout occupies, the last row's padding included, or `None` if the stride
/// can't hold a row.
pub fn occupied(format: PixelFormat, width: u32, height: u32, stride: u32) -> Option<usize> {
    let (width, height, stride) = (width as usize, height as usize, stride as usize);
    if width == 0 || height == 0 {
        return None;
    }
    match format {
        PixelFormat::Nv12 => {
            let chroma = width.div_ceil(2) * 2;
            let rows = height + height.div_ceil(2);
            (stride >= chroma).then(|| stride * rows)
        }
        _ => (stride >= 4 * width).then(|| stride * height),
    }
}

/// Holds a picture against its own claims and the encoder's settings.
pub fn check(picture: &Picture, settings: &Settings) -> Result<(), EncodeError> {
    if (picture.width, picture.height) != (settings.width, settings.height) {
        return Err(EncodeError::BadPicture(
            "its size is not the configured one; configure the new size first",
        ));
    }
    let Some(need) = occupied(picture.format, picture.width, picture.height, picture.stride) else {
        return Err(EncodeError::BadPicture("its stride is smaller than a row"));
    };
    if picture.data.len() < need {
        return Err(EncodeError::BadPicture("it has fewer bytes than its size and stride need"));
    }
    Ok(())
}

/// Holds settings against what any encoder here can be asked.
pub fn check_settings(settings: &Settings) -> Result<(), EncodeError> {
    let side = 1..=MAX_SIDE;
    if !side.contains(&settings.width) || !side.contains(&settings.height) {
        return Err(EncodeError::Unsupported(format!(
            "a picture of {} x {}; sides are 1 to {MAX_SIDE} pixels",
            settings.width, settings.height
        )));
    }
    check_rate(settings.bitrate_kbps, settings.max_fps)
}

/// Holds rate limits against what any encoder here can be asked.
pub fn check_rate(bitrate_kbps: u32, max_fps: u32) -> Result<(), EncodeError> {
    if !(1..=MAX_BITRATE_KBPS).contains(&bitrate_kbps) {
        return Err(EncodeError::Unsupported(format!(
            "{bitrate_kbps} kbit/s; bit rates are 1 to {MAX_BITRATE_KBPS} kbit/s"
        )));
    }
    if !(1..=MAX_FPS).contains(&max_fps) {
        return Err(EncodeError::Unsupported(format!("{max_fps} fps; frame rates are 1 to {MAX_FPS}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn occupied_counts_whole_rows() {
        assert_eq!(occupied(PixelFormat::Bgrx, 3, 2, 16), Some(32));
        assert_eq!(occupied(PixelFormat::Bgrx, 3, 2, 11), None);
        // 3 x 3 NV12: three rows of Y and two of CbCr, each of stride 8.
        assert_eq!(occupied(PixelFormat::Nv12, 3, 3, 8), Some(5 * 8));
        assert_eq!(occupied(PixelFormat::Nv12, 3, 3, 3), None);
        assert_eq!(occupied(PixelFormat::Nv12, 0, 3, 3), None);
    }

    #[test]
    fn largest_strides_do_not_overflow() {
        assert!(occupied(PixelFormat::Nv12, MAX_SIDE, MAX_SIDE, u32::MAX).is_some());
        assert!(occupied(PixelFormat::Rgba, MAX_SIDE, MAX_SIDE, u32::MAX).is_some());
    }
}
