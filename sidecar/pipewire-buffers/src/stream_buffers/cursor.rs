//! Reads the cursor of a buffer's metadata (`struct spa_meta_cursor`, `struct spa_meta_bitmap` of `spa/buffer/meta.h`).

use std::ptr::NonNull;

use pipewire::spa::sys as spa;

/// Maximum width and height of a cursor's bitmap, pixels. Mutter reserves memory for this size.
pub const MAX_CURSOR_SIDE: u32 = 384;
/// Bytes per pixel of the formats that are read.
const PIXEL_BYTES: usize = 4;

/// Size of the metadata of a cursor with a bitmap of `side` × `side` pixels, bytes.
pub const fn cursor_meta_size(side: u32) -> usize {
    size_of::<spa::spa_meta_cursor>()
        + size_of::<spa::spa_meta_bitmap>()
        + side as usize * side as usize * PIXEL_BYTES
}

/// Order of the bytes of a pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CursorFormat {
    /// Red, green, blue, alpha.
    Rgba,
    /// Blue, green, red, alpha.
    Bgra,
}

/// Bitmap of a cursor. All values are set by the producer; the sizes are checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorBitmap {
    /// Order of the bytes of a pixel. Colours are multiplied by alpha.
    pub format: CursorFormat,
    /// Width in pixels, 1 to [`MAX_CURSOR_SIDE`].
    pub width: u32,
    /// Height in pixels, 1 to [`MAX_CURSOR_SIDE`].
    pub height: u32,
    /// Position of the hotspot in the bitmap, pixels; may be outside.
    pub hotspot: (i32, i32),
    /// Pixels, `width * height * 4` bytes without padding.
    pub pixels: Vec<u8>,
}

/// Shape of a cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CursorShape {
    /// The program under the pointer hides the cursor.
    Hidden,
    /// A bitmap.
    Bitmap(CursorBitmap),
    /// A bitmap that cannot be read: too large, or in another format.
    Unsupported,
}

/// State of the pointer in a buffer's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorMeta {
    /// Position of the hotspot in the picture, pixels; `None` if the pointer is elsewhere.
    pub position: Option<(i32, i32)>,
    /// Shape, if it changed.
    pub shape: Option<CursorShape>,
}

