//! From lent buffers to frames: what each buffer's memory is, and which of the filled ones is the newest.
//!
//! It does not know how buffers are negotiated.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use protocol::Rect;
use protocol::pixel::MAX_SIDE;
use pipewire_buffers::{Added, Filled, Kind};
use virtgpu::{Imported, SharedMap, duplicate_raw};

use super::offer::Agreed;
use super::stream::Stream;
use crate::CaptureOptions;
use crate::error::CaptureError;
use crate::frame::{Frame, FrameBuffer, GiveBack, GpuBuffer, Lease, ShmView, clamp_damage};
use crate::negotiated::{Negotiated, modifier_text};
use crate::outlet::Outlet;
use crate::returns::Returns;
use encode::clock::clock_ns;
use crate::resolve::Resolver;

/// A producer's time that is further than this from ours is of another clock.
const SAME_CLOCK: u64 = 2_000_000_000;

/// A buffer's memory, once somebody looked.
#[derive(Debug, Clone)]
enum Memory {
    Gpu(Arc<Imported>),
    Shm(Arc<SharedMap>),
    /// In PipeWire's own memory: every frame is copied. Desktops don't do this, test sources do.
    Inline,
}

/// Makes frames.
pub struct Pictures {
    source: &'static str,
    no_dmabuf: Option<String>,
    resolver: Option<Resolver>,
    returns: Arc<Returns>,
    added: HashMap<u64, Added>,
    memory: HashMap<u64, Memory>,
    /// The agreement of the last frame: a new one is told, and its first frame is all damage.
    agreement: u64,
    /// Frames that can't be used and why, told once.
    complained: bool,
}

/// Why a filled buffer gives no frame.
enum Useless {
    /// Nothing new in it.
    Skip,
    /// Its memory can't be reached.
    Memory(io::Error),
}

impl Pictures {
    /// No buffers yet.
    pub fn new(
        source: &'static str,
        options: &CaptureOptions,
        no_dmabuf: Option<String>,
        returns: Arc<Returns>,
    ) -> Self {
        Self {
            source,
            no_dmabuf,
            resolver: options.device.clone().map(Resolver::new),
            returns,
            added: HashMap::new(),
            memory: HashMap::new(),
            agreement: 0,
            complained: false,
        }
    }

    /// New buffers.
    pub fn remember(&mut self, added: Vec<Added>) {
        for buffer in added {
            tracing::debug!(?buffer, "PipeWire buffer");
            self.added.insert(buffer.id, buffer);
        }
    }

    /// Buffers that are gone. Frames on loan keep their memory alive.
    pub fn forget(&mut self, removed: &[u64]) {
        for id in removed {
            self.added.remove(id);
            self.memory.remove(id);
        }
    }

    /// Publishes the newest of the filled buffers and gives the others back. A modifier whose buffers can't be
    /// imported is returned, to be offered no more.
    pub fn publish_newest(&mut self, stream: &Stream, outlet: &Outlet) -> Result<Option<u64>, CaptureError> {
        let lent = stream.lent();
        let mut newest: Option<Filled> = None;
        let mut all_damage = false;
        while let Some(mut filled) = lent.dequeue() {
            if filled.corrupted {
                lent.give_back(filled.id);
                continue;
            }
            if let Some(old) = newest {
                lent.give_back(old.id);
                match (old.damage, filled.damage) {
                    (Some(old), Some(new)) => filled.damage = Some(old.union(new)),
                    _ => all_damage = true,
                }
            }
            newest = Some(filled);
        }
        let Some(mut filled) = newest else { return Ok(None) };
        if all_damage {
            filled.damage = None;
        }
        let Some((agreed, agreement)) = stream.agreed() else {
            lent.give_back(filled.id);
            return Ok(None);
        };
        match self.picture(stream, &filled, agreed) {
            Ok((buffer, lent_on)) => {
                let lease = if lent_on {
                    Lease::new(Arc::clone(&self.returns) as Arc<dyn GiveBack>, filled.id)
                } else {
                    lent.give_back(filled.id);
                    Lease::default()
                };
                let first = agreement != self.agreement;
                if first {
                    self.agreement = agreement;
                    outlet.negotiated(self.negotiated(stream, agreed, &buffer));
                }
                let full = Rect::full(agreed.width, agreed.height);
                let damage = filled.damage.filter(|_| !first).unwrap_or(full);
                outlet.publish(Frame {
                    seq: 0,
                    capture_ns: capture_time(filled.pts, clock_ns()),
                    width: agreed.width,
                    height: agreed.height,
                    format: agreed.format,
                    damage: clamp_damage(damage, agreed.width, agreed.height),
                    buffer,
                    lease,
                });
                Ok(None)
            }
            Err(Useless::Skip) => {
                lent.give_back(filled.id);
                Ok(None)
            }
            Err(Useless::Memory(error)) => {
                lent.give_back(filled.id);
                match agreed.modifier {
                    Some(modifier) => {
                        let name = modifier_text(modifier);
                        tracing::warn!(%error, modifier = name, "a DMA-BUF can't be imported; trying without");
                        self.no_dmabuf =
                            Some(format!("buffers with modifier {name} can't be imported: {error}"));
                        Ok(Some(modifier))
                    }
                    None => {
                        Err(CaptureError::Buffer { what: "mapping the producer's memory", source: error })
                    }
                }
            }
        }
    }

