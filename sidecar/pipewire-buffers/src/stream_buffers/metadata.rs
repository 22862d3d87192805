//! Reads the chunk and metadata of a dequeued buffer (`spa/buffer/buffer.h`, `spa/buffer/meta.h`).

use std::ptr::NonNull;

use pipewire::spa::sys as spa;
use protocol::Rect;

use super::FilledBuffer;
use super::cursor::{self, CursorMeta, MAX_CURSOR_SIDE, cursor_meta_size};
use crate::shared_mappings::SharedMappings;

/// Maximum number of metas read per buffer.
const MAX_METAS: u32 = 16;
/// Maximum number of damage regions read per buffer.
const MAX_REGIONS: usize = 64;

/// True if the first chunk, all metas that are read, and a first block of kind `MemPtr` are in memory that is mapped and shared.
///
/// # Safety
/// `buffer` belongs to a live `pw_buffer`: `datas` is null or has `n_datas` elements, `metas` is null or has `n_metas` elements.
pub(super) unsafe fn is_mapped(buffer: &spa::spa_buffer, maps: &SharedMappings) -> bool {
    if buffer.n_datas > 0 {
        // SAFETY: by this function's contract `datas` is null, which `as_ref` checks, or has at least one element.
        let Some(data) = (unsafe { buffer.datas.as_ref() }) else { return false };
        if !data.chunk.is_null() && !maps.contain(data.chunk.addr(), size_of::<spa::spa_chunk>()) {
            return false;
        }
        let is_pointer = data.type_ == spa::SPA_DATA_MemPtr && !data.data.is_null();
        if is_pointer && !maps.contain(data.data.addr(), data.maxsize as usize) {
            return false;
        }
    }
    let count = if buffer.metas.is_null() { 0 } else { buffer.n_metas.min(MAX_METAS) as usize };
    (0..count).all(|i| {
        // SAFETY: `metas` is not null and by this function's contract has `n_metas` elements, and i < n_metas.
        let meta = unsafe { buffer.metas.add(i) };
        // SAFETY: `meta` points to an element of `metas`; `spa_meta` is plain data, so it may be copied.
        let meta = unsafe { meta.read() };
        meta.data.is_null() || maps.contain(meta.data.addr(), meta.size as usize)
    })
}

/// Reads a buffer's first chunk and its metas; the cursor, if it has one and `with_cursor`.
///
/// The descriptions (`spa_buffer`, `spa_data`, `spa_meta`) are in this process's memory. The chunk and the contents of
/// the metas are in memory shared with the producer: each is copied once, and the values are unchecked input.
///
/// # Safety
/// `buffer` belongs to a live `pw_buffer`, as libpipewire describes it: `datas` is null or has `n_datas` elements,
/// `metas` is null or has `n_metas` elements, each chunk is null or points to a `spa_chunk`, and each meta's `data` is
/// null or points to `size` bytes.
pub(super) unsafe fn read(
    id: u64,
    buffer: &spa::spa_buffer,
    with_cursor: bool,
) -> (FilledBuffer, Option<CursorMeta>) {
    let mut filled = FilledBuffer { id, corrupted: true, ..FilledBuffer::default() };
    let mut cursor = None;
    if buffer.n_datas == 0 {
        return (filled, cursor);
    }
    // SAFETY: by this function's contract `datas` is null, which `as_ref` checks, or has at least one element.
    let chunk = unsafe { buffer.datas.as_ref() }.and_then(|data| NonNull::new(data.chunk));
    // The daemon chooses the chunk's offset in the memory that it shares, and libpipewire checks no alignment.
    let Some(chunk) = chunk.filter(|chunk| chunk.is_aligned()) else { return (filled, cursor) };
    // SAFETY: by this function's contract the pointer is valid for one `spa_chunk`, whose fields are integers, so every
    // bit pattern is valid; it is aligned, as was just checked. Volatile, because the producer may write it at any time.
    let chunk = unsafe { chunk.as_ptr().read_volatile() };
    filled.offset = chunk.offset;
    filled.size = chunk.size;
    filled.stride = chunk.stride;
    filled.corrupted = chunk.flags & spa::SPA_CHUNK_FLAG_CORRUPTED as i32 != 0;
    if buffer.metas.is_null() {
        return (filled, cursor);
    }
    for i in 0..buffer.n_metas.min(MAX_METAS) as usize {
        // SAFETY: `metas` is not null and by this function's contract has `n_metas` elements, and i < n_metas.
        let meta = unsafe { buffer.metas.add(i) };
        // SAFETY: `meta` points to an element of `metas`; `spa_meta` is plain data, so it may be copied.
        let meta = unsafe { meta.read() };
        let Some(data) = NonNull::new(meta.data) else { continue };
        let size = meta.size as usize;
        if meta.type_ == spa::SPA_META_Header && size >= size_of::<spa::spa_meta_header>() {
            // SAFETY: by this function's contract `data` points to `size` bytes, which suffice for a header. The read
            // makes no assumption on alignment, and every bit pattern is a valid header: its fields are integers.
            let header = unsafe { data.cast::<spa::spa_meta_header>().read_unaligned() };
            filled.pts = header.pts;
            filled.corrupted |= header.flags & spa::SPA_META_HEADER_FLAG_CORRUPTED != 0;
        } else if meta.type_ == spa::SPA_META_VideoDamage {
            let count = (size / size_of::<spa::spa_meta_region>()).min(MAX_REGIONS);
            let regions = (0..count).map(|i| {
                // SAFETY: by this function's contract `data` points to `size` bytes, which hold `count` regions, and
                // i < count.
                let region = unsafe { data.cast::<spa::spa_meta_region>().add(i) };
                // SAFETY: `region` points to one of those regions. The read makes no assumption on alignment, and
                // every bit pattern is a valid region: its fields are integers.
                unsafe { region.read_unaligned() }.region
            });
            filled.damage = bounding_box(regions);
        } else if with_cursor && meta.type_ == spa::SPA_META_Cursor {
            let size = size.min(cursor_meta_size(MAX_CURSOR_SIDE));
            // SAFETY: by this function's contract `data` points to `size` bytes.
            cursor = unsafe { cursor::read(data, size) };
        }
    }
    (filled, cursor)
}

