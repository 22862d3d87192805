//! Reads a rectangle of a frame's pixels, tightly packed, for the frame paths `Pixels` and `Local`.

use std::borrow::Cow;

use bytes::Bytes;
use capture::{Frame, FrameBuffer};
use encode::EncodeError;
use encode::convert::{Plane, Rgb, rgb_to_nv12};
use protocol::{PixelFormat, Rect};

/// Failure to read a frame's pixels.
#[derive(Debug, thiserror::Error)]
pub enum PixelsError {
    /// The kernel could not copy them from the host.
    #[error("cannot read the buffer back from the host's GPU: {0}")]
    Read(#[from] std::io::Error),
    /// The conversion failed.
    #[error("cannot convert the pixels: {0}")]
    Convert(#[from] EncodeError),
    /// The buffer is smaller than picture size and stride require.
    #[error("the frame's buffer is shorter than its size and stride require")]
    Short,
    /// The conversion is not supported.
    #[error("conversion from {from:?} to {to:?} is not supported")]
    Layout {
        /// Format of the frame.
        from: PixelFormat,
        /// Requested format.
        to: PixelFormat,
    },
}

/// Smallest rectangle that contains `rect` and consists of whole 2 x 2 blocks, or ends at the picture's edge.
pub fn align_to_chroma(rect: Rect, width: u32, height: u32) -> Rect {
    let (x, y) = (rect.x & !1, rect.y & !1);
    let right = (rect.x + rect.width).next_multiple_of(2).min(width);
    let bottom = (rect.y + rect.height).next_multiple_of(2).min(height);
    Rect { x, y, width: right - x, height: bottom - y }
}

/// Reads the pixels of `rect` in `format`: the frame's own format, or NV12.
pub fn read(frame: &Frame, rect: Rect, format: PixelFormat) -> Result<Bytes, PixelsError> {
    match &frame.buffer {
        FrameBuffer::Gpu(buffer) => {
            buffer.with_pixels(rect, |bytes, stride| pack(frame.format, rect, bytes, stride, format))?
        }
        FrameBuffer::Shm(view) => pack(frame.format, rect, view.bytes(), view.stride(), format),
    }
}

/// Packs and converts `rect` of a picture whose first pixel is at `bytes[0]`, rows `stride` bytes apart.
fn pack(
    from: PixelFormat,
    rect: Rect,
    bytes: &[u8],
    stride: u32,
    to: PixelFormat,
) -> Result<Bytes, PixelsError> {
    let (width, height) = (rect.width as usize, rect.height as usize);
    let start = rect.y as usize * stride as usize + rect.x as usize * 4;
    let need = (height.saturating_sub(1)) * stride as usize + width * 4;
    let source = bytes.get(start..start + need).ok_or(PixelsError::Short)?;
    let row = 4 * width;
    // The converter requires whole rows, including the last, so a part of a picture is packed first.
    let packed = if stride as usize == row {
        Cow::Borrowed(source)
    } else {
        Cow::Owned(source.chunks(stride as usize).flat_map(|line| &line[..row]).copied().collect())
    };
    if to == from {
        return Ok(packed.into_owned().into());
    }
    if to != PixelFormat::Nv12 || from == PixelFormat::Nv12 {
        return Err(PixelsError::Layout { from, to });
    }
    let mut out = vec![0; to.bytes(rect.width, rect.height)];
    let (y, uv) = out.split_at_mut(width * height);
    rgb_to_nv12(
        Rgb { format: from, width: rect.width, height: rect.height, stride: row as u32, data: &packed },
        &mut Plane { data: y, stride: rect.width },
        &mut Plane { data: uv, stride: rect.width.next_multiple_of(2) },
    )?;
    Ok(out.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_rectangle_covers_original_and_stays_in_picture() {
        let rect = Rect { x: 3, y: 5, width: 4, height: 2 };
        assert_eq!(align_to_chroma(rect, 100, 100), Rect { x: 2, y: 4, width: 6, height: 4 });
        assert_eq!(align_to_chroma(rect, 7, 7), Rect { x: 2, y: 4, width: 5, height: 3 });
    }

    #[test]
    fn partial_rectangle_is_packed_and_converted() {
        // 4 x 2 pixels, stride 20: red on the left, blue on the right.
        let mut bytes = vec![0; 40];
        for y in 0..2 {
            for x in 0..4 {
                let colour: [u8; 4] = if x < 2 { [0, 0, 255, 0] } else { [255, 0, 0, 0] };
                bytes[y * 20 + x * 4..][..4].copy_from_slice(&colour);
            }
        }
        let right = Rect { x: 2, y: 0, width: 2, height: 2 };
        let same = pack(PixelFormat::Bgrx, right, &bytes, 20, PixelFormat::Bgrx).expect("packs");
        assert_eq!(&same[..], [255, 0, 0, 0].repeat(4));
        let nv12 = pack(PixelFormat::Bgrx, right, &bytes, 20, PixelFormat::Nv12).expect("converts");
        // Blue in BT.709, limited range: Y 32, Cb 240, Cr 118.
        for (value, expected) in nv12.iter().zip([32, 32, 32, 32, 240, 118]) {
            assert!(value.abs_diff(expected) <= 2, "{nv12:?}");
        }
        assert!(matches!(
            pack(PixelFormat::Bgrx, right, &bytes[..20], 20, PixelFormat::Bgrx),
            Err(PixelsError::Short)
        ));
    }
}
