//! Where a session's pictures come from: a tap's ring or pushed pixels. Gives the newest and tells what it
//! overtook. Knows no encoder.

use bytes::Bytes;
use encode::Picture;
use protocol::stream::{Config, Path};

use crate::canvas::Canvas;
use crate::inbox::{Pushed, RingEnd};

/// A picture to encode.
#[derive(Debug, Clone)]
pub(super) struct Fresh {
    pub(super) picture: Picture,
    /// The sidecar's number for it.
    pub(super) seq: u64,
    /// Guest's clock, ns; only repeated.
    pub(super) capture_ns: u64,
    /// In our hands since then: host's `CLOCK_MONOTONIC`, ns.
    pub(super) since_ns: u64,
}

/// The newest picture, and the numbers of those that it overtook.
#[derive(Debug)]
pub(super) struct Newest {
    pub(super) fresh: Fresh,
    /// How long the tap's reader took, us; none for pushed pixels.
    pub(super) read_us: Option<u64>,
    pub(super) dropped: Vec<u64>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Source {
    pub(super) ring: Option<RingEnd>,
    canvas: Option<Canvas>,
    /// The canvas changed since it was taken: number, capture time, and since when we have it.
    changed: Option<(u64, u64, u64)>,
}

impl Source {
    pub(super) fn configure(&mut self, config: &Config) {
        self.canvas = (config.path == Path::Pixels).then(|| Canvas::new(config));
        self.changed = None;
    }

    /// Takes note of the bell. A closed one belongs to a tap that is gone, and listening on would spin.
    pub(super) fn hear(&mut self) {
        if let Some(end) = &self.ring
            && end.bell.clear() == frame_ring::wake::WakeState::Closed
        {
            tracing::debug!("the tap closed the bell");
            self.ring = None;
        }
    }

    /// Applies pushed pixels; gives the number of a picture that is overtaken or refused. Before the canvas
    /// changes `let_go` is called: whoever shares its memory now costs a copy.
    pub(super) fn push(&mut self, pushed: Pushed, let_go: impl FnOnce()) -> Option<u64> {
        let (seq, capture_ns) = (pushed.pixels.seq, pushed.pixels.capture_ns);
        let Some(canvas) = &mut self.canvas else { return Some(seq) };
        if let Err(error) = canvas.check(&pushed.pixels) {
            tracing::debug!(seq, %error, "pixels refused");
            return Some(seq);
        }
        let_go();
        canvas.apply(pushed.pixels);
        self.changed.replace((seq, capture_ns, pushed.read_at_ns)).map(|(overtaken, ..)| overtaken)
    }

    /// The newest picture that was not taken yet.
    pub(super) fn newest(&mut self, path: Path) -> Option<Newest> {
        match path {
            Path::ResourceId => self.newest_slot(),
            Path::Pixels => {
                let picture = self.canvas.as_ref()?.picture()?;
                let (seq, capture_ns, since_ns) = self.changed.take()?;
                Some(Newest {
                    fresh: Fresh { picture, seq, capture_ns, since_ns },
                    read_us: None,
                    dropped: Vec::new(),
                })
            }
        }
    }

    fn newest_slot(&mut self) -> Option<Newest> {
        let slot = self.ring.as_mut()?.consumer.newest()?;
        let meta = slot.meta();
        let dropped = slot.dropped().to_vec();
        let picture = Picture {
            format: meta.format,
            width: meta.width,
            height: meta.height,
            stride: meta.stride,
            data: Bytes::from_owner(slot),
        };
        let fresh = Fresh { picture, seq: meta.seq, capture_ns: meta.capture_ns, since_ns: meta.full_at_ns };
        Some(Newest { fresh, read_us: Some(meta.read_ns / 1000), dropped })
    }
}