/// Bounding box of the regions before the first empty one, which ends the list.
fn bounding_box(regions: impl Iterator<Item = spa::spa_region>) -> Option<Rect> {
    let limit = protocol::pixel::MAX_SIDE;
    regions.take_while(|region| region.size.width > 0 && region.size.height > 0).fold(None, |all, region| {
        let [x, y] = [region.position.x, region.position.y].map(|n| n.max(0) as u32).map(|n| n.min(limit));
        let [width, height] = [region.size.width, region.size.height].map(|n| n.min(limit));
        Some(all.unwrap_or_default().union(Rect { x, y, width, height }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(x: i32, y: i32, width: u32, height: u32) -> spa::spa_region {
        spa::spa_region { position: spa::spa_point { x, y }, size: spa::spa_rectangle { width, height } }
    }

    #[test]
    fn damage_ends_at_the_first_empty_region() {
        assert_eq!(bounding_box([region(0, 0, 0, 0), region(1, 1, 1, 1)].into_iter()), None);
        let two = [region(10, 10, 5, 5), region(30, 0, 1, 1), region(0, 0, 0, 0), region(0, 0, 99, 99)];
        assert_eq!(bounding_box(two.into_iter()), Some(Rect { x: 10, y: 0, width: 21, height: 15 }));
    }

    #[test]
    fn damage_out_of_range_does_not_overflow() {
        let wild = region(i32::MIN, i32::MAX, u32::MAX, u32::MAX);
        let wild = bounding_box([wild].into_iter()).expect("a rectangle");
        assert!(wild.x + wild.width <= 2 * protocol::pixel::MAX_SIDE);
    }

    #[test]
    fn chunk_header_and_damage_are_read() {
        let mut chunk = spa::spa_chunk { offset: 16, size: 400, stride: 40, flags: 0 };
        let mut data = spa::spa_data {
            type_: spa::SPA_DATA_MemFd,
            flags: 0,
            fd: 5,
            mapoffset: 0,
            maxsize: 4096,
            data: std::ptr::null_mut(),
            chunk: &raw mut chunk,
        };
        let mut header = spa::spa_meta_header { flags: 0, offset: 0, pts: 77, dts_offset: 0, seq: 1 };
        let mut damage = [region(1, 2, 3, 4), region(0, 0, 0, 0)];
        let mut metas = [
            spa::spa_meta { type_: spa::SPA_META_Header, size: 32, data: (&raw mut header).cast() },
            spa::spa_meta { type_: spa::SPA_META_VideoDamage, size: 32, data: (&raw mut damage).cast() },
            // One byte too short for a header: ignored.
            spa::spa_meta { type_: spa::SPA_META_Header, size: 31, data: (&raw mut header).cast() },
        ];
        let buffer =
            spa::spa_buffer { n_metas: 3, n_datas: 1, metas: metas.as_mut_ptr(), datas: &raw mut data };
        // SAFETY: `metas` has 3 elements and `datas` 1; the pointers in them are to live locals of the stated sizes.
        let (filled, cursor) = unsafe { read(9, &buffer, true) };
        assert_eq!(cursor, None);
        assert_eq!((filled.id, filled.offset, filled.size, filled.stride), (9, 16, 400, 40));
        assert_eq!((filled.pts, filled.corrupted), (77, false));
        assert_eq!(filled.damage, Some(Rect { x: 1, y: 2, width: 3, height: 4 }));
    }

    #[test]
    fn buffer_is_mapped_if_all_of_its_parts_are_in_shared_memory() {
        let mut memory = [0_u64; 64];
        let start = memory.as_mut_ptr().addr();
        let line =
            |from: usize, to: usize, kind| format!("{from:x}-{to:x} rw-{kind} 00000000 00:01 7 /memfd:x\n");
        let mut data = spa::spa_data {
            type_: spa::SPA_DATA_MemFd,
            flags: 0,
            fd: 5,
            mapoffset: 0,
            maxsize: 1 << 20,
            data: std::ptr::null_mut(),
            chunk: memory.as_mut_ptr().cast(),
        };
        let mut meta =
            spa::spa_meta { type_: spa::SPA_META_Cursor, size: 256, data: memory.as_mut_ptr().cast() };
        let check = |data: &mut spa::spa_data, meta: &mut spa::spa_meta, maps: &str| {
            let buffer = spa::spa_buffer { n_metas: 1, n_datas: 1, metas: meta, datas: data };
            // SAFETY: both arrays have one element.
            unsafe { is_mapped(&buffer, &SharedMappings::parse(maps)) }
        };
        let shared = line(start, start + 512, 's');
        assert!(check(&mut data, &mut meta, &shared));
        assert!(!check(&mut data, &mut meta, &line(start, start + 512, 'p')), "private memory");
        assert!(!check(&mut data, &mut meta, &line(start + 8, start + 512, 's')), "the chunk is outside");
        meta.size = 513;
        assert!(!check(&mut data, &mut meta, &shared), "the metadata ends outside");
        meta.size = u32::MAX;
        assert!(!check(&mut data, &mut meta, &shared), "the metadata ends outside");
        meta.size = 512;
        assert!(check(&mut data, &mut meta, &shared));
        data.type_ = spa::SPA_DATA_MemPtr;
        data.data = memory.as_mut_ptr().cast();
        assert!(!check(&mut data, &mut meta, &shared), "the block ends outside");
        data.maxsize = 512;
        assert!(check(&mut data, &mut meta, &shared));
    }

    #[test]
    fn chunk_at_an_odd_address_is_not_read() {
        let mut chunks = [spa::spa_chunk { offset: 16, size: 400, stride: 40, flags: 0 }; 2];
        let mut data = spa::spa_data {
            type_: spa::SPA_DATA_MemFd,
            flags: 0,
            fd: 5,
            mapoffset: 0,
            maxsize: 4096,
            data: std::ptr::null_mut(),
            chunk: (&raw mut chunks).cast::<u8>().wrapping_add(1).cast(),
        };
        let buffer =
            spa::spa_buffer { n_metas: 0, n_datas: 1, metas: std::ptr::null_mut(), datas: &raw mut data };
        // SAFETY: `datas` has one element, whose chunk lies in `chunks`.
        let (filled, _) = unsafe { read(9, &buffer, true) };
        assert!(filled.corrupted && filled.size == 0, "{filled:?}");
    }

    #[test]
    fn buffer_without_data_is_corrupted() {
        let buffer = spa::spa_buffer {
            n_metas: 0,
            n_datas: 0,
            metas: std::ptr::null_mut(),
            datas: std::ptr::null_mut(),
        };
        // SAFETY: both arrays are empty and null.
        assert!(unsafe { read(9, &buffer, true) }.0.corrupted);
    }
}
