//! Checks of pictures and settings before they reach an encoder.
//!
//! Sizes of pictures come from other processes: a ring that a VMM writes, or a socket that a guest writes.
//! They are compared with the length of the data here, so that no later code indexes out of bounds.

use protocol::pixel::MAX_SIDE;

use crate::encoder::{EncodeError, Picture, PixelFormat, Settings};

/// Highest bit rate, kbit/s: the limit of H.264 level 6.2, High profile (Rec. ITU-T H.264, table A-1). Below
/// it no rate control overflows 32 bits.
pub const MAX_BITRATE_KBPS: u32 = 800_000;
/// Highest frame rate limit, frames per second; the wire format's.
pub const MAX_FPS: u32 = 240;

/// Size of a picture in bytes, including the padding of the last row; `None` if a side is 0 or the stride
/// is shorter than a row.
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

/// Checks that a picture has the size in the settings and enough data.
///
/// # Errors
/// [`EncodeError::BadPicture`].
pub fn check(picture: &Picture, settings: &Settings) -> Result<(), EncodeError> {
    if (picture.width, picture.height) != (settings.width, settings.height) {
        return Err(EncodeError::BadPicture(
            "the size differs from the configured one; configure the new size first",
        ));
    }
    let Some(need) = occupied(picture.format, picture.width, picture.height, picture.stride) else {
        return Err(EncodeError::BadPicture("the stride is shorter than a row"));
    };
    if picture.data.len() < need {
        return Err(EncodeError::BadPicture("the data is shorter than size and stride need"));
    }
    Ok(())
}

/// Checks that settings are in range for all encoders.
///
/// # Errors
/// [`EncodeError::Unsupported`].
pub fn check_settings(settings: &Settings) -> Result<(), EncodeError> {
    let side = 1..=MAX_SIDE;
    if !side.contains(&settings.width) || !side.contains(&settings.height) {
        return Err(EncodeError::Unsupported(format!(
            "the size is {} x {} pixels, but sides must be between 1 and {MAX_SIDE}",
            settings.width, settings.height
        )));
    }
    check_rate(settings.bitrate_kbps, settings.max_fps)
}

/// Checks that rate limits are in range for all encoders.
///
/// # Errors
/// [`EncodeError::Unsupported`].
pub fn check_rate(bitrate_kbps: u32, max_fps: u32) -> Result<(), EncodeError> {
    if !(1..=MAX_BITRATE_KBPS).contains(&bitrate_kbps) {
        return Err(EncodeError::Unsupported(format!(
            "the bit rate is {bitrate_kbps} kbit/s, but must be between 1 and {MAX_BITRATE_KBPS}"
        )));
    }
    if !(1..=MAX_FPS).contains(&max_fps) {
        return Err(EncodeError::Unsupported(format!(
            "the frame rate limit is {max_fps}, but must be between 1 and {MAX_FPS}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_includes_the_padding_of_the_last_row() {
        assert_eq!(occupied(PixelFormat::Bgrx, 3, 2, 16), Some(32));
        assert_eq!(occupied(PixelFormat::Bgrx, 3, 2, 11), None);
        // 3 x 3 NV12: three rows of Y and two of CbCr, each of stride 8.
        assert_eq!(occupied(PixelFormat::Nv12, 3, 3, 8), Some(5 * 8));
        assert_eq!(occupied(PixelFormat::Nv12, 3, 3, 3), None);
        assert_eq!(occupied(PixelFormat::Nv12, 0, 3, 3), None);
    }

    #[test]
    fn largest_stride_does_not_overflow() {
        assert!(occupied(PixelFormat::Nv12, MAX_SIDE, MAX_SIDE, u32::MAX).is_some());
        assert!(occupied(PixelFormat::Rgba, MAX_SIDE, MAX_SIDE, u32::MAX).is_some());
    }
}
