//! Buffers that PipeWire lends: which are alive, which we have, and what is written on them.
//!
//! PipeWire hands out buffers as raw pointers, good from `add_buffer` to `remove_buffer` of one stream. The
//! crate's own wrapper gives a buffer back at the end of the callback; we keep it for as long as the frame is
//! under way. So this module is a fence: the pointers never leave it, outside a buffer is a number that is
//! never used twice, and a number whose buffer is gone does nothing. It does not know formats or frames.

#![expect(
    unsafe_code,
    reason = "PipeWire lends its buffers by raw pointer; see the module's first paragraphs"
)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::rc::Rc;

use pipewire::spa::sys as spa;
use pipewire::stream::{ListenerLocalBuilder, StreamListener, StreamRc};
use pipewire::sys::pw_buffer;
use protocol::Rect;

/// Buffers, metas and damage regions looked at, at most; PipeWire's own limit on buffers is 64.
const MAX_BUFFERS: usize = 64;
const MAX_METAS: u32 = 16;
const MAX_REGIONS: usize = 64;

/// How a buffer's memory is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// By mapping a descriptor.
    MemFd,
    /// By importing a descriptor.
    DmaBuf,
    /// In PipeWire's own memory, by [`Lent::copy_out`] only.
    MemPtr,
    /// In another way.
    Other(u32),
}

/// A new buffer.
#[derive(Debug, Clone, Copy)]
pub struct Added {
    /// Our number for it.
    pub id: u64,
    /// How to reach its memory.
    pub kind: Kind,
    /// The descriptor; PipeWire's, so it is duplicated before use.
    pub fd: RawFd,
    /// Where in the descriptor's file it begins.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
    /// Blocks of memory; a 32-bit RGB picture has one.
    pub blocks: u32,
}

/// What a filled buffer says of itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filled {
    /// Our number for it.
    pub id: u64,
    /// Where in the buffer the picture begins.
    pub offset: u32,
    /// Bytes of the picture.
    pub size: u32,
    /// Bytes from row to row.
    pub stride: i32,
    /// The producer says that it is no good.
    pub corrupted: bool,
    /// When it was made, in ns of the producer's clock; 0 if not said.
    pub pts: i64,
    /// What changed, if that was said.
    pub damage: Option<Rect>,
}

#[derive(Debug)]
struct Buffer {
    pointer: NonNull<pw_buffer>,
    /// Dequeued and not queued back.
    ours: bool,
}

/// The buffers of one stream.
#[derive(Debug)]
pub struct Lent {
    stream: StreamRc,
    live: RefCell<BTreeMap<u64, Buffer>>,
    added: RefCell<Vec<Added>>,
    removed: RefCell<Vec<u64>>,
    next: Cell<u64>,
}

/// Keeps the buffers' comings and goings known; when it ends, no buffer is.
pub struct Watch<D> {
    _listener: StreamListener<D>,
    lent: Rc<Lent>,
}

impl<D> Drop for Watch<D> {
    fn drop(&mut self) {
        // From now on nobody tells when a pointer dies.
        self.lent.live.borrow_mut().clear();
    }
}

impl Lent {
    /// No buffers of `stream` yet.
    pub fn new(stream: StreamRc) -> Rc<Self> {
        Rc::new(Self {
            stream,
            live: RefCell::default(),
            added: RefCell::default(),
            removed: RefCell::default(),
            next: Cell::new(1),
        })
    }

    /// The stream that they are of.
    pub fn stream(&self) -> &StreamRc {
        &self.stream
    }

