//! Pictures to encode.

use bytes::Bytes;
use encode::{Picture, PixelFormat};

/// A picture of one colour. Each row is followed by `padding` bytes of other values.
pub fn flat([r, g, b]: [u8; 3], format: PixelFormat, (width, height): (u32, u32), padding: u32) -> Picture {
    let pixel = match format {
        PixelFormat::Rgba | PixelFormat::Rgbx => [r, g, b, 0xFF],
        _ => [b, g, r, 0xFF],
    };
    let mut row = pixel.repeat(width as usize);
    row.extend((0..padding).map(|at| (at * 37) as u8));
    let stride = row.len() as u32;
    Picture { format, width, height, stride, data: Bytes::from(row.repeat(height as usize)) }
}

/// A moving gradient; `number` is the time.
pub fn moving(number: u64, (width, height): (u32, u32)) -> Picture {
    let mut data = Vec::with_capacity(PixelFormat::Bgrx.bytes(width, height));
    for y in 0..height {
        for x in 0..width {
            let at = (u64::from(x + y) + number * 3) as u8;
            data.extend([at, at.wrapping_mul(3), (x * 5) as u8 ^ (y * 7) as u8, 0]);
        }
    }
    Picture { format: PixelFormat::Bgrx, width, height, stride: 4 * width, data: data.into() }
}

/// Blocks of random brightness, which need bits at any rate; `number` is the seed.
pub fn noise(number: u64, (width, height): (u32, u32)) -> Picture {
    let mut data = Vec::with_capacity(PixelFormat::Bgrx.bytes(width, height));
    for y in 0..height {
        for x in 0..width {
            let mut at = u64::from(x / 4) << 40 ^ u64::from(y / 4) << 20 ^ number;
            at = at.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ at >> 29;
            at = at.wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let grey = (at >> 56) as u8;
            data.extend([grey, grey, grey, 0]);
        }
    }
    Picture { format: PixelFormat::Bgrx, width, height, stride: 4 * width, data: data.into() }
}
