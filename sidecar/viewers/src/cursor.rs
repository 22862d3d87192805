//! The desktop's cursor, which the page draws.

use std::io::Cursor as Buffer;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use contract::input::Fraction;

/// Maximum width and height of a cursor, pixels of the desktop. Browsers show up to 128 CSS pixels; the page reduces larger ones.
pub const MAX_SIDE: u32 = 256;

/// Reason why an image is not a cursor.
#[derive(Debug, thiserror::Error)]
pub enum CursorError {
    /// The size is out of range.
    #[error("a cursor of {0}x{1} pixels; each side must be between 1 and {MAX_SIDE}")]
    Size(u32, u32),
    /// The pixels do not fill the image.
    #[error("a cursor of {0} bytes")]
    Length(usize),
    /// The image cannot be encoded.
    #[error(transparent)]
    Encoding(#[from] png::EncodingError),
}

/// Image of a cursor.
#[derive(Debug, PartialEq, Eq)]
pub struct CursorImage {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Position of the hotspot, pixels.
    pub hotspot: (u32, u32),
    /// PNG file in Base64.
    pub png: String,
}

impl CursorImage {
    /// Encodes an image of `width` × `height` pixels of four bytes: red, green and blue, multiplied by alpha, and alpha. A
    /// hotspot outside of the image is moved to its edge.
    ///
    /// # Errors
    /// [`CursorError`] if the size is out of range, or does not match the number of bytes.
    pub fn new(width: u32, height: u32, hotspot: (i32, i32), pixels: &[u8]) -> Result<Self, CursorError> {
        if !(1..=MAX_SIDE).contains(&width) || !(1..=MAX_SIDE).contains(&height) {
            return Err(CursorError::Size(width, height));
        }
        if pixels.len() != (width * height * 4) as usize {
            return Err(CursorError::Length(pixels.len()));
        }
        let straight: Vec<u8> =
            pixels.as_chunks::<4>().0.iter().flat_map(|pixel| divide_by_alpha(*pixel)).collect();
        let mut file = Buffer::new(Vec::new());
        let mut encoder = png::Encoder::new(&mut file, width, height);
        encoder.set_color(png::ColorType::Rgba);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::Fast);
        encoder.write_header()?.write_image_data(&straight)?;
        let inside = |at: i32, size: u32| at.max(0).cast_unsigned().min(size - 1);
        Ok(Self {
            width,
            height,
            hotspot: (inside(hotspot.0, width), inside(hotspot.1, height)),
            png: BASE64_STANDARD.encode(file.into_inner()),
        })
    }
}

/// A pixel whose colours are not multiplied by alpha, as PNG demands.
fn divide_by_alpha([red, green, blue, alpha]: [u8; 4]) -> [u8; 4] {
    if alpha == 0 {
        return [0; 4];
    }
    let divide =
        |colour: u8| ((u32::from(colour) * 255 + u32::from(alpha) / 2) / u32::from(alpha)).min(255) as u8;
    [divide(red), divide(green), divide(blue), alpha]
}

/// Shape of the cursor.
#[derive(Debug, Clone, Default)]
pub enum CursorShape {
    /// The compositor draws the cursor into the picture, or leaves it out.
    #[default]
    InPicture,
    /// The desktop hides the cursor.
    Hidden,
    /// The viewer's own arrow: the desktop's cursor is not known.
    Arrow,
    /// An image.
    Image(Arc<CursorImage>),
}

impl CursorShape {
    /// True if `other` is the same shape, and the same image.
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Image(one), Self::Image(other)) => Arc::ptr_eq(one, other),
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

/// The desktop's cursor.
#[derive(Debug, Clone, Default)]
pub struct Cursor {
    /// Position of the hotspot in the picture; `None` if it is elsewhere or not known.
    pub position: Option<(Fraction, Fraction)>,
    /// Shape of the cursor, and whether the page draws it.
    pub shape: CursorShape,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_is_a_png_with_straight_alpha_and_a_hotspot_inside() {
        let pixels = [128, 64, 0, 128, 0, 0, 0, 0, 255, 255, 255, 255, 9, 9, 9, 3];
        let image = CursorImage::new(2, 2, (-4, 99), &pixels).expect("a cursor");
        assert_eq!(image.hotspot, (0, 1));
        let file = BASE64_STANDARD.decode(&image.png).expect("Base64");
        let mut reader = png::Decoder::new(Buffer::new(file)).read_info().expect("a PNG");
        let mut decoded = vec![0; 16];
        reader.next_frame(&mut decoded).expect("a frame");
        assert_eq!(decoded, [255, 128, 0, 128, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 3]);
    }

    #[test]
    fn image_of_a_wrong_size_is_refused() {
        let new = |width, height, bytes| CursorImage::new(width, height, (0, 0), &vec![0; bytes]);
        assert!(new(256, 256, 256 * 256 * 4).is_ok());
        assert!(matches!(new(257, 1, 257 * 4), Err(CursorError::Size(257, 1))));
        assert!(matches!(new(0, 1, 0), Err(CursorError::Size(0, 1))));
        assert!(matches!(new(u32::MAX, u32::MAX, 4), Err(CursorError::Size(..))));
        assert!(matches!(new(2, 2, 15), Err(CursorError::Length(15))));
    }
}
