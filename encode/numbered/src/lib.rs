//! Test pattern that encodes its frame number: drawing frame `n`, and reading `n` back.
//!
//! The picture is a grid of 16 x 9 cells. Cell (i, j) covers `x` from `width * i / 16` to
//! `width * (i + 1) / 16` and `y` from `height * j / 9` to `height * (j + 1) / 9` (integer division), so
//! every size from 16 x 9 pixels works, also an odd one. Each cell has one colour:
//!
//! | rows | colour                                                                       |
//! |------|------------------------------------------------------------------------------|
//! | 0    | bits 31..16 of the frame number from left to right, white for 1, black for 0 |
//! | 1    | bits 15..0                                                                   |
//! | 2–6  | [`colour`]: changes with every frame in every cell and channel               |
//! | 7    | complement of row 0                                                          |
//! | 8    | complement of row 1                                                          |
//!
//! The number is at the top and its complement at the bottom, so a picture with halves of two frames is
//! detected as torn, and so is a buffer that was not drawn to.

#![forbid(unsafe_code)]

use protocol::{PixelFormat, Rect};

/// Number of columns of cells.
pub const COLUMNS: u32 = 16;
/// Number of rows of cells.
pub const ROWS: u32 = 9;
/// Number of cells.
pub const CELLS: usize = (COLUMNS * ROWS) as usize;

/// Largest difference of an NV12 byte in [`verify_exact`]: converters round differently.
const NV12_TOLERANCE: u8 = 2;
/// Luma, 0 to 255, below which a cell counts as black. Above its complement it counts as white.
const DARK: u32 = 96;

/// No frame number could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Torn {
    /// Top and bottom have different numbers.
    #[error("torn: the top is of frame {top}, the bottom of frame {bottom}")]
    Disagree {
        /// Number in the top rows.
        top: u32,
        /// Complement of the number in the bottom rows.
        bottom: u32,
    },
    /// A cell of the number is neither black nor white.
    #[error("cell {column},{row} is neither black nor white: its luma is {luma} of 255")]
    Grey {
        /// Column of the cell.
        column: u32,
        /// Row of the cell.
        row: u32,
        /// Mean luma of the cell, 0 to 255.
        luma: u32,
    },
    /// The picture has fewer pixels than cells.
    #[error("the picture has {width}x{height} pixels, but must have at least 16x9")]
    TooSmall {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// The data is too short, or the stride is shorter than a row.
    #[error("the picture needs {need} bytes, but has {have}")]
    Short {
        /// Number of bytes that size, stride and format need.
        need: usize,
        /// Number of bytes.
        have: usize,
    },
}

/// The cell at `column`, `row` in a picture of `width` x `height` pixels.
pub const fn cell(column: u32, row: u32, width: u32, height: u32) -> Rect {
    let (x, y) = (width * column / COLUMNS, height * row / ROWS);
    Rect { x, y, width: width * (column + 1) / COLUMNS - x, height: height * (row + 1) / ROWS - y }
}

/// Red, green and blue of the cell at `column`, `row` of frame `frame`.
pub const fn colour(column: u32, row: u32, frame: u32) -> [u8; 3] {
    let bit = match row {
        0 | 7 => 31 - column,
        1 | 8 => 15 - column,
        _ => {
            // With odd factors every channel changes from frame to frame; the shifted terms prevent a
            // repetition after 256 frames.
            let cell = row * COLUMNS + column;
            let red = frame.wrapping_mul(37).wrapping_add(cell * 29);
            let green =
                frame.wrapping_mul(101).wrapping_add((frame >> 8).wrapping_mul(54)).wrapping_add(cell * 17);
            let blue =
                frame.wrapping_mul(151).wrapping_add((frame >> 16).wrapping_mul(98)).wrapping_add(cell * 71);
            return [red as u8, green as u8, blue as u8];
        }
    };
    let number = if row < 2 { frame } else { !frame };
    if number >> bit & 1 == 1 { [255; 3] } else { [0; 3] }
}

/// All cells of frame `frame`, row by row, with red, green and blue.
pub fn cells(frame: u32, width: u32, height: u32) -> impl Iterator<Item = (Rect, [u8; 3])> {
    (0..ROWS).flat_map(move |row| {
        (0..COLUMNS).map(move |column| (cell(column, row, width, height), colour(column, row, frame)))
    })
}

