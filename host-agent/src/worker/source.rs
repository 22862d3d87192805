//! The frames of a session: from a tap's ring, or from pushed pixels. Returns the newest, with the numbers
//! of those that it replaces.

use bytes::Bytes;
use encode::Picture;
use frame_ring::wake::WakeState;
use protocol::stream::{Config, Path};

use crate::canvas::Canvas;
use crate::inbox::{PushedPixels, RingReader};

/// A frame to encode.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    /// Pixels and their layout.
    pub(super) picture: Picture,
    /// Number that the sidecar gave it.
    pub(super) seq: u64,
    /// Guest's clock, ns.
    pub(super) capture_ns: u64,
    /// Time at which host-agent had it: host's `CLOCK_MONOTONIC`, ns.
    pub(super) available_ns: u64,
}

/// The newest frame.
#[derive(Debug)]
pub(super) struct Newest {
    pub(super) frame: Frame,
    /// Duration of the tap's read, µs; `None` for pushed pixels.
    pub(super) read_us: Option<u64>,
    /// Numbers of the frames that it replaces.
    pub(super) replaced: Vec<u64>,
}

/// Both sources of one session; the configuration selects one.
#[derive(Debug, Default)]
pub(super) struct Source {
    pub(super) ring: Option<RingReader>,
    canvas: Option<Canvas>,
    /// The last change of the canvas, until it is taken.
    change: Option<Change>,
}

/// A change of the canvas.
#[derive(Debug, Clone, Copy)]
struct Change {
    seq: u64,
    capture_ns: u64,
    available_ns: u64,
}

impl Source {
    /// Starts without a frame.
    pub(super) fn configure(&mut self, config: &Config) {
        self.canvas = (config.path == Path::Pixels).then(|| Canvas::new(config));
        self.change = None;
    }

    /// Clears the ring's wakes. A ring whose tap exited is removed: its descriptor stays readable, and
    /// polling it would spin.
    pub(super) fn clear_wakes(&mut self) {
        if let Some(ring) = &self.ring
            && ring.wake_fd.clear() == WakeState::Closed
        {
            tracing::debug!("ring closed by the tap");
            self.ring = None;
        }
    }

    /// Applies pushed pixels. Returns the number of a frame that is replaced or refused. Calls `release`
    /// before the canvas changes: a frame that shares its memory then would cost a copy.
    pub(super) fn push(&mut self, pushed: PushedPixels, release: impl FnOnce()) -> Option<u64> {
        let PushedPixels { pixels, read_at_ns } = pushed;
        let change = Change { seq: pixels.seq, capture_ns: pixels.capture_ns, available_ns: read_at_ns };
        let Some(canvas) = &mut self.canvas else { return Some(change.seq) };
        if let Err(error) = canvas.check(&pixels) {
            tracing::debug!(seq = change.seq, %error, "pixels refused");
            return Some(change.seq);
        }
        release();
        canvas.apply(pixels);
        self.change.replace(change).map(|replaced| replaced.seq)
    }

    /// Takes the newest frame that was not taken yet.
    pub(super) fn newest(&mut self, path: Path) -> Option<Newest> {
        match path {
            Path::ResourceId => self.newest_slot(),
            Path::Pixels => {
                let picture = self.canvas.as_ref()?.picture()?;
                let Change { seq, capture_ns, available_ns } = self.change.take()?;
                let frame = Frame { picture, seq, capture_ns, available_ns };
                Some(Newest { frame, read_us: None, replaced: Vec::new() })
            }
        }
    }

    fn newest_slot(&mut self) -> Option<Newest> {
        let slot = self.ring.as_mut()?.consumer.newest()?;
        let meta = slot.meta();
        let replaced = slot.dropped().to_vec();
        let picture = Picture {
            format: meta.format,
            width: meta.width,
            height: meta.height,
            stride: meta.stride,
            data: Bytes::from_owner(slot),
        };
        let (seq, capture_ns, available_ns) = (meta.seq, meta.capture_ns, meta.full_at_ns);
        let frame = Frame { picture, seq, capture_ns, available_ns };
        Some(Newest { frame, read_us: Some(meta.read_ns / 1000), replaced })
    }
}
