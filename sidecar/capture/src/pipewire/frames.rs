//! Builds frames from dequeued PipeWire buffers: imports each DMA-BUF, copies shared memory, and delivers the newest filled
//! buffer.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use encode::clock::clock_ns;
use pipewire_buffers::{BufferInfo, FilledBuffer, MemoryKind};
use protocol::Rect;
use protocol::pixel::MAX_SIDE;
use virtgpu::{Imported, duplicate_raw, read_shared};

use super::offer::{AgreedFormat, OfferedFormat};
use super::stream::Stream;
use crate::CaptureOptions;
use crate::copies::Copies;
use crate::error::CaptureError;
use crate::frame::{BufferOwner, Frame, FrameBuffer, GpuBuffer, Lease, ShmView, clip_damage};
use crate::negotiated::{Negotiated, ShmReason, modifier_text};
use crate::release::ReleaseQueue;
use crate::resolve::Resolver;
use crate::source_context::SourceContext;

/// Maximum difference between a presentation time and now, in ns; a larger one means another clock.
const MAX_CLOCK_DIFFERENCE: u64 = 2_000_000_000;

/// Memory of a buffer. Only a DMA-BUF is used in place: the producer could shrink shared memory while it is mapped.
#[derive(Debug, Clone)]
enum Memory {
    Gpu(Arc<Imported>),
    Shm(Arc<Shm>),
    /// Memory mapped by libpipewire. Used by test sources, not by desktops.
    MemPtr,
}

/// Shared memory of the producer.
#[derive(Debug)]
struct Shm {
    fd: OwnedFd,
    /// Offset of the buffer in the file, in bytes.
    offset: u64,
    /// Size of the buffer in bytes.
    len: usize,
}

/// Builds frames and caches the memory of buffers.
pub struct FrameBuilder {
    source: &'static str,
    shm_reason: Option<ShmReason>,
    resolver: Option<Resolver>,
    release: Arc<ReleaseQueue>,
    added: HashMap<u64, BufferInfo>,
    memory: HashMap<u64, Memory>,
    copies: Copies,
    /// Number of the last frame's agreement. The first frame of a new one is reported, and fully damaged.
    agreement: u64,
    /// True once a warning about unusable frames was logged.
    warned: bool,
}

/// Reason for not building a frame from a filled buffer.
enum Rejected {
    /// The buffer has no new or no valid picture.
    Skip,
    /// The buffer's memory is not accessible.
    Memory(io::Error),
}

impl From<io::Error> for Rejected {
    fn from(error: io::Error) -> Self {
        Self::Memory(error)
    }
}

impl Shm {
    /// Copies the bytes from `offset` in the buffer. `UnexpectedEof` if it ends before.
    fn read(&self, offset: usize, out: &mut [u8]) -> io::Result<()> {
        if offset.checked_add(out.len()).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        read_shared(self.fd.as_fd(), self.offset + offset as u64, out)
    }
}

impl FrameBuilder {
    /// A builder without buffers. `source` is reported in [`Negotiated`].
    pub fn new(
        source: &'static str,
        options: &CaptureOptions,
        shm_reason: Option<ShmReason>,
        release: Arc<ReleaseQueue>,
    ) -> Self {
        Self {
            source,
            shm_reason,
            resolver: options.device.clone().map(Resolver::new),
            release,
            added: HashMap::new(),
            memory: HashMap::new(),
            copies: Copies::default(),
            agreement: 0,
            warned: false,
        }
    }

    /// Adds buffers.
    pub fn buffers_added(&mut self, added: Vec<BufferInfo>) {
        for buffer in added {
            tracing::debug!(?buffer, "PipeWire buffer added");
            self.added.insert(buffer.id, buffer);
        }
    }

    /// Removes buffers. Delivered frames keep their memory alive.
    pub fn buffers_removed(&mut self, removed: &[u64]) {
        for id in removed {
            self.added.remove(id);
            self.memory.remove(id);
        }
    }