/// Draws frame `frame`. `stride` is the distance between rows in bytes; for NV12 it is that of both planes,
/// and the second plane begins at `stride * height`. The fourth byte of a pixel is set to 255.
///
/// # Errors
/// If the picture is smaller than the grid, or `bytes` too short.
pub fn draw(
    frame: u32,
    bytes: &mut [u8],
    width: u32,
    height: u32,
    stride: u32,
    format: PixelFormat,
) -> Result<(), Torn> {
    check(bytes.len(), width, height, stride, format)?;
    let stride = stride as usize;
    for (rect, rgb) in cells(frame, width, height) {
        let rows = rect.y as usize..(rect.y + rect.height) as usize;
        let columns = rect.x as usize..(rect.x + rect.width) as usize;
        for y in rows {
            let row = &mut bytes[y * stride..];
            if format == PixelFormat::Nv12 {
                row[columns.clone()].fill(luma_limited(rgb));
            } else {
                let pixel = pixel(rgb, format);
                for target in row[4 * columns.start..4 * columns.end].chunks_exact_mut(4) {
                    target.copy_from_slice(&pixel);
                }
            }
        }
    }
    if format == PixelFormat::Nv12 {
        let map = Map::new(frame, width, height);
        for y in 0..height.div_ceil(2) {
            let row = &mut bytes[(height + y) as usize * stride..];
            for x in 0..width.div_ceil(2) {
                row[2 * x as usize..][..2].copy_from_slice(&map.chroma(2 * x, 2 * y));
            }
        }
    }
    Ok(())
}

/// Reads the frame number from the centres of the cells, so that it works after lossy coding. For NV12 only
/// the Y plane is read, so the Y plane of any 4:2:0 picture may be passed.
///
/// # Errors
/// If the picture is torn, not of this pattern, or too short.
pub fn read_number(
    bytes: &[u8],
    width: u32,
    height: u32,
    stride: u32,
    format: PixelFormat,
) -> Result<u32, Torn> {
    // Only the first plane is needed.
    let plane = if format == PixelFormat::Nv12 { 1 } else { 4 };
    check_plane(bytes.len(), width, height, stride, plane)?;
    let read = |first_row: u32| {
        let mut number = 0;
        for row in first_row..first_row + 2 {
            for column in 0..COLUMNS {
                let luma = centre_luma(bytes, cell(column, row, width, height), stride, format);
                if (DARK..=255 - DARK).contains(&luma) {
                    return Err(Torn::Grey { column, row, luma });
                }
                number = number << 1 | u32::from(luma > 127);
            }
        }
        Ok(number)
    };
    let (top, bottom) = (read(0)?, !read(ROWS - 2)?);
    if top == bottom { Ok(top) } else { Err(Torn::Disagree { top, bottom }) }
}

/// Counts the pixels that differ from frame `frame`: 0 for a lossless path. The fourth byte of a pixel is
/// ignored. NV12 is BT.709, limited range; a byte may differ by 2. Its Cb, Cr pairs count as pixels, except
/// those on the edge of a cell, which depend on the converter's filter.
///
/// # Errors
/// If the picture is smaller than the grid, or `bytes` too short.
pub fn verify_exact(
    frame: u32,
    bytes: &[u8],
    width: u32,
    height: u32,
    stride: u32,
    format: PixelFormat,
) -> Result<u64, Torn> {
    check(bytes.len(), width, height, stride, format)?;
    let stride = stride as usize;
    let mut wrong = 0;
    for (rect, rgb) in cells(frame, width, height) {
        for y in rect.y..rect.y + rect.height {
            let row = &bytes[y as usize * stride..];
            let columns = rect.x as usize..(rect.x + rect.width) as usize;
            wrong += if format == PixelFormat::Nv12 {
                let want = luma_limited(rgb);
                row[columns].iter().filter(|have| have.abs_diff(want) > NV12_TOLERANCE).count()
            } else {
                let want = pixel(rgb, format);
                let row = &row[4 * columns.start..4 * columns.end];
                row.chunks_exact(4).filter(|have| have[..3] != want[..3]).count()
            };
        }
    }
    if format == PixelFormat::Nv12 {
        let map = Map::new(frame, width, height);
        for y in 0..height.div_ceil(2) {
            let row = &bytes[(height + y) as usize * stride..];
            for x in (0..width.div_ceil(2)).filter(|x| map.is_flat(2 * x, 2 * y)) {
                let want = map.chroma(2 * x, 2 * y);
                let have = &row[2 * x as usize..][..2];
                wrong += usize::from(want.iter().zip(have).any(|(a, b)| a.abs_diff(*b) > NV12_TOLERANCE));
            }
        }
    }
    Ok(wrong as u64)
}

fn check_plane(have: usize, width: u32, height: u32, stride: u32, pixel: u32) -> Result<(), Torn> {
    if width < COLUMNS || height < ROWS {
        return Err(Torn::TooSmall { width, height });
    }
    let row = width as usize * pixel as usize;
    let need = stride as usize * (height as usize - 1) + row;
    if have < need || (stride as usize) < row { Err(Torn::Short { need, have }) } else { Ok(()) }
}

