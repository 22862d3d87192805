//! Tracks the buffers of a PipeWire stream.
//!
//! PipeWire passes buffers as raw pointers, valid from the stream's `add_buffer` event to its `remove_buffer` event or
//! the stream's end (`pipewire/stream.h`). The `pipewire` crate's own wrapper queues a buffer back when the callback
//! ends; capture keeps a buffer for as long as its frame is in use. This module therefore identifies each buffer by a
//! number that is never reused. The pointers stay inside, and operations on a removed buffer do nothing.

#![expect(unsafe_code, reason = "buffers of a PipeWire stream are raw pointers")]

pub mod cursor;
mod metadata;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::rc::Rc;

use pipewire::spa::sys as spa;
use pipewire::stream::{ListenerLocalBuilder, StreamListener, StreamRc};
use pipewire::sys::pw_buffer;
use protocol::Rect;

use self::cursor::CursorMeta;
use crate::shared_mappings::SharedMappings;

/// Maximum number of buffers tracked per stream; equals libpipewire's `MAX_BUFFERS`.
const MAX_BUFFERS: usize = 64;

/// Origin of a stream's buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BufferOrigin {
    /// The daemon, which shares their memory: video. Each buffer must be inside of shared memory.
    Daemon {
        /// The cursor was requested, and is read.
        cursor: bool,
    },
    /// The converter that libpipewire runs in this process, in memory of this process: audio.
    Converter,
}

/// Kind of a buffer's memory (`enum spa_data_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryKind {
    /// A descriptor to map.
    MemFd,
    /// A DMA-BUF descriptor to import.
    DmaBuf,
    /// Memory mapped by libpipewire; read by [`StreamBuffers::copy_out`].
    MemPtr,
    /// Another `spa_data_type`.
    Other(u32),
}

/// A buffer that was added to a stream.
#[derive(Debug, Clone, Copy)]
pub struct BufferInfo {
    /// Number of the buffer; never reused.
    pub id: u64,
    /// Kind of memory.
    pub kind: MemoryKind,
    /// Descriptor of the memory. PipeWire owns it: duplicate it before use.
    pub fd: RawFd,
    /// Offset of the memory in the descriptor's file, in bytes.
    pub offset: u32,
    /// Size of the memory in bytes.
    pub len: u32,
    /// Number of memory blocks; a packed RGB picture has one.
    pub blocks: u32,
}

/// A dequeued buffer. All values but `id` are set by the producer and unchecked.
#[derive(Debug, Clone, Copy, Default)]
pub struct FilledBuffer {
    /// Number of the buffer.
    pub id: u64,
    /// Offset of the picture in the buffer, in bytes.
    pub offset: u32,
    /// Size of the picture in bytes.
    pub size: u32,
    /// Distance between rows in bytes.
    pub stride: i32,
    /// True if the producer marked the buffer as corrupted, or the buffer has no data.
    pub corrupted: bool,
    /// Presentation time in nanoseconds of the producer's clock; 0 if not set.
    pub pts: i64,
    /// Bounding box of the changes since the previous buffer; `None` if not set.
    pub damage: Option<Rect>,
}

#[derive(Debug)]
struct Buffer {
    pointer: NonNull<pw_buffer>,
    /// True from `dequeue` until `release`.
    dequeued: bool,
    /// True if chunk, metadata and memory of kind [`MemoryKind::MemPtr`] can be read.
    is_mapped: bool,
}

/// Buffers of one stream.
///
/// Invariant: each pointer in `live` was passed to `add_buffer` and not yet to `remove_buffer` of `stream`, so it is
/// valid. `add` and `remove` maintain it while a [`BufferListener`] exists; the listener's drop clears `live`.
/// `StreamBuffers` is not `Send`, so all calls are on the thread of the stream's loop.
#[derive(Debug)]
pub struct StreamBuffers {
    stream: StreamRc,
    live: RefCell<BTreeMap<u64, Buffer>>,
    added: RefCell<Vec<BufferInfo>>,
    removed: RefCell<Vec<u64>>,
    /// Newest cursor of dequeued buffers, with a shape that changed since it was taken.
    cursor: RefCell<Option<CursorMeta>>,
    origin: BufferOrigin,
    next: Cell<u64>,
}

/// Tracks buffers until dropped; afterwards [`StreamBuffers`] has none.
pub struct BufferListener<D> {
    _listener: StreamListener<D>,
    buffers: Rc<StreamBuffers>,
}

impl<D> Drop for BufferListener<D> {
    fn drop(&mut self) {
        // Without the listener, `remove` is no longer called: the pointers may dangle from here on.
        self.buffers.live.borrow_mut().clear();
    }
}

impl StreamBuffers {
    /// Tracks buffers of `stream`; there are none before [`Self::listen`].
    pub fn new(stream: StreamRc, origin: BufferOrigin) -> Rc<Self> {
        Rc::new(Self {
            stream,
            live: RefCell::default(),
            added: RefCell::default(),
            removed: RefCell::default(),
            cursor: RefCell::default(),
            origin,
            next: Cell::new(1),
        })
    }