    /// Delivers the newest filled buffer and releases the others. Returns the agreed modifier if its buffers cannot
    /// be imported: the caller must renegotiate without it.
    pub fn deliver_newest(
        &mut self,
        stream: &Stream,
        context: &SourceContext,
    ) -> Result<Option<u64>, CaptureError> {
        let Some(filled) = dequeue_newest(stream) else { return Ok(None) };
        let Some((agreed, agreement)) = stream.agreed() else {
            stream.buffers().release(filled.id);
            return Ok(None);
        };
        match self.frame_buffer(stream, &filled, agreed) {
            Ok((buffer, in_use)) => {
                let lease = if in_use {
                    Lease::new(Arc::clone(&self.release) as Arc<dyn BufferOwner>, filled.id)
                } else {
                    stream.buffers().release(filled.id);
                    Lease::default()
                };
                let first = agreement != self.agreement;
                if first {
                    self.agreement = agreement;
                    context.report_negotiated(self.negotiated(stream, agreed, &buffer));
                }
                let full = Rect::full(agreed.width, agreed.height);
                let damage = filled.damage.filter(|_| !first).unwrap_or(full);
                context.deliver(Frame {
                    seq: 0,
                    capture_ns: capture_time(filled.pts, clock_ns()),
                    width: agreed.width,
                    height: agreed.height,
                    format: agreed.format,
                    damage: clip_damage(damage, agreed.width, agreed.height),
                    buffer,
                    lease,
                });
                Ok(None)
            }
            Err(Rejected::Skip) => {
                stream.buffers().release(filled.id);
                Ok(None)
            }
            Err(Rejected::Memory(error)) => {
                stream.buffers().release(filled.id);
                match agreed.modifier {
                    Some(modifier) => {
                        tracing::warn!(%error, modifier = modifier_text(modifier), "DMA-BUF import failed");
                        self.shm_reason = Some(ShmReason::Import { modifier, error: error.to_string() });
                        Ok(Some(modifier))
                    }
                    None => Err(CaptureError::Buffer {
                        operation: "reading the producer's memory",
                        source: error,
                    }),
                }
            }
        }
    }

    /// The picture in a filled buffer, and whether the frame uses the buffer's memory.
    fn frame_buffer(
        &mut self,
        stream: &Stream,
        filled: &FilledBuffer,
        agreed: AgreedFormat,
    ) -> Result<(FrameBuffer, bool), Rejected> {
        let stride =
            u32::try_from(filled.stride).ok().filter(|stride| *stride > 0).unwrap_or(4 * agreed.width);
        if !(4 * agreed.width..=8 * MAX_SIDE).contains(&stride) {
            return Err(self.skip("stride out of range"));
        }
        let offset = filled.offset as usize;
        let len = stride as usize * agreed.height as usize;
        let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let copy = match self.memory(filled.id)? {
            Memory::Gpu(imported) if filled.offset == 0 => {
                return Ok((FrameBuffer::Gpu(GpuBuffer::new(imported, stride)), true));
            }
            Memory::Gpu(_) => {
                let text = format!("the picture starts at offset {offset} of the buffer, not at 0");
                return Err(Rejected::Memory(io::Error::new(io::ErrorKind::Unsupported, text)));
            }
            // Mutter sends empty buffers to report a cursor movement.
            Memory::Shm(_) | Memory::MemPtr if filled.size == 0 => return Err(Rejected::Skip),
            Memory::Shm(shm) => self.copies.make(len, |out| shm.read(offset, out)),
            Memory::MemPtr => self.copies.make(len, |out| {
                stream.buffers().copy_out(filled.id, offset, out).then_some(()).ok_or_else(short)
            }),
        };
        let copy = match copy {
            Ok(copy) => copy,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(self.skip("buffer shorter than the picture"));
            }
            Err(error) => return Err(error.into()),
        };
        let view = ShmView::new(copy, 0, stride, agreed.height).ok_or_else(short)?;
        Ok((FrameBuffer::Shm(view), false))
    }

    /// A buffer's memory, imported or duplicated on first use.
    fn memory(&mut self, id: u64) -> Result<Memory, Rejected> {
        if let Some(memory) = self.memory.get(&id) {
            return Ok(memory.clone());
        }
        let info = self.added.get(&id).ok_or(Rejected::Skip)?;
        let unsupported = |text: String| Rejected::Memory(io::Error::new(io::ErrorKind::Unsupported, text));
        if info.blocks != 1 {
            return Err(unsupported(format!("the buffer has {} memory blocks, not 1", info.blocks)));
        }
        let fd = || duplicate_raw(info.fd).map_err(Rejected::Memory);
        let memory = match (info.kind, &mut self.resolver) {
            (MemoryKind::DmaBuf, Some(resolver)) => {
                Memory::Gpu(resolver.resolve(fd()?).map_err(Rejected::Memory)?)
            }
            (MemoryKind::DmaBuf, None) => return Err(unsupported("the render node is not open".to_owned())),
            (MemoryKind::MemFd, _) => {
                Memory::Shm(Arc::new(Shm { fd: fd()?, offset: info.offset.into(), len: info.len as usize }))
            }
            (MemoryKind::MemPtr, _) => Memory::MemPtr,
            (MemoryKind::Other(kind), _) => return Err(unsupported(format!("SPA data type {kind}"))),
        };
        self.memory.insert(id, memory.clone());
        Ok(memory)
    }

    /// Skips a frame; logs the first skipped one.
    fn skip(&mut self, reason: &'static str) -> Rejected {
        if !self.warned {
            tracing::warn!(reason, "PipeWire frame skipped");
            self.warned = true;
        }
        Rejected::Skip
    }

    fn negotiated(&self, stream: &Stream, agreed: AgreedFormat, buffer: &FrameBuffer) -> Negotiated {
        let (width, height) = (agreed.width, agreed.height);
        let offered = stream.offered();
        let dmabuf = matches!(buffer, FrameBuffer::Gpu(_));
        let memory = match (buffer, agreed.modifier) {
            (FrameBuffer::Gpu(buffer), modifier) => format!(
                "DMA-BUF, modifier {}, stride {}",
                modifier.map_or_else(|| "none".to_owned(), modifier_text),
                buffer.stride()
            ),
            (FrameBuffer::Shm(view), _) => format!("shared memory, stride {}", view.stride()),
        };
        Negotiated {
            source: self.source.to_owned(),
            shm_reason: (!dmabuf).then(|| shm_reason(self.shm_reason.as_ref(), &offered)),
            offered: offered.into_iter().map(|format| format.text).collect(),
            chosen: format!("{:?} {width}x{height} in {memory}", agreed.format),
            format: agreed.format,
            width,
            height,
            dmabuf,
        }
    }
}