    /// Registers `listener`, of this stream, with the buffers' events added.
    pub fn watch<D: 'static>(
        self: &Rc<Self>,
        listener: ListenerLocalBuilder<'_, D>,
    ) -> Result<Watch<D>, pipewire::Error> {
        let (add, remove) = (Rc::clone(self), Rc::clone(self));
        let own = self.stream.as_raw_ptr();
        let listener = listener
            .add_buffer(move |stream, _, pointer| {
                if stream.as_raw_ptr() == own {
                    add.add(pointer);
                }
            })
            .remove_buffer(move |_, _, pointer| remove.remove(pointer))
            .register()?;
        Ok(Watch { _listener: listener, lent: Rc::clone(self) })
    }

    /// Buffers that are new since the last call.
    pub fn take_added(&self) -> Vec<Added> {
        self.added.take()
    }

    /// Buffers that are gone since the last call.
    pub fn take_removed(&self) -> Vec<u64> {
        self.removed.take()
    }

    /// Called in `add_buffer` only, where `pointer` is good until `remove_buffer`.
    fn add(&self, pointer: *mut pw_buffer) {
        let Some(pointer) = NonNull::new(pointer) else { return };
        if self.live.borrow().len() >= MAX_BUFFERS {
            return;
        }
        let id = self.next.get();
        self.next.set(id + 1);
        let mut added = Added { id, kind: Kind::Other(0), fd: -1, offset: 0, len: 0, blocks: 0 };
        // SAFETY: PipeWire made this buffer and calls us with it; it is not changed while we look.
        let buffer = unsafe { pointer.as_ref() }.buffer;
        // SAFETY: `pw_buffer.buffer` is null or points to the `spa_buffer` that lives as long as it.
        if let Some(buffer) = unsafe { buffer.as_ref() } {
            added.blocks = buffer.n_datas;
            if buffer.n_datas > 0 {
                // SAFETY: `datas` has `n_datas` elements, one at least, or is null.
                if let Some(data) = unsafe { buffer.datas.as_ref() } {
                    added.kind = match data.type_ {
                        spa::SPA_DATA_MemFd => Kind::MemFd,
                        spa::SPA_DATA_DmaBuf => Kind::DmaBuf,
                        spa::SPA_DATA_MemPtr => Kind::MemPtr,
                        other => Kind::Other(other),
                    };
                    added.fd = RawFd::try_from(data.fd).unwrap_or(-1);
                    added.offset = data.mapoffset;
                    added.len = data.maxsize;
                }
            }
        }
        self.live.borrow_mut().insert(id, Buffer { pointer, ours: false });
        self.added.borrow_mut().push(added);
    }

    fn remove(&self, pointer: *mut pw_buffer) {
        let gone = self.id_of(pointer);
        if let Some(id) = gone {
            self.live.borrow_mut().remove(&id);
            self.added.borrow_mut().retain(|added| added.id != id);
            self.removed.borrow_mut().push(id);
        }
    }

    fn id_of(&self, pointer: *mut pw_buffer) -> Option<u64> {
        self.live.borrow().iter().find(|(_, buffer)| buffer.pointer.as_ptr() == pointer).map(|(id, _)| *id)
    }

    /// Takes the next filled buffer; it is ours until [`Self::give_back`].
    pub fn dequeue(&self) -> Option<Filled> {
        loop {
            // SAFETY: null means that there is none; what is not null we queue back, here or in `give_back`.
            let pointer = unsafe { self.stream.dequeue_raw_buffer() };
            if pointer.is_null() {
                return None;
            }
            let Some(id) = self.id_of(pointer) else {
                // SAFETY: just dequeued from this stream.
                unsafe { self.stream.queue_raw_buffer(pointer) };
                continue;
            };
            if let Some(buffer) = self.live.borrow_mut().get_mut(&id) {
                buffer.ours = true;
            }
            // SAFETY: alive, as it is in `live`; PipeWire does not touch the descriptions of a buffer that it
            // has dequeued to us.
            let buffer = unsafe { &*pointer }.buffer;
            // SAFETY: as in `add`.
            let filled = unsafe { buffer.as_ref() }.map(|buffer| read(id, buffer));
            return Some(filled.unwrap_or_else(|| Filled { id, corrupted: true, ..Filled::default() }));
        }
    }

    /// Copies a picture out of a buffer that is ours, of kind [`Kind::MemPtr`]; false if it is not all there.
    pub fn copy_out(&self, id: u64, offset: usize, out: &mut [u8]) -> bool {
        let live = self.live.borrow();
        let Some(buffer) = live.get(&id).filter(|buffer| buffer.ours) else { return false };
        // SAFETY: alive, as it is in `live`.
        let buffer = unsafe { buffer.pointer.as_ref() }.buffer;
        // SAFETY: as in `add`.
        let Some(buffer) = (unsafe { buffer.as_ref() }) else { return false };
        if buffer.n_datas == 0 {
            return false;
        }
        // SAFETY: `datas` has `n_datas` elements, one at least, or is null.
        let Some(data) = (unsafe { buffer.datas.as_ref() }) else { return false };
        let end = offset.checked_add(out.len());
        if data.type_ != spa::SPA_DATA_MemPtr
            || data.data.is_null()
            || end.is_none_or(|end| end > data.maxsize as usize)
        {
            return false;
        }
        // SAFETY: `data` points to `maxsize` bytes, mapped for as long as the buffer lives; `offset` is inside.
        let from = unsafe { data.data.cast::<u8>().add(offset) };
        // SAFETY: `out.len()` bytes from there are inside too, and `out` is ours alone. The producer may not write
        // a buffer that is ours; if it does, bytes tear, and every byte is a valid one.
        unsafe { from.copy_to_nonoverlapping(out.as_mut_ptr(), out.len()) };
        true
    }

    /// Gives a buffer back to the producer, if it is still alive and ours.
    pub fn give_back(&self, id: u64) {
        let pointer = match self.live.borrow_mut().get_mut(&id) {
            Some(buffer) if buffer.ours => {
                buffer.ours = false;
                buffer.pointer.as_ptr()
            }
            _ => return,
        };
        // SAFETY: dequeued from this stream (`ours`), not queued since, and not removed (in `live`).
        unsafe { self.stream.queue_raw_buffer(pointer) };
    }
}

