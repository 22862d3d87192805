//! The frame that pushed rectangles add up to, on frame path `Pixels`.
//!
//! The first message must cover the whole frame; later ones change parts of it. A message with a whole
//! frame becomes the canvas without a copy.

use bytes::{Bytes, BytesMut};
use encode::Picture;
use protocol::stream::{Config, Pixels};
use protocol::{PixelFormat, Rect};

/// Reason why a message cannot be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CanvasError {
    /// Its size or format differs from the configuration: it was sent before `Configure` took effect.
    #[error("size or format is not the configured one")]
    NotConfigured,
    /// A part was sent before any whole frame.
    #[error("the first frame must be whole")]
    NotWhole,
}

/// The current frame of one session.
#[derive(Debug)]
pub struct Canvas {
    format: PixelFormat,
    width: u32,
    height: u32,
    /// Rows of [`Canvas::stride`] bytes, plane after plane; empty before the first whole frame.
    data: Bytes,
}

impl Canvas {
    /// An empty canvas of the configured size and format.
    pub fn new(config: &Config) -> Self {
        let (width, height) = (config.width.into(), config.height.into());
        Self { format: config.format, width, height, data: Bytes::new() }
    }

    /// Bytes from one row to the next.
    fn stride(&self) -> u32 {
        match self.format {
            PixelFormat::Nv12 => self.width.next_multiple_of(2),
            _ => 4 * self.width,
        }
    }

    /// Number of rows of all planes.
    fn rows(&self) -> usize {
        let height = self.height as usize;
        if self.format == PixelFormat::Nv12 { height + height.div_ceil(2) } else { height }
    }

    /// Checks that a message can be applied.
    ///
    /// # Errors
    /// The message is of another size or format, or is partial while the canvas is empty.
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

    /// Applies a message that passed [`Canvas::check`]. The protocol's decoder has checked its rectangles
    /// and length.
    pub fn apply(&mut self, pixels: Pixels) {
        // The wire packs NV12 rows of odd width tightly; in memory all rows have the same stride.
        if self.is_whole(&pixels) && (self.format != PixelFormat::Nv12 || self.width.is_multiple_of(2)) {
            self.data = pixels.data;
            return;
        }
        if self.data.is_empty() {
            self.data = vec![0; self.stride() as usize * self.rows()].into();
        }
        let mut canvas =
            std::mem::take(&mut self.data).try_into_mut().unwrap_or_else(|shared| BytesMut::from(&*shared));
        let mut source = &pixels.data[..];
        for rect in &pixels.rects {
            source = self.copy_rect(&mut canvas, *rect, source);
        }
        self.data = canvas.freeze();
    }

    /// Copies the pixels of a rectangle from the front of `source`; returns the rest of `source`.
    fn copy_rect<'a>(&self, canvas: &mut [u8], rect: Rect, source: &'a [u8]) -> &'a [u8] {
        let stride = self.stride() as usize;
        let (x, y) = (rect.x as usize, rect.y as usize);
        let (width, height) = (rect.width as usize, rect.height as usize);
        if self.format != PixelFormat::Nv12 {
            let block = Block { top: y, rows: height, left: 4 * x, bytes: 4 * width };
            return block.copy(canvas, stride, source);
        }
        let (luma, chroma) = canvas.split_at_mut(stride * self.height as usize);
        let source = Block { top: y, rows: height, left: x, bytes: width }.copy(luma, stride, source);
        let (rows, bytes) = (height.div_ceil(2), width.next_multiple_of(2));
        Block { top: y / 2, rows, left: x, bytes }.copy(chroma, stride, source)
    }

    /// The current frame; `None` before the first whole one.
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

/// A rectangle of one plane: in rows vertically, in bytes horizontally.
struct Block {
    top: usize,
    rows: usize,
    left: usize,
    bytes: usize,
}