fn check(have: usize, width: u32, height: u32, stride: u32, format: PixelFormat) -> Result<(), Torn> {
    if format != PixelFormat::Nv12 {
        return check_plane(have, width, height, stride, 4);
    }
    check_plane(have, width, height, stride, 1)?;
    let row = 2 * width.div_ceil(2) as usize;
    let rows = height as usize + height.div_ceil(2) as usize;
    let need = stride as usize * (rows - 1) + row;
    if have < need || (stride as usize) < row { Err(Torn::Short { need, have }) } else { Ok(()) }
}

/// The four bytes of a pixel.
const fn pixel([r, g, b]: [u8; 3], format: PixelFormat) -> [u8; 4] {
    match format {
        PixelFormat::Rgbx | PixelFormat::Rgba => [r, g, b, 255],
        PixelFormat::Bgrx | PixelFormat::Bgra | PixelFormat::Nv12 => [b, g, r, 255],
    }
}

/// Luma of BT.709 (ITU-R BT.709, table 3), full range, times 10,000.
const fn luma([r, g, b]: [i32; 3]) -> i32 {
    2126 * r + 7152 * g + 722 * b
}

/// Y of BT.709, limited range: 16..=235.
const fn luma_limited([r, g, b]: [u8; 3]) -> u8 {
    (16 + rounded(luma([r as i32, g as i32, b as i32]) * 219, 10_000 * 255)) as u8
}

const fn rounded(value: i32, by: i32) -> i32 {
    (value + by.signum() * value.signum() * by / 2) / by
}

/// Mean luma, 0..=255, of up to 5 x 5 pixels in the middle of a cell.
fn centre_luma(bytes: &[u8], cell: Rect, stride: u32, format: PixelFormat) -> u32 {
    let reach = (cell.width.min(cell.height) / 4).min(2);
    let (x, y) = (cell.x + cell.width / 2, cell.y + cell.height / 2);
    let (mut sum, mut count) = (0, 0);
    for row in y - reach..=y + reach {
        let row = &bytes[row as usize * stride as usize..];
        for column in (x - reach) as usize..=(x + reach) as usize {
            sum += match format {
                PixelFormat::Nv12 => (u32::from(row[column]).saturating_sub(16) * 255 / 219).min(255),
                PixelFormat::Bgrx | PixelFormat::Bgra | PixelFormat::Rgbx | PixelFormat::Rgba => {
                    let mut rgb = [0, 1, 2].map(|at| i32::from(row[4 * column + at]));
                    if matches!(format, PixelFormat::Bgrx | PixelFormat::Bgra) {
                        rgb.reverse();
                    }
                    (luma(rgb) / 10_000) as u32
                }
            };
            count += 1;
        }
    }
    sum / count
}

/// Maps pixels to cells, for the chroma of NV12.
struct Map {
    colours: Vec<[u8; 3]>,
    width: u32,
    height: u32,
}

impl Map {
    fn new(frame: u32, width: u32, height: u32) -> Self {
        Self { colours: cells(frame, width, height).map(|(_, rgb)| rgb).collect(), width, height }
    }

    /// Index of the cell with pixel x, y; beyond the right and bottom edge that of the last pixel. Its column
    /// is the largest one whose left edge `width * column / 16` is at most `x`.
    fn cell_at(&self, x: u32, y: u32) -> usize {
        let (x, y) = (x.min(self.width - 1), y.min(self.height - 1));
        let column = (COLUMNS * (x + 1) - 1) / self.width;
        let row = (ROWS * (y + 1) - 1) / self.height;
        (row * COLUMNS + column) as usize
    }

    fn block(&self, x: u32, y: u32) -> [usize; 4] {
        [(0, 0), (1, 0), (0, 1), (1, 1)].map(|(dx, dy)| self.cell_at(x + dx, y + dy))
    }

    /// True if the 2 x 2 block at x, y lies in one cell.
    fn is_flat(&self, x: u32, y: u32) -> bool {
        let [first, rest @ ..] = self.block(x, y);
        rest.iter().all(|cell| *cell == first)
    }

    /// Cb and Cr of the mean colour of the 2 x 2 block at x, y; BT.709, limited range.
    fn chroma(&self, x: u32, y: u32) -> [u8; 2] {
        let mut sum = [0; 3];
        for cell in self.block(x, y) {
            for (sum, channel) in sum.iter_mut().zip(self.colours[cell]) {
                *sum += i32::from(channel);
            }
        }
        let mean = sum.map(|sum| (sum + 2) / 4);
        let ([red, _, blue], luma) = (mean, luma(mean));
        // (B - Y) / 1.8556 and (R - Y) / 1.5748, scaled from 255 to a range of 224 around 128.
        let cb = 128 + rounded((10_000 * blue - luma) / 100 * 224, 255 * 18_556 / 100);
        let cr = 128 + rounded((10_000 * red - luma) / 100 * 224, 255 * 15_748 / 100);
        [cb as u8, cr as u8]
    }
}

#[cfg(test)]
mod tests;
