//! Conversion of pictures to the YUV formats of encoders: BT.709, limited range, 4:2:0.
//!
//! 4:2:0 needs even sides and H.264 cannot crop it by one pixel, so a picture with an odd side is padded by
//! repeating its last column or row.

use yuv::{
    BufferStoreMut, YuvBiPlanarImageMut, YuvConversionMode, YuvError, YuvPlanarImageMut, YuvRange,
    YuvStandardMatrix,
};

use crate::encoder::{EncodeError, Picture, PixelFormat};

/// A plane to write.
#[derive(Debug)]
pub struct Plane<'a> {
    /// Samples of the plane.
    pub data: &'a mut [u8],
    /// Distance between rows in bytes.
    pub stride: u32,
}

impl Plane<'_> {
    /// The first `count` rows only: the converter would treat more bytes as an odd last row.
    fn rows(&mut self, count: u32) -> &mut [u8] {
        let end = (self.stride as usize * count as usize).min(self.data.len());
        &mut self.data[..end]
    }
}

/// A borrowed RGB picture.
#[derive(Debug, Clone, Copy)]
pub struct Rgb<'a> {
    /// Memory layout; one with four bytes per pixel.
    pub format: PixelFormat,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Distance between rows in bytes.
    pub stride: u32,
    /// Whole rows, including the padding of the last one; may be longer.
    pub data: &'a [u8],
}

impl Rgb<'_> {
    /// The rows only; see [`Plane::rows`].
    fn rows(&self) -> &[u8] {
        let end = self.stride as usize * self.height as usize;
        &self.data[..end.min(self.data.len())]
    }
}

impl<'a> From<&'a Picture> for Rgb<'a> {
    fn from(picture: &'a Picture) -> Self {
        let &Picture { format, width, height, stride, ref data } = picture;
        Self { format, width, height, stride, data }
    }
}

/// Planes to write, with the picture's sides rounded up to even.
#[derive(Debug)]
pub enum Planes<'a> {
    /// Y, then interleaved Cb and Cr.
    Nv12(Plane<'a>, Plane<'a>),
    /// Y, Cb, Cr.
    I420(Plane<'a>, Plane<'a>, Plane<'a>),
}

/// The encoded length of a side: rounded up to even.
pub const fn coded_side(side: u32) -> u32 {
    side.next_multiple_of(2)
}

/// Converts a picture that was [checked](crate::picture::check), and pads it to even sides.
///
/// # Errors
/// [`EncodeError::BadPicture`] if rows or planes are too short.
pub fn convert(picture: &Picture, into: &mut Planes<'_>) -> Result<(), EncodeError> {
    let (width, height) = (picture.width, picture.height);
    if picture.format == PixelFormat::Nv12 {
        copy_nv12(picture, into);
    } else {
        match into {
            Planes::Nv12(y, uv) => rgb_to_nv12(picture.into(), y, uv)?,
            Planes::I420(y, u, v) => rgb_to_i420(picture.into(), y, u, v).map_err(|error| refused(&error))?,
        }
    }
    let (Planes::Nv12(y, _) | Planes::I420(y, _, _)) = into;
    pad_to_even(y, width as usize, height as usize);
    Ok(())
}

fn refused(error: &YuvError) -> EncodeError {
    tracing::debug!(%error, "picture refused by the converter");
    EncodeError::BadPicture("rows or planes are too short for the conversion")
}

/// Converts a picture to NV12 of the same size, without padding.
///
/// # Errors
/// [`EncodeError::BadPicture`] if rows or planes are too short.
pub fn rgb_to_nv12(picture: Rgb<'_>, y: &mut Plane<'_>, uv: &mut Plane<'_>) -> Result<(), EncodeError> {
    let (height, half) = (picture.height, picture.height.div_ceil(2));
    let mut image = YuvBiPlanarImageMut {
        y_stride: y.stride,
        y_plane: BufferStoreMut::Borrowed(y.rows(height)),
        uv_stride: uv.stride,
        uv_plane: BufferStoreMut::Borrowed(uv.rows(half)),
        width: picture.width,
        height: picture.height,
    };
    let convert = match picture.format {
        PixelFormat::Rgba | PixelFormat::Rgbx => yuv::rgba_to_yuv_nv12,
        _ => yuv::bgra_to_yuv_nv12,
    };
    convert(&mut image, picture.rows(), picture.stride, YuvRange::Limited, YuvStandardMatrix::Bt709, MODE)
        .map_err(|error| refused(&error))
}