/// Dequeues the newest valid buffer and releases older ones, whose damage it takes over.
fn dequeue_newest(stream: &Stream) -> Option<FilledBuffer> {
    let buffers = stream.buffers();
    let mut newest: Option<FilledBuffer> = None;
    let mut unknown_damage = false;
    while let Some(mut filled) = buffers.dequeue() {
        if filled.corrupted {
            buffers.release(filled.id);
            continue;
        }
        if let Some(old) = newest {
            buffers.release(old.id);
            match (old.damage, filled.damage) {
                (Some(old), Some(new)) => filled.damage = Some(old.union(new)),
                _ => unknown_damage = true,
            }
        }
        newest = Some(filled);
    }
    newest.map(|filled| if unknown_damage { FilledBuffer { damage: None, ..filled } } else { filled })
}

/// Reason for shared memory: `known` if this side ruled DMA-BUF out, else by what the producer offers.
fn shm_reason(known: Option<&ShmReason>, offered: &[OfferedFormat]) -> ShmReason {
    match known {
        Some(reason) => reason.clone(),
        None if offered.iter().any(|format| format.dmabuf) => ShmReason::ProducerChoseShm,
        None => ShmReason::ProducerWithoutDmaBuf,
    }
}

/// The presentation time if it is plausible as `CLOCK_MONOTONIC`, else `now`.
fn capture_time(pts: i64, now: u64) -> u64 {
    u64::try_from(pts).ok().filter(|pts| *pts > 0 && pts.abs_diff(now) < MAX_CLOCK_DIFFERENCE).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capture_time_of_another_clock_is_replaced_by_now() {
        let now = 1_000_000_000_000;
        assert_eq!(capture_time(999_990_000_000, now), 999_990_000_000);
        assert_eq!(capture_time(33_000_000, now), now, "a running time");
        assert_eq!(capture_time(0, now), now);
        assert_eq!(capture_time(-1, now), now);
        assert_eq!(capture_time(i64::MAX, now), now);
    }

    #[test]
    fn shared_memory_shorter_than_the_picture_has_no_frame() {
        let (_, fd) = virtgpu::SharedMap::create("test", 4096).expect("a memfd");
        let shm = Shm { fd, offset: 1024, len: 2048 };
        let mut out = [0; 1024];
        assert!(shm.read(1024, &mut out).is_ok());
        for offset in [1025, usize::MAX] {
            let error = shm.read(offset, &mut out).expect_err("outside the buffer");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
        let lying = Shm { len: usize::MAX, ..shm };
        let error = lying.read(3000, &mut out).expect_err("outside the file");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn shm_reason_depends_on_the_offered_memory_and_not_on_its_text() {
        let offered = |text: &str, dmabuf| OfferedFormat { text: text.to_owned(), dmabuf };
        let shm = offered("mentions DMA-BUF", false);
        let dmabuf = offered("BGRx", true);
        assert_eq!(shm_reason(None, &[]), ShmReason::ProducerWithoutDmaBuf);
        assert_eq!(shm_reason(None, std::slice::from_ref(&shm)), ShmReason::ProducerWithoutDmaBuf);
        assert_eq!(shm_reason(None, &[shm, dmabuf.clone()]), ShmReason::ProducerChoseShm);
        assert_eq!(shm_reason(Some(&ShmReason::Requested), &[dmabuf]), ShmReason::Requested);
    }
}