    /// The stream.
    pub fn stream(&self) -> &StreamRc {
        &self.stream
    }

    /// Registers `listener`, which must be of this stream, with callbacks that track buffers.
    ///
    /// # Errors
    /// The error of registering the listener.
    pub fn listen<D: 'static>(
        self: &Rc<Self>,
        listener: ListenerLocalBuilder<'_, D>,
    ) -> Result<BufferListener<D>, pipewire::Error> {
        let (add, remove) = (Rc::clone(self), Rc::clone(self));
        let own = self.stream.as_raw_ptr();
        let listener = listener
            .add_buffer(move |stream, _, pointer| {
                // A listener of another stream tracks nothing.
                if stream.as_raw_ptr() == own {
                    add.add(pointer);
                }
            })
            .remove_buffer(move |_, _, pointer| remove.remove(pointer))
            .register()?;
        Ok(BufferListener { _listener: listener, buffers: Rc::clone(self) })
    }

    /// Buffers added since the previous call.
    pub fn take_added(&self) -> Vec<BufferInfo> {
        self.added.take()
    }

    /// Buffers removed since the previous call.
    pub fn take_removed(&self) -> Vec<u64> {
        self.removed.take()
    }

    /// Newest cursor of the buffers that were dequeued since the previous call, corrupted ones included: Mutter marks a
    /// buffer that reports only a cursor as corrupted.
    pub fn take_cursor(&self) -> Option<CursorMeta> {
        self.cursor.take()
    }

    fn cursor_changed(&self, mut cursor: CursorMeta) {
        let mut newest = self.cursor.borrow_mut();
        if cursor.shape.is_none() {
            cursor.shape = newest.take().and_then(|older| older.shape);
        }
        *newest = Some(cursor);
    }

    /// Tracks a new buffer. Called only by the `add_buffer` event of `stream`, with the event's pointer.
    fn add(&self, pointer: *mut pw_buffer) {
        let Some(pointer) = NonNull::new(pointer) else { return };
        // A second listener on the stream reports each buffer again.
        if self.live.borrow().len() >= MAX_BUFFERS || self.id_of(pointer.as_ptr()).is_some() {
            return;
        }
        let id = self.next.get();
        self.next.set(id + 1);
        let mut is_mapped = false;
        let mut info = BufferInfo { id, kind: MemoryKind::Other(0), fd: -1, offset: 0, len: 0, blocks: 0 };
        // SAFETY: the pointer is valid and aligned, because PipeWire passed it to `add_buffer`; PipeWire writes the
        // `pw_buffer` only in calls on this thread, so nothing changes it while the reference exists.
        let buffer = unsafe { pointer.as_ref() }.buffer;
        // SAFETY: `pw_buffer.buffer` is null, which `as_ref` checks, or points to the `spa_buffer` that libpipewire
        // allocated with it and does not change before `remove_buffer`.
        if let Some(buffer) = unsafe { buffer.as_ref() } {
            is_mapped = match self.origin {
                BufferOrigin::Converter => true,
                // Without /proc, nothing is read.
                BufferOrigin::Daemon { .. } => SharedMappings::read().is_ok_and(|maps| {
                    // SAFETY: libpipewire described the buffer as `is_mapped` requires, and does not change that before
                    // `remove_buffer`.
                    unsafe { metadata::is_mapped(buffer, &maps) }
                }),
            };
            if !is_mapped {
                tracing::warn!("the PipeWire daemon describes a buffer outside of the memory that it shares");
            }
            info.blocks = buffer.n_datas;
            if buffer.n_datas > 0 {
                // SAFETY: `datas` is null, which `as_ref` checks, or has `n_datas` > 0 elements in this process's memory,
                // allocated with the `spa_buffer`.
                if let Some(data) = unsafe { buffer.datas.as_ref() } {
                    info.kind = match data.type_ {
                        spa::SPA_DATA_MemFd => MemoryKind::MemFd,
                        spa::SPA_DATA_DmaBuf => MemoryKind::DmaBuf,
                        spa::SPA_DATA_MemPtr => MemoryKind::MemPtr,
                        other => MemoryKind::Other(other),
                    };
                    info.fd = RawFd::try_from(data.fd).unwrap_or(-1);
                    info.offset = data.mapoffset;
                    info.len = data.maxsize;
                }
            }
        }
        self.live.borrow_mut().insert(id, Buffer { pointer, dequeued: false, is_mapped });
        self.added.borrow_mut().push(info);
    }

    fn remove(&self, pointer: *mut pw_buffer) {
        if let Some(id) = self.id_of(pointer) {
            self.live.borrow_mut().remove(&id);
            self.added.borrow_mut().retain(|added| added.id != id);
            self.removed.borrow_mut().push(id);
        }
    }

    fn id_of(&self, pointer: *mut pw_buffer) -> Option<u64> {
        self.live.borrow().iter().find(|(_, buffer)| buffer.pointer.as_ptr() == pointer).map(|(id, _)| *id)
    }

    /// Dequeues the next filled buffer; the producer does not reuse it before [`Self::release`].
    pub fn dequeue(&self) -> Option<FilledBuffer> {
        loop {
            // SAFETY: `dequeue_raw_buffer` requires a null check of the result and that the buffer is queued back:
            // null is checked next; other buffers are queued back below or in `release`.
            let pointer = unsafe { self.stream.dequeue_raw_buffer() };
            if pointer.is_null() {
                return None;
            }
            let Some(id) = self.id_of(pointer) else {
                // SAFETY: `queue_raw_buffer` requires a buffer dequeued from this stream: `pointer` was, just now.
                unsafe { self.stream.queue_raw_buffer(pointer) };
                continue;
            };
            let is_mapped = self.live.borrow_mut().get_mut(&id).is_some_and(|buffer| {
                buffer.dequeued = true;
                buffer.is_mapped
            });
            let unread = FilledBuffer { id, corrupted: true, ..FilledBuffer::default() };
            if !is_mapped {
                return Some(unread);
            }
            // SAFETY: the pointer is valid by the invariant of `live`, and PipeWire does not write a `pw_buffer` that is
            // dequeued.
            let buffer = unsafe { &*pointer }.buffer;
            // SAFETY: `pw_buffer.buffer` is null, which `as_ref` checks, or points to the `spa_buffer` that libpipewire
            // allocated with it and does not change before `remove_buffer`.
            let filled = unsafe { buffer.as_ref() }.map(|buffer| {
                // SAFETY: `buffer` belongs to a live `pw_buffer`, which libpipewire described; which it allocated itself, or `add`
                // checked that chunk and metas are in mapped memory, as `read` requires.
                unsafe { metadata::read(id, buffer, self.origin == (BufferOrigin::Daemon { cursor: true })) }
            });
            let (filled, cursor) = filled.unzip();
            if let Some(cursor) = cursor.flatten() {
                self.cursor_changed(cursor);
            }
            return Some(filled.unwrap_or(unread));
        }
    }

    /// Copies `out.len()` bytes at `offset` from a dequeued buffer of kind [`MemoryKind::MemPtr`]. Returns false if the
    /// buffer was removed, is not dequeued, is of another kind or is too short.
    pub fn copy_out(&self, id: u64, offset: usize, out: &mut [u8]) -> bool {
        let live = self.live.borrow();
        let Some(buffer) = live.get(&id).filter(|buffer| buffer.dequeued && buffer.is_mapped) else {
            return false;
        };
        // SAFETY: the pointer is valid by the invariant of `live`, and PipeWire does not write a `pw_buffer` that is
        // dequeued.
        let buffer = unsafe { buffer.pointer.as_ref() }.buffer;
        // SAFETY: `pw_buffer.buffer` is null, which `as_ref` checks, or points to the `spa_buffer` that libpipewire
        // allocated with it and does not change before `remove_buffer`.
        let Some(buffer) = (unsafe { buffer.as_ref() }) else { return false };
        if buffer.n_datas == 0 {
            return false;
        }
        // SAFETY: `datas` is null, which `as_ref` checks, or has `n_datas` > 0 elements.
        let Some(data) = (unsafe { buffer.datas.as_ref() }) else { return false };
        let end = offset.checked_add(out.len());
        if data.type_ != spa::SPA_DATA_MemPtr
            || data.data.is_null()
            || end.is_none_or(|end| end > data.maxsize as usize)
        {
            return false;
        }
        // SAFETY: `data.data` points to `maxsize` bytes, which the converter allocated or `add` checked; they stay valid
        // until `remove_buffer`, and
        // offset <= end <= maxsize, so the result stays in that mapping.
        let from = unsafe { data.data.cast::<u8>().add(offset) };
        // SAFETY: the source has out.len() bytes: end <= maxsize. The destination is an exclusive slice of that length,
        // so the two do not overlap. Bytes need no alignment, and every value is valid; a producer that violates the
        // protocol and writes a dequeued buffer can only tear the picture.
        unsafe { from.copy_to_nonoverlapping(out.as_mut_ptr(), out.len()) };
        true
    }

    /// Queues a dequeued buffer back to the producer; does nothing if the buffer was removed or is not dequeued.
    pub fn release(&self, id: u64) {
        let pointer = match self.live.borrow_mut().get_mut(&id) {
            Some(buffer) if buffer.dequeued => {
                buffer.dequeued = false;
                buffer.pointer.as_ptr()
            }
            _ => return,
        };
        // SAFETY: `queue_raw_buffer` requires a buffer dequeued from this stream. `dequeued` was set by `dequeue` and is
        // cleared above, so the buffer is queued once per dequeue; it is in `live`, so it was not removed.
        unsafe { self.stream.queue_raw_buffer(pointer) };
    }
}