fn rgb_to_i420(
    picture: Rgb<'_>,
    y: &mut Plane<'_>,
    u: &mut Plane<'_>,
    v: &mut Plane<'_>,
) -> Result<(), YuvError> {
    let (height, half) = (picture.height, picture.height.div_ceil(2));
    let mut image = YuvPlanarImageMut {
        y_stride: y.stride,
        y_plane: BufferStoreMut::Borrowed(y.rows(height)),
        u_stride: u.stride,
        u_plane: BufferStoreMut::Borrowed(u.rows(half)),
        v_stride: v.stride,
        v_plane: BufferStoreMut::Borrowed(v.rows(half)),
        width: picture.width,
        height: picture.height,
    };
    let convert = match picture.format {
        PixelFormat::Rgba | PixelFormat::Rgbx => yuv::rgba_to_yuv420,
        _ => yuv::bgra_to_yuv420,
    };
    convert(&mut image, picture.rows(), picture.stride, YuvRange::Limited, YuvStandardMatrix::Bt709, MODE)
}

const MODE: YuvConversionMode = YuvConversionMode::Balanced;

fn copy_nv12(picture: &Picture, into: &mut Planes<'_>) {
    let stride = picture.stride as usize;
    let (width, height) = (picture.width as usize, picture.height as usize);
    let (luma, chroma) = picture.data.split_at(stride * height);
    let pairs = width.div_ceil(2);
    let chroma_rows = chroma.chunks(stride).take(height.div_ceil(2));
    match into {
        Planes::Nv12(y, uv) => {
            copy_rows(luma, stride, y, width);
            for (from, to) in chroma_rows.zip(uv.data.chunks_mut(uv.stride as usize)) {
                to[..2 * pairs].copy_from_slice(&from[..2 * pairs]);
            }
        }
        Planes::I420(y, u, v) => {
            copy_rows(luma, stride, y, width);
            let rows = u.data.chunks_mut(u.stride as usize).zip(v.data.chunks_mut(v.stride as usize));
            for (from, (u, v)) in chroma_rows.zip(rows) {
                for ((pair, u), v) in
                    from[..2 * pairs].chunks_exact(2).zip(&mut u[..pairs]).zip(&mut v[..pairs])
                {
                    (*u, *v) = (pair[0], pair[1]);
                }
            }
        }
    }
}

fn copy_rows(from: &[u8], stride: usize, to: &mut Plane<'_>, width: usize) {
    for (from, to) in from.chunks(stride).zip(to.data.chunks_mut(to.stride as usize)) {
        to[..width].copy_from_slice(&from[..width]);
    }
}

