//! Decoding and checking of [`Pixels`].

use super::{MAX_PIXELS, MAX_RECTS, PIXELS_FIXED, Pixels, RECT_BYTES, check_side, side};
use crate::pixel::{PixelFormat, Rect};
use crate::wire::{DecodeError, Reader};

/// Decodes the payload of a `Pixels` message.
pub(super) fn decode(mut r: Reader) -> Result<Pixels, DecodeError> {
    let seq = r.u64("seq")?;
    let capture_ns = r.u64("capture time")?;
    let format = PixelFormat::from_fourcc(r.u32("format")?)?;
    let (width, height) = (side(&mut r, "width")?, side(&mut r, "height")?);
    let count = usize::from(r.u8("rectangles")?);
    check_count(count)?;
    let mut rects = Vec::with_capacity(count);
    for _ in 0..count {
        rects.push(Rect::from_wire([r.u16("x")?, r.u16("y")?, r.u16("width")?, r.u16("height")?]));
    }
    let pixels = Pixels { seq, capture_ns, format, width, height, rects, data: r.rest() };
    pixels.check()?;
    Ok(pixels)
}

pub(super) fn check_count(rects: usize) -> Result<(), DecodeError> {
    match rects {
        0 => Err(DecodeError::Invalid("the number of rectangles must be between 1 and 16")),
        1..=MAX_RECTS => Ok(()),
        more => Err(DecodeError::TooLarge { field: "rectangles", got: more as u64, limit: MAX_RECTS as u64 }),
    }
}

impl Pixels {
    /// Checks all limits that the host-agent's decoder checks, so that a sender can avoid a message that
    /// would end the connection.
    ///
    /// # Errors
    /// If a size is out of range, a rectangle is empty, outside the frame or (NV12) has odd edges, or
    /// `data` has not the length that the rectangles need.
    pub fn check(&self) -> Result<(), DecodeError> {
        let (width, height) = (u32::from(self.width), u32::from(self.height));
        check_side("width", self.width)?;
        check_side("height", self.height)?;
        check_count(self.rects.len())?;
        let mut need = 0_usize;
        for rect in &self.rects {
            if !rect.fits(width, height) {
                return Err(DecodeError::Invalid("a rectangle is empty or outside the frame"));
            }
            if self.format == PixelFormat::Nv12 && !even(*rect, width, height) {
                return Err(DecodeError::Invalid("an NV12 rectangle has odd edges"));
            }
            need = need.saturating_add(self.format.bytes(rect.width, rect.height));
        }
        if self.data.len() != need {
            return Err(DecodeError::Invalid("the length of the pixels differs from that of the rectangles"));
        }
        let payload = (PIXELS_FIXED + self.rects.len() * RECT_BYTES).saturating_add(need);
        if payload > MAX_PIXELS as usize {
            let (got, limit) = (payload as u64, MAX_PIXELS.into());
            return Err(DecodeError::TooLarge { field: "payload", got, limit });
        }
        Ok(())
    }
}

/// True if an NV12 rectangle covers whole 2 x 2 blocks of a frame of this size.
fn even(rect: Rect, width: u32, height: u32) -> bool {
    let (right, bottom) = (rect.x + rect.width, rect.y + rect.height);
    rect.x.is_multiple_of(2)
        && rect.y.is_multiple_of(2)
        && (right.is_multiple_of(2) || right == width)
        && (bottom.is_multiple_of(2) || bottom == height)
}
