//! Frame metadata that travels beside the pixels.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use protocol::{PixelFormat, Rect};

/// Description of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Sequence number from the sidecar, so from a guest: neither ordered nor unique.
    pub seq: u64,
    /// Memory layout.
    pub format: PixelFormat,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Distance between rows in bytes.
    pub stride: u32,
    /// Area that changed since the previous frame, according to the guest.
    pub damage: Rect,
    /// Capture time, ns of the guest's `CLOCK_MONOTONIC`.
    pub capture_ns: u64,
    /// Duration of the read from virglrenderer, ns.
    pub read_ns: u64,
    /// Publication time, ns of the host's `CLOCK_MONOTONIC`. Set by [`SlotWriter::publish`].
    ///
    /// [`SlotWriter::publish`]: crate::SlotWriter::publish
    pub full_at_ns: u64,
}

impl Meta {
    /// Size of the frame in bytes; `None` if a size is zero or over the protocol's limit, the damage lies
    /// outside the frame, or the stride is shorter than a row.
    pub fn bytes(&self) -> Option<usize> {
        let max = protocol::pixel::MAX_SIDE;
        if self.width == 0 || self.height == 0 || self.width > max || self.height > max {
            return None;
        }
        if !self.damage.fits(self.width, self.height) {
            return None;
        }
        let (stride, height) = (self.stride as usize, self.height as usize);
        let (row, rows) = match self.format {
            PixelFormat::Nv12 => (2 * self.width.div_ceil(2) as usize, height + height.div_ceil(2)),
            _ => (4 * self.width as usize, height),
        };
        if stride < row {
            return None;
        }
        stride.checked_mul(rows)
    }
}

/// [`Meta`] in shared memory.
#[repr(C)]
pub(crate) struct RawMeta {
    seq: AtomicU64,
    capture_ns: AtomicU64,
    read_ns: AtomicU64,
    full_at_ns: AtomicU64,
    fourcc: AtomicU32,
    width: AtomicU32,
    height: AtomicU32,
    stride: AtomicU32,
    damage: [AtomicU32; 4],
}

impl RawMeta {
    /// Stores `meta`; the release store of the slot's state makes it visible.
    pub(crate) fn write(&self, meta: &Meta) {
        let Rect { x, y, width, height } = meta.damage;
        for (to, value) in self.damage.iter().zip([x, y, width, height]) {
            to.store(value, Ordering::Relaxed);
        }
        self.seq.store(meta.seq, Ordering::Relaxed);
        self.capture_ns.store(meta.capture_ns, Ordering::Relaxed);
        self.read_ns.store(meta.read_ns, Ordering::Relaxed);
        self.full_at_ns.store(meta.full_at_ns, Ordering::Relaxed);
        self.fourcc.store(meta.format.fourcc(), Ordering::Relaxed);
        self.width.store(meta.width, Ordering::Relaxed);
        self.height.store(meta.height, Ordering::Relaxed);
        self.stride.store(meta.stride, Ordering::Relaxed);
    }

    /// The sequence number alone.
    pub(crate) fn seq(&self) -> u64 {
        self.seq.load(Ordering::Relaxed)
    }

    /// Loads the metadata; `None` if the pixel format is unknown.
    pub(crate) fn read(&self) -> Option<Meta> {
        let [x, y, width, height] = self.damage.each_ref().map(|side| side.load(Ordering::Relaxed));
        Some(Meta {
            seq: self.seq(),
            format: PixelFormat::from_fourcc(self.fourcc.load(Ordering::Relaxed)).ok()?,
            width: self.width.load(Ordering::Relaxed),
            height: self.height.load(Ordering::Relaxed),
            stride: self.stride.load(Ordering::Relaxed),
            damage: Rect { x, y, width, height },
            capture_ns: self.capture_ns.load(Ordering::Relaxed),
            read_ns: self.read_ns.load(Ordering::Relaxed),
            full_at_ns: self.full_at_ns.load(Ordering::Relaxed),
        })
    }
}