    /// The picture in a filled buffer, and whether the buffer is still needed for it.
    fn picture(
        &mut self,
        stream: &Stream,
        filled: &Filled,
        agreed: Agreed,
    ) -> Result<(FrameBuffer, bool), Useless> {
        let stride =
            u32::try_from(filled.stride).ok().filter(|stride| *stride > 0).unwrap_or(4 * agreed.width);
        if !(4 * agreed.width..=8 * MAX_SIDE).contains(&stride) {
            return Err(self.complain("their rows overlap, or are too long"));
        }
        let offset = filled.offset as usize;
        let (view, lent_on) = match self.memory(filled.id)? {
            Memory::Gpu(imported) if filled.offset == 0 => {
                return Ok((FrameBuffer::Gpu(GpuBuffer::new(imported, stride)), true));
            }
            Memory::Gpu(_) => {
                let text = format!("the picture begins {offset} bytes into the buffer");
                return Err(Useless::Memory(io::Error::new(io::ErrorKind::Unsupported, text)));
            }
            // Mutter fills buffers with nothing to tell of a cursor that moved.
            Memory::Shm(_) | Memory::Inline if filled.size == 0 => return Err(Useless::Skip),
            Memory::Shm(map) => (ShmView::new(map, offset, stride, agreed.height), true),
            Memory::Inline => {
                let len = stride as usize * agreed.height as usize;
                let (mut copy, _) = SharedMap::create("desktopstream-copy", len).map_err(Useless::Memory)?;
                let copied =
                    copy.bytes_mut().is_some_and(|out| stream.lent().copy_out(filled.id, offset, out));
                let view = copied.then(|| ShmView::new(Arc::new(copy), 0, stride, agreed.height)).flatten();
                (view, false)
            }
        };
        match view {
            Some(view) => Ok((FrameBuffer::Shm(view), lent_on)),
            None => Err(self.complain("the buffer is shorter than the picture")),
        }
    }

    /// A buffer's memory: imported or mapped once.
    fn memory(&mut self, id: u64) -> Result<Memory, Useless> {
        if let Some(memory) = self.memory.get(&id) {
            return Ok(memory.clone());
        }
        let added = self.added.get(&id).ok_or(Useless::Skip)?;
        let unsupported = |text: String| Useless::Memory(io::Error::new(io::ErrorKind::Unsupported, text));
        if added.blocks != 1 {
            return Err(unsupported(format!("{} blocks of memory for one RGB picture", added.blocks)));
        }
        let fd = || duplicate_raw(added.fd).map_err(Useless::Memory);
        let memory = match (added.kind, &mut self.resolver) {
            (Kind::DmaBuf, Some(resolver)) => Memory::Gpu(resolver.resolve(fd()?).map_err(Useless::Memory)?),
            (Kind::DmaBuf, None) => return Err(unsupported("there is no render node".to_owned())),
            (Kind::MemFd, _) => {
                let map = SharedMap::map_read_only(fd()?.as_fd(), added.offset.into(), added.len as usize);
                Memory::Shm(Arc::new(map.map_err(Useless::Memory)?))
            }
            (Kind::MemPtr, _) => Memory::Inline,
            (Kind::Other(kind), _) => return Err(unsupported(format!("memory of SPA kind {kind}"))),
        };
        self.memory.insert(id, memory.clone());
        Ok(memory)
    }

    /// Tells once why frames are skipped.
    fn complain(&mut self, what: &'static str) -> Useless {
        if !self.complained {
            tracing::warn!("PipeWire frames are skipped: {what}");
            self.complained = true;
        }
        Useless::Skip
    }

    fn negotiated(&self, stream: &Stream, agreed: Agreed, buffer: &FrameBuffer) -> Negotiated {
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
        let reason = (!dmabuf).then(|| match &self.no_dmabuf {
            Some(reason) => reason.clone(),
            None if offered.iter().any(|line| line.contains("DMA-BUF")) => {
                "the producer offers DMA-BUF, but chose shared memory".to_owned()
            }
            None => {
                "the producer offers no DMA-BUF: it draws without the GPU; can the desktop open the render \
                     node (its group), and does GNOME's log say \"Created gbm renderer\"?"
                    .to_owned()
            }
        });
        Negotiated {
            source: self.source.to_owned(),
            offered,
            taken: format!("{:?} {width}x{height} in {memory}", agreed.format),
            format: agreed.format,
            width,
            height,
            dmabuf,
            reason,
        }
    }
}

/// The producer's time if it is of our clock, else now.
fn capture_time(pts: i64, now: u64) -> u64 {
    u64::try_from(pts).ok().filter(|pts| *pts > 0 && pts.abs_diff(now) < SAME_CLOCK).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_time_of_our_clock_is_believed() {
        let now = 1_000_000_000_000;
        assert_eq!(capture_time(999_990_000_000, now), 999_990_000_000);
        assert_eq!(capture_time(33_000_000, now), now, "a running time");
        assert_eq!(capture_time(0, now), now);
        assert_eq!(capture_time(-1, now), now);
        assert_eq!(capture_time(i64::MAX, now), now);
    }
}