/// Reads a cursor of `size` bytes. `None` if it is too short.
///
/// The memory is shared with the producer: each part is copied once, and the copies are unchecked input.
///
/// # Safety
/// `data` points to `size` readable bytes.
pub unsafe fn read(data: NonNull<std::ffi::c_void>, size: usize) -> Option<CursorMeta> {
    if size < size_of::<spa::spa_meta_cursor>() {
        return None;
    }
    // SAFETY: by this function's contract `data` points to `size` bytes, which suffice for a cursor. The read makes no
    // assumption on alignment, and every bit pattern is valid: its fields are integers.
    let cursor = unsafe { data.cast::<spa::spa_meta_cursor>().read_unaligned() };
    if cursor.id == 0 {
        return Some(CursorMeta { position: None, shape: None });
    }
    let position = Some((cursor.position.x, cursor.position.y));
    let at = cursor.bitmap_offset as usize;
    if at < size_of::<spa::spa_meta_cursor>() {
        return Some(CursorMeta { position, shape: None });
    }
    let unsupported = Some(CursorMeta { position, shape: Some(CursorShape::Unsupported) });
    let left = size.saturating_sub(at);
    if left < size_of::<spa::spa_meta_bitmap>() {
        return unsupported;
    }
    // SAFETY: at <= size, so the result is inside of the `size` bytes or one past them.
    let bitmap_data = unsafe { data.cast::<u8>().add(at) };
    // SAFETY: at least a bitmap's header is left from `at`. The read makes no assumption on alignment, and every bit
    // pattern is valid: its fields are integers.
    let bitmap = unsafe { bitmap_data.cast::<spa::spa_meta_bitmap>().read_unaligned() };
    let (width, height) = (bitmap.size.width, bitmap.size.height);
    if bitmap.format == 0 || bitmap.offset == 0 || width == 0 || height == 0 {
        return Some(CursorMeta { position, shape: Some(CursorShape::Hidden) });
    }
    let format = match bitmap.format {
        spa::SPA_VIDEO_FORMAT_RGBA => CursorFormat::Rgba,
        spa::SPA_VIDEO_FORMAT_BGRA => CursorFormat::Bgra,
        _ => return unsupported,
    };
    let row = width as usize * PIXEL_BYTES;
    let Ok(stride) = usize::try_from(bitmap.stride) else { return unsupported };
    let offset = bitmap.offset as usize;
    if width > MAX_CURSOR_SIDE || height > MAX_CURSOR_SIDE || stride < row {
        return unsupported;
    }
    let end = stride.checked_mul(height as usize - 1).and_then(|rows| rows.checked_add(row + offset));
    if end.is_none_or(|end| end > left) {
        return unsupported;
    }
    let mut pixels = vec![0; row * height as usize];
    for (y, out) in pixels.chunks_exact_mut(row).enumerate() {
        // SAFETY: offset + y * stride + row <= end <= left bytes follow `bitmap_data`, so the result is inside of them.
        let from = unsafe { bitmap_data.add(offset + y * stride) };
        // SAFETY: `row` bytes follow `from`, as above. The destination is an exclusive slice of that length, so the two do
        // not overlap. Bytes need no alignment, and every value is valid; a producer that writes meanwhile can only tear
        // the bitmap.
        unsafe { from.copy_to_nonoverlapping(NonNull::from(&mut *out).cast(), row) };
    }
    let hotspot = (cursor.hotspot.x, cursor.hotspot.y);
    let bitmap = CursorBitmap { format, width, height, hotspot, pixels };
    Some(CursorMeta { position, shape: Some(CursorShape::Bitmap(bitmap)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory of a cursor with a bitmap of 2 × 2 pixels and rows of 12 bytes.
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Memory {
        cursor: spa::spa_meta_cursor,
        bitmap: spa::spa_meta_bitmap,
        pixels: [u8; 20],
    }

    fn memory() -> Memory {
        let bitmap_offset = std::mem::offset_of!(Memory, bitmap) as u32;
        let mut pixels = [0; 20];
        pixels.iter_mut().zip(0..).for_each(|(pixel, value)| *pixel = value);
        Memory {
            cursor: spa::spa_meta_cursor {
                id: 1,
                flags: 0,
                position: spa::spa_point { x: -3, y: 70 },
                hotspot: spa::spa_point { x: 1, y: 0 },
                bitmap_offset,
            },
            bitmap: spa::spa_meta_bitmap {
                format: spa::SPA_VIDEO_FORMAT_RGBA,
                size: spa::spa_rectangle { width: 2, height: 2 },
                stride: 12,
                offset: size_of::<spa::spa_meta_bitmap>() as u32,
            },
            pixels,
        }
    }

    fn read_sized(mut memory: Memory, size: usize) -> Option<CursorMeta> {
        assert!(size <= size_of::<Memory>());
        // SAFETY: `memory` is a live local of at least `size` bytes.
        unsafe { read(NonNull::from(&mut memory).cast(), size) }
    }

    fn shape(change: impl FnOnce(&mut Memory)) -> Option<CursorShape> {
        let mut memory = memory();
        change(&mut memory);
        read_sized(memory, size_of::<Memory>()).expect("a cursor").shape
    }

    #[test]
    fn bitmap_is_read_without_the_padding_of_its_rows() {
        let meta = read_sized(memory(), size_of::<Memory>()).expect("a cursor");
        assert_eq!(meta.position, Some((-3, 70)));
        let Some(CursorShape::Bitmap(bitmap)) = meta.shape else { unreachable!("a bitmap was given") };
        assert_eq!((bitmap.width, bitmap.height, bitmap.hotspot), (2, 2, (1, 0)));
        assert_eq!(bitmap.pixels, [0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 14, 15, 16, 17, 18, 19]);
    }

    #[test]
    fn cursor_without_a_new_bitmap_has_a_position_only() {
        assert_eq!(shape(|memory| memory.cursor.bitmap_offset = 0), None);
        assert_eq!(shape(|memory| memory.bitmap.size.width = 0), Some(CursorShape::Hidden));
        assert_eq!(shape(|memory| memory.bitmap.offset = 0), Some(CursorShape::Hidden));
        let mut elsewhere = memory();
        elsewhere.cursor.id = 0;
        let meta = read_sized(elsewhere, size_of::<Memory>());
        assert_eq!(meta, Some(CursorMeta { position: None, shape: None }));
    }

    #[test]
    fn bitmap_outside_of_its_memory_is_unsupported() {
        type Change = fn(&mut Memory);
        let changes: [Change; 8] = [
            |memory| memory.bitmap.size.height = 3,
            |memory| memory.bitmap.size = spa::spa_rectangle { width: 16_384, height: 16_384 },
            |memory| memory.bitmap.size = spa::spa_rectangle { width: u32::MAX, height: u32::MAX },
            |memory| memory.bitmap.stride = 7,
            |memory| memory.bitmap.stride = i32::MIN,
            |memory| memory.bitmap.stride = i32::MAX,
            |memory| memory.bitmap.offset = u32::MAX,
            |memory| memory.cursor.bitmap_offset = u32::MAX,
        ];
        for (number, change) in changes.into_iter().enumerate() {
            assert_eq!(shape(change), Some(CursorShape::Unsupported), "{number}");
        }
        assert_eq!(shape(|memory| memory.bitmap.format = 99), Some(CursorShape::Unsupported));
        for size in 0..size_of::<Memory>() {
            let meta = read_sized(memory(), size);
            assert_eq!(meta.is_none(), size < size_of::<spa::spa_meta_cursor>(), "{size}");
            let shape = meta.and_then(|meta| meta.shape);
            assert!(!matches!(shape, Some(CursorShape::Bitmap(_))), "{size}");
        }
    }
}