impl Block {
    /// Copies tightly packed rows from the front of `source` into a plane; returns the rest of `source`.
    fn copy<'a>(&self, plane: &mut [u8], stride: usize, source: &'a [u8]) -> &'a [u8] {
        let (packed, rest) = source.split_at(self.bytes * self.rows);
        for (row, from) in plane.chunks_mut(stride).skip(self.top).zip(packed.chunks(self.bytes)) {
            row[self.left..self.left + self.bytes].copy_from_slice(from);
        }
        rest
    }
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

    fn apply(canvas: &mut Canvas, pixels: Pixels) -> Result<(), CanvasError> {
        canvas.check(&pixels)?;
        canvas.apply(pixels);
        Ok(())
    }

    const fn rect(x: u32, y: u32, width: u32, height: u32) -> Rect {
        Rect { x, y, width, height }
    }

    #[test]
    fn rectangles_are_copied_to_their_position() {
        let format = PixelFormat::Bgrx;
        let mut canvas = Canvas::new(&config(format, 4, 3));
        assert_eq!(
            apply(&mut canvas, pixels(format, (4, 3), &[rect(0, 0, 1, 1)], 9)),
            Err(CanvasError::NotWhole)
        );
        assert!(canvas.picture().is_none());
        apply(&mut canvas, pixels(format, (4, 3), &[rect(0, 0, 4, 3)], 1)).expect("applied");
        apply(&mut canvas, pixels(format, (4, 3), &[rect(1, 0, 2, 1), rect(3, 1, 1, 2)], 2))
            .expect("applied");
        let picture = canvas.picture().expect("a frame");
        let got: Vec<_> = picture.data.chunks(4).map(|pixel| pixel[0]).collect();
        assert_eq!(got, [1, 2, 2, 1, 1, 1, 1, 2, 1, 1, 1, 2]);
    }

    #[test]
    fn nv12_rectangle_changes_luma_and_chroma() {
        let format = PixelFormat::Nv12;
        let mut canvas = Canvas::new(&config(format, 6, 4));
        apply(&mut canvas, pixels(format, (6, 4), &[rect(0, 0, 6, 4)], 1)).expect("applied");
        apply(&mut canvas, pixels(format, (6, 4), &[rect(2, 2, 4, 2)], 7)).expect("applied");
        let data = canvas.picture().expect("a frame").data;
        assert_eq!(data[..24], [[1; 6], [1; 6], [1, 1, 7, 7, 7, 7], [1, 1, 7, 7, 7, 7]].concat());
        assert_eq!(data[24..], [[1; 6], [1, 1, 7, 7, 7, 7]].concat());
    }

    #[test]
    fn nv12_of_odd_width_is_stored_with_even_stride() {
        let format = PixelFormat::Nv12;
        let mut canvas = Canvas::new(&config(format, 3, 3));
        apply(&mut canvas, pixels(format, (3, 3), &[rect(0, 0, 3, 3)], 1)).expect("applied");
        apply(&mut canvas, pixels(format, (3, 3), &[rect(2, 2, 1, 1)], 7)).expect("applied");
        let picture = canvas.picture().expect("a frame");
        assert_eq!(picture.stride, 4);
        assert_eq!(
            picture.data[..],
            [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 7, 0], [1, 1, 1, 1], [1, 1, 7, 7]].concat()
        );
    }

    #[test]
    fn message_of_another_size_or_format_is_refused() {
        let mut canvas = Canvas::new(&config(PixelFormat::Bgrx, 4, 4));
        for other in [
            pixels(PixelFormat::Bgrx, (4, 2), &[rect(0, 0, 4, 2)], 0),
            pixels(PixelFormat::Rgbx, (4, 4), &[rect(0, 0, 4, 4)], 0),
        ] {
            assert_eq!(apply(&mut canvas, other), Err(CanvasError::NotConfigured));
        }
    }

    #[test]
    fn shared_frame_is_not_modified() {
        let format = PixelFormat::Bgrx;
        let mut canvas = Canvas::new(&config(format, 2, 2));
        apply(&mut canvas, pixels(format, (2, 2), &[rect(0, 0, 2, 2)], 1)).expect("applied");
        let shared = canvas.picture().expect("a frame");
        apply(&mut canvas, pixels(format, (2, 2), &[rect(0, 0, 1, 1)], 2)).expect("applied");
        assert!(shared.data.iter().all(|byte| *byte == 1));
        assert_eq!(canvas.picture().expect("a frame").data[0], 2);
    }
}
