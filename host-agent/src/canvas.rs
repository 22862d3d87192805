//! Rung `Pixels`: the picture that pushed rectangles add up to.
//!
//! The first message must cover the whole picture; later ones change parts of it. A message that is one
//! whole picture *is* the new canvas, without a copy. Lives in the session's worker; knows no sockets.

use bytes::{Bytes, BytesMut};
use encode::Picture;
use protocol::stream::{Config, Pixels};
use protocol::{PixelFormat, Rect};

/// Why a message changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CanvasError {
    /// Its size or format is not the configured one: it was sent before a Configure took effect.
    #[error("its size or format is not the configured one")]
    NotConfigured,
    /// A part came before any whole picture.
    #[error("the first picture must be whole")]
    NotWhole,
}

/// See the module.
#[derive(Debug)]
pub struct Canvas {
    format: PixelFormat,
    width: u32,
    height: u32,
    /// Rows of [`Canvas::stride`] bytes; empty before the first whole picture.
    data: Bytes,
}

impl Canvas {
    /// An empty one.
    pub fn new(config: &Config) -> Self {
        let (width, height) = (config.width.into(), config.height.into());
        Self { format: config.format, width, height, data: Bytes::new() }
    }

    /// Bytes from row to row.
    fn stride(&self) -> u32 {
        match self.format {
            PixelFormat::Nv12 => self.width.next_multiple_of(2),
            _ => 4 * self.width,
        }
    }

    /// Rows of all planes.
    fn rows(&self) -> usize {
        let height = self.height as usize;
        if self.format == PixelFormat::Nv12 { height + height.div_ceil(2) } else { height }
    }

    /// Whether a message can be applied.
    pub fn check(&self, pixels: &Pixels) -> Result<(), CanvasError> {
        let size = (u32::from(pixels.width), u32::from(pixels.height));
        if pixels.format != self.format || size != (self.width, self.height) {
            return Err(CanvasError::NotConfigured);
        }
        if self.data.is_empty() && !self.is_whole(pixels) {
            return Err(CanvasError::NotWhole);
        }
        Ok(())
    }

    fn is_whole(&self, pixels: &Pixels) -> bool {
        pixels.rects[..] == [Rect::full(self.width, self.height)]
    }

    /// Applies a message that was [checked](Self::check), whose rectangles and length the protocol has
    /// held against its own size.
    pub fn apply(&mut self, pixels: Pixels) {
        // NV12 of odd width has rows of different lengths on the wire, and of one length in memory.
        if self.is_whole(&pixels) && (self.format != PixelFormat::Nv12 || self.width.is_multiple_of(2)) {
            self.data = pixels.data;
            return;
        }
        if self.data.is_empty() {
            self.data = vec![0; self.stride() as usize * self.rows()].into();
        }
        let mut canvas =
            std::mem::take(&mut self.data).try_into_mut().unwrap_or_else(|shared| BytesMut::from(&*shared));
        let mut from = &pixels.data[..];
        for rect in &pixels.rects {
            from = self.paint(&mut canvas, *rect, from);
        }
        self.data = canvas.freeze();
    }

    /// Copies one rectangle and gives what is left of `from`.
    fn paint<'a>(&self, canvas: &mut [u8], rect: Rect, from: &'a [u8]) -> &'a [u8] {
        let stride = self.stride() as usize;
        let (x, y) = (rect.x as usize, rect.y as usize);
        let (width, height) = (rect.width as usize, rect.height as usize);
        if self.format != PixelFormat::Nv12 {
            return rows(canvas, stride, (y, height), (4 * x, 4 * width), from);
        }
        let (luma, chroma) = canvas.split_at_mut(stride * self.height as usize);
        let from = rows(luma, stride, (y, height), (x, width), from);
        rows(chroma, stride, (y / 2, height.div_ceil(2)), (x, width.next_multiple_of(2)), from)
    }

    /// The picture as it is now; `None` before the first whole one.
    pub fn picture(&self) -> Option<Picture> {
        (!self.data.is_empty()).then(|| Picture {
            format: self.format,
            width: self.width,
            height: self.height,
            stride: self.stride(),
            data: self.data.clone(),
        })
    }
}

fn rows<'a>(
    to: &mut [u8],
    stride: usize,
    (top, height): (usize, usize),
    (left, width): (usize, usize),
    from: &'a [u8],
) -> &'a [u8] {
    let (mine, rest) = from.split_at(width * height);
    for (to, from) in to.chunks_mut(stride).skip(top).zip(mine.chunks(width)) {
        to[left..left + width].copy_from_slice(from);
    }
    rest
}

#[cfg(test)]
mod tests {
    use protocol::stream::{Codec, Path};