/// Reads what is written on a buffer. Chunk and metas are in memory that the producer shares, so they are
/// copied out once, and nothing in them is believed.
fn read(id: u64, buffer: &spa::spa_buffer) -> Filled {
    let mut filled = Filled { id, corrupted: true, ..Filled::default() };
    if buffer.n_datas == 0 {
        return filled;
    }
    // SAFETY: `datas` has `n_datas` elements, one at least, or is null.
    let chunk = unsafe { buffer.datas.as_ref() }.and_then(|data| NonNull::new(data.chunk));
    let Some(chunk) = chunk else { return filled };
    // SAFETY: a data's chunk is alive as long as its buffer; volatile, because the producer shares it.
    let chunk = unsafe { chunk.as_ptr().read_volatile() };
    filled.offset = chunk.offset;
    filled.size = chunk.size;
    filled.stride = chunk.stride;
    filled.corrupted = chunk.flags & spa::SPA_CHUNK_FLAG_CORRUPTED as i32 != 0;
    if buffer.metas.is_null() {
        return filled;
    }
    for i in 0..buffer.n_metas.min(MAX_METAS) as usize {
        // SAFETY: `metas` has `n_metas` elements.
        let meta = unsafe { buffer.metas.add(i) };
        // SAFETY: as above; a plain copy.
        let meta = unsafe { meta.read() };
        let Some(data) = NonNull::new(meta.data) else { continue };
        let size = meta.size as usize;
        if meta.type_ == spa::SPA_META_Header && size >= size_of::<spa::spa_meta_header>() {
            // SAFETY: the meta has at least the bytes of a header; unaligned, as nobody vouches for that.
            let header = unsafe { data.cast::<spa::spa_meta_header>().read_unaligned() };
            filled.pts = header.pts;
            filled.corrupted |= header.flags & spa::SPA_META_HEADER_FLAG_CORRUPTED != 0;
        } else if meta.type_ == spa::SPA_META_VideoDamage {
            let count = (size / size_of::<spa::spa_meta_region>()).min(MAX_REGIONS);
            let regions = (0..count).map(|i| {
                // SAFETY: the meta has at least `count` regions.
                let at = unsafe { data.cast::<spa::spa_meta_region>().add(i) };
                // SAFETY: as above; unaligned, as nobody vouches for that.
                unsafe { at.read_unaligned() }.region
            });
            filled.damage = union(regions);
        }
    }
    filled
}

/// The smallest rectangle around the regions before the first empty one.
fn union(regions: impl Iterator<Item = spa::spa_region>) -> Option<Rect> {
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
    fn damage_ends_at_the_first_empty_region_and_cannot_overflow() {
        assert_eq!(union([region(0, 0, 0, 0), region(1, 1, 1, 1)].into_iter()), None);
        let two = [region(10, 10, 5, 5), region(30, 0, 1, 1), region(0, 0, 0, 0), region(0, 0, 99, 99)];
        assert_eq!(union(two.into_iter()), Some(Rect { x: 10, y: 0, width: 21, height: 15 }));
        let wild = union([region(i32::MIN, i32::MAX, u32::MAX, u32::MAX)].into_iter()).expect("a rectangle");
        assert!(wild.x + wild.width <= 2 * protocol::pixel::MAX_SIDE);
    }

    /// A buffer made by hand, as PipeWire lays it out.
    #[test]
    fn a_buffers_chunk_and_metas_are_read() {
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
            spa::spa_meta { type_: spa::SPA_META_Header, size: 31, data: (&raw mut header).cast() },
        ];
        let buffer =
            spa::spa_buffer { n_metas: 3, n_datas: 1, metas: metas.as_mut_ptr(), datas: &raw mut data };
        let filled = read(9, &buffer);
        assert_eq!((filled.id, filled.offset, filled.size, filled.stride), (9, 16, 400, 40));
        assert_eq!((filled.pts, filled.corrupted), (77, false));
        assert_eq!(filled.damage, Some(Rect { x: 1, y: 2, width: 3, height: 4 }));
        let empty =
            spa::spa_buffer { n_metas: 0, n_datas: 0, metas: metas.as_mut_ptr(), datas: &raw mut data };
        assert!(read(9, &empty).corrupted, "a buffer without data has no picture");
    }
}