/// Repeats the last luma column and row of a picture with odd sides. Chroma samples cover them already.
fn pad_to_even(y: &mut Plane<'_>, width: usize, height: usize) {
    let stride = y.stride as usize;
    if width % 2 == 1 {
        for row in y.data.chunks_mut(stride).take(height) {
            row[width] = row[width - 1];
        }
    }
    if height % 2 == 1 {
        let last = (height - 1) * stride;
        y.data.copy_within(last..last + width.next_multiple_of(2), last + stride);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// RGB colours and their Y, Cb, Cr values in BT.709, limited range, by the standard's equations:
    /// Y = 16 + 219 (0.2126 R + 0.7152 G + 0.0722 B), Cb = 128 + 224 (B - Y) / 1.8556,
    /// Cr = 128 + 224 (R - Y) / 1.5748.
    const COLOURS: [([u8; 3], [u8; 3]); 6] = [
        ([255, 0, 0], [63, 102, 240]),
        ([0, 255, 0], [173, 42, 26]),
        ([0, 0, 255], [32, 240, 118]),
        ([255, 255, 255], [235, 128, 128]),
        ([0, 0, 0], [16, 128, 128]),
        ([128, 128, 128], [126, 128, 128]),
    ];

    fn flat([r, g, b]: [u8; 3], format: PixelFormat, width: u32, height: u32, padding: u32) -> Picture {
        let pixel = match format {
            PixelFormat::Rgbx | PixelFormat::Rgba => [r, g, b, 0],
            _ => [b, g, r, 0],
        };
        let mut row: Vec<u8> = pixel.repeat(width as usize);
        row.extend(std::iter::repeat_n(0xAA, padding as usize));
        let stride = row.len() as u32;
        // A ring slot may be larger than its picture.
        let data = [row.repeat(height as usize), vec![0x55; 77]].concat();
        Picture { format, width, height, stride, data: Bytes::from(data) }
    }

    fn planes(picture: &Picture) -> [Vec<u8>; 2] {
        let (width, height) = (coded_side(picture.width), coded_side(picture.height));
        let mut y = vec![0xEE; (width * height) as usize];
        let mut uv = vec![0xEE; (width * height / 2) as usize];
        let mut into =
            Planes::Nv12(Plane { data: &mut y, stride: width }, Plane { data: &mut uv, stride: width });
        convert(picture, &mut into).expect("converts");
        [y, uv]
    }

    fn near(got: u8, want: u8) -> bool {
        got.abs_diff(want) <= 1
    }

    #[test]
    fn every_layout_and_size_converts_to_bt709_limited_range() {
        let formats = [PixelFormat::Bgrx, PixelFormat::Bgra, PixelFormat::Rgbx, PixelFormat::Rgba];
        for (rgb, [y, cb, cr]) in COLOURS {
            for format in formats {
                for (width, height) in [(64, 32), (33, 17), (1, 1), (2, 3)] {
                    let [luma, chroma] = planes(&flat(rgb, format, width, height, 20));
                    let what = format!("{rgb:?} as {format:?} at {width} x {height}");
                    assert!(luma.iter().all(|got| near(*got, y)), "{what}: Y {luma:?}, not {y}");
                    assert!(chroma.chunks(2).all(|got| near(got[0], cb)), "{what}: Cb {chroma:?}, not {cb}");
                    assert!(chroma.chunks(2).all(|got| near(got[1], cr)), "{what}: Cr {chroma:?}, not {cr}");
                }
            }
        }
    }

    #[test]
    fn nv12_is_copied_by_row_and_split_for_i420() {
        // 3 x 3, stride 6: luma rows 1, 2, 3; chroma pairs (10 + row, 20 + row).
        let data = [
            [1, 1, 1, 0, 0, 0],
            [2, 2, 2, 0, 0, 0],
            [3, 3, 3, 0, 0, 0],
            [10, 20, 10, 20, 0, 0],
            [11, 21, 11, 21, 0, 0],
        ]
        .concat();
        let picture =
            Picture { format: PixelFormat::Nv12, width: 3, height: 3, stride: 6, data: data.into() };
        let [y, uv] = planes(&picture);
        assert_eq!(y, [[1; 4], [2; 4], [3; 4], [3; 4]].concat());
        assert_eq!(uv, [[10, 20, 10, 20], [11, 21, 11, 21]].concat());

        let (mut y, mut u, mut v) = (vec![0; 16], vec![0; 4], vec![0; 4]);
        let mut into = Planes::I420(
            Plane { data: &mut y, stride: 4 },
            Plane { data: &mut u, stride: 2 },
            Plane { data: &mut v, stride: 2 },
        );
        convert(&picture, &mut into).expect("converts");
        assert_eq!((u, v), (vec![10, 10, 11, 11], vec![20, 20, 21, 21]));
    }

    #[test]
    fn i420_has_the_same_chroma_as_nv12() {
        for (rgb, [_, cb, cr]) in COLOURS {
            let picture = flat(rgb, PixelFormat::Bgrx, 34, 18, 0);
            let (mut y, mut u, mut v) = (vec![0; 34 * 18], vec![0; 17 * 9], vec![0; 17 * 9]);
            let mut into = Planes::I420(
                Plane { data: &mut y, stride: 34 },
                Plane { data: &mut u, stride: 17 },
                Plane { data: &mut v, stride: 17 },
            );
            convert(&picture, &mut into).expect("converts");
            assert!(u.iter().all(|got| near(*got, cb)) && v.iter().all(|got| near(*got, cr)), "{rgb:?}");
        }
    }
}