    use super::*;

    fn config(format: PixelFormat, width: u16, height: u16) -> Config {
        let (codec, path) = (Codec::H264, Path::Pixels);
        Config { width, height, format, max_fps: 60, bitrate_kbps: 1000, keyframe_ms: 0, codec, path }
    }

    fn pixels(format: PixelFormat, (width, height): (u16, u16), rects: &[Rect], value: u8) -> Pixels {
        let bytes = rects.iter().map(|rect| format.bytes(rect.width, rect.height)).sum();
        let data = Bytes::from(vec![value; bytes]);
        Pixels { seq: 1, capture_ns: 0, format, width, height, rects: rects.to_vec(), data }
    }

    /// Checks and applies.
    fn apply(canvas: &mut Canvas, pixels: Pixels) -> Result<(), CanvasError> {
        canvas.check(&pixels)?;
        canvas.apply(pixels);
        Ok(())
    }

    const fn rect(x: u32, y: u32, width: u32, height: u32) -> Rect {
        Rect { x, y, width, height }
    }

    #[test]
    fn parts_land_where_they_belong() {
        let format = PixelFormat::Bgrx;
        let mut canvas = Canvas::new(&config(format, 4, 3));
        assert_eq!(
            apply(&mut canvas, pixels(format, (4, 3), &[rect(0, 0, 1, 1)], 9)),
            Err(CanvasError::NotWhole)
        );
        assert!(canvas.picture().is_none());
        apply(&mut canvas, pixels(format, (4, 3), &[rect(0, 0, 4, 3)], 1)).expect("whole");
        apply(&mut canvas, pixels(format, (4, 3), &[rect(1, 0, 2, 1), rect(3, 1, 1, 2)], 2)).expect("parts");
        let picture = canvas.picture().expect("a picture");
        let got: Vec<_> = picture.data.chunks(4).map(|pixel| pixel[0]).collect();
        assert_eq!(got, [1, 2, 2, 1, 1, 1, 1, 2, 1, 1, 1, 2]);
    }

    #[test]
    fn nv12_parts_change_luma_and_chroma() {
        let format = PixelFormat::Nv12;
        let mut canvas = Canvas::new(&config(format, 6, 4));
        apply(&mut canvas, pixels(format, (6, 4), &[rect(0, 0, 6, 4)], 1)).expect("whole");
        apply(&mut canvas, pixels(format, (6, 4), &[rect(2, 2, 4, 2)], 7)).expect("a part");
        let data = canvas.picture().expect("a picture").data;
        assert_eq!(data[..24], [[1; 6], [1; 6], [1, 1, 7, 7, 7, 7], [1, 1, 7, 7, 7, 7]].concat());
        assert_eq!(data[24..], [[1; 6], [1, 1, 7, 7, 7, 7]].concat());
    }

    #[test]
    fn nv12_of_odd_size_gets_even_rows() {
        let format = PixelFormat::Nv12;
        let mut canvas = Canvas::new(&config(format, 3, 3));
        apply(&mut canvas, pixels(format, (3, 3), &[rect(0, 0, 3, 3)], 1)).expect("whole");
        apply(&mut canvas, pixels(format, (3, 3), &[rect(2, 2, 1, 1)], 7)).expect("the last block");
        let picture = canvas.picture().expect("a picture");
        assert_eq!(picture.stride, 4);
        assert_eq!(
            picture.data[..],
            [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 7, 0], [1, 1, 1, 1], [1, 1, 7, 7]].concat()
        );
    }

    #[test]
    fn another_size_or_format_is_refused() {
        let mut canvas = Canvas::new(&config(PixelFormat::Bgrx, 4, 4));
        for other in [
            pixels(PixelFormat::Bgrx, (4, 2), &[rect(0, 0, 4, 2)], 0),
            pixels(PixelFormat::Rgbx, (4, 4), &[rect(0, 0, 4, 4)], 0),
        ] {
            assert_eq!(apply(&mut canvas, other), Err(CanvasError::NotConfigured));
        }
    }

    #[test]
    fn a_picture_in_use_is_not_changed_under_its_user() {
        let format = PixelFormat::Bgrx;
        let mut canvas = Canvas::new(&config(format, 2, 2));
        apply(&mut canvas, pixels(format, (2, 2), &[rect(0, 0, 2, 2)], 1)).expect("whole");
        let used = canvas.picture().expect("a picture");
        apply(&mut canvas, pixels(format, (2, 2), &[rect(0, 0, 1, 1)], 2)).expect("a part");
        assert!(used.data.iter().all(|byte| *byte == 1));
        assert_eq!(canvas.picture().expect("a picture").data[0], 2);
    }
}
