//! The frames that the pump is responsible for: the newest one, and those in flight.
//!
//! Every captured frame ends as encoded, refused or dropped; drops are counted here by place.

use std::sync::Arc;
use std::time::{Duration, Instant};

use capture::Frame;
use encode::in_flight::InFlight;

use crate::report::Report;

/// Frames of the pump.
#[derive(Debug)]
pub struct Frames {
    report: Arc<Report>,
    /// The newest frame. Kept after submission, so that an unchanged picture survives a change of path.
    newest: Option<Newest>,
    /// `newest` has to be submitted (again).
    pending: bool,
    /// Submitted frames by sequence number; the value is the capture time.
    in_flight: InFlight<u64>,
    overwritten: u64,
}

#[derive(Debug)]
struct Newest {
    frame: Frame,
    submitted: bool,
}

impl Frames {
    /// Creates an empty set that allows `max_in_flight` frames in flight.
    pub fn new(max_in_flight: usize, report: Arc<Report>) -> Self {
        Self { report, newest: None, pending: false, in_flight: InFlight::new(max_in_flight), overwritten: 0 }
    }

    /// True if another frame must not be submitted.
    pub fn is_full(&self) -> bool {
        self.in_flight.is_full()
    }

    /// Takes a captured frame. A previous one that was not submitted is dropped; its damage is added to this one's.
    pub fn hold(&mut self, mut frame: Frame) {
        self.report.update(|status| status.frames.captured += 1);
        if let Some(old) = self.newest.take()
            && !old.submitted
        {
            self.report.dropped(|drops| drops.capture += 1);
            if (old.frame.width, old.frame.height) == (frame.width, frame.height) {
                frame.damage = frame.damage.union(old.frame.damage);
            }
        }
        self.newest = Some(Newest { frame, submitted: false });
        self.pending = true;
    }

    /// Counts the frames that capture overwrote, from its counter.
    pub fn count_overwritten(&mut self, total: u64) {
        let new = total.saturating_sub(self.overwritten);
        self.overwritten = total;
        if new > 0 {
            self.report.update(|status| {
                status.frames.captured += new;
                status.frames.drops.capture += new;
            });
        }
    }

    /// Takes the frame to submit, if there is one. It must be given to [`Self::put_back`].
    pub fn take_pending(&mut self) -> Option<Frame> {
        if !self.pending {
            return None;
        }
        self.newest.take().map(|newest| newest.frame)
    }

    /// Returns the frame of [`Self::take_pending`]; unless `submitted`, it stays pending.
    pub fn put_back(&mut self, frame: Frame, submitted: bool) {
        self.newest = Some(Newest { frame, submitted });
        self.pending = !submitted;
    }

    /// Makes the newest frame pending again.
    pub fn resubmit(&mut self) {
        self.pending = true;
    }

    /// Removes the newest frame, whose buffer is no longer valid.
    pub fn discard_newest(&mut self) {
        if self.newest.take().is_some_and(|newest| !newest.submitted) {
            self.report.dropped(|drops| drops.capture += 1);
        }
        self.pending = false;
    }

    /// Begins flight of a frame submitted as `seq`.
    pub fn begin(&mut self, seq: u64, frame: &Frame) {
        // Cannot fail: the pump submits only while `is_full` is false.
        let _ = self.in_flight.begin(seq, frame.capture_ns, Instant::now());
    }

    /// Ends flight of frame `seq`, whose access unit arrived. Older frames in flight were overwritten in the
    /// host-agent.
    pub fn encoded(&mut self, seq: u64) {
        let dropped = self.in_flight.complete_through(seq).len().saturating_sub(1);
        self.count_host_agent(dropped);
    }

    /// Ends flight of frame `seq`, which the host-agent dropped.
    pub fn dropped_by_host_agent(&mut self, seq: u64) {
        let dropped = self.in_flight.complete_through(seq).len();
        self.count_host_agent(dropped);
    }

    fn count_host_agent(&self, dropped: usize) {
        if dropped > 0 {
            self.report.dropped(|drops| drops.host_agent += dropped as u64);
        }
    }

    /// Ends flight of frames older than `timeout`.
    pub fn expire(&mut self, now: Instant, timeout: Duration) {
        let expired = self.in_flight.expire(now, timeout).len() as u64;
        if expired > 0 {
            self.report.dropped(|drops| drops.expired += expired);
        }
    }

    /// Ends all flights: connection, binding or path changed. `current` is the frame taken for submission, if any;
    /// it, or else the newest frame, is submitted again and does not count as dropped.
    pub fn interrupt(&mut self, current: Option<&Frame>) {
        let kept = current
            .or_else(|| self.newest.as_ref().map(|newest| &newest.frame))
            .map(|frame| frame.capture_ns);
        let (mut dropped, mut kept_in_flight) = (0, false);
        for entry in self.in_flight.clear() {
            if Some(entry.value) == kept {
                kept_in_flight = true;
            } else {
                dropped += 1;
            }
        }
        if kept_in_flight && let Some(newest) = &mut self.newest {
            newest.submitted = false;
        }
        if dropped > 0 {
            self.report.dropped(|drops| drops.interrupted += dropped);
        }
        self.pending = true;
    }
}

#[cfg(test)]
mod tests {
    use capture::{FrameBuffer, Lease, ShmView};
    use contract::sidecar_status::{DropCounts, FrameCounts};
    use protocol::{PixelFormat, Rect};
    use virtgpu::SharedMap;

    use super::*;

    fn frame(capture_ns: u64, damage: Rect) -> Frame {
        let (map, _) = SharedMap::create("test", 4096).expect("memfd");
        Frame {
            seq: 0,
            capture_ns,
            width: 16,
            height: 16,
            format: PixelFormat::Bgrx,
            damage,
            buffer: FrameBuffer::Shm(ShmView::new(Arc::new(map), 0, 64, 16).expect("fits")),
            lease: Lease::default(),
        }
    }

    struct Bench {
        frames: Frames,
        report: Arc<Report>,
        seq: u64,
    }

    impl Bench {
        fn new() -> Self {
            let report = Arc::new(Report::new("test".into()));
            Self { frames: Frames::new(2, Arc::clone(&report)), report, seq: 0 }
        }

        fn hold(&mut self, capture_ns: u64) {
            self.frames.hold(frame(capture_ns, Rect::full(16, 16)));
        }

        /// Submits the pending frame; its sequence number.
        fn submit(&mut self) -> u64 {
            let frame = self.frames.take_pending().expect("pending");
            self.seq += 1;
            self.frames.begin(self.seq, &frame);
            self.frames.put_back(frame, true);
            self.seq
        }

        fn counts(&self) -> FrameCounts {
            self.report.status(0, 0).frames
        }
    }

    #[test]
    fn frame_replaced_before_submission_is_dropped_and_its_damage_kept() {
        let mut bench = Bench::new();
        bench.frames.hold(frame(1, Rect { x: 0, y: 0, width: 2, height: 2 }));
        let held = bench.frames.take_pending().expect("pending");
        bench.frames.put_back(held, false);
        bench.frames.hold(frame(2, Rect { x: 6, y: 0, width: 2, height: 2 }));
        let next = bench.frames.take_pending().expect("pending");
        assert_eq!(next.damage, Rect { x: 0, y: 0, width: 8, height: 2 });
        bench.frames.put_back(next, true);
        bench.hold(3);
        let counts = bench.counts();
        assert_eq!((counts.captured, counts.dropped, counts.drops.capture), (3, 1, 1));
    }

    #[test]
    fn frames_overwritten_in_the_slot_are_captured_and_dropped() {
        let mut bench = Bench::new();
        bench.frames.count_overwritten(3);
        bench.frames.count_overwritten(3);
        bench.frames.count_overwritten(4);
        let counts = bench.counts();
        assert_eq!((counts.captured, counts.dropped, counts.drops.capture), (4, 4, 4));
    }

    #[test]
    fn frames_dropped_by_the_host_agent_are_counted_once() {
        let mut bench = Bench::new();
        bench.hold(1);
        let first = bench.submit();
        bench.hold(2);
        let second = bench.submit();
        assert!(bench.frames.is_full());
        bench.frames.dropped_by_host_agent(first);
        bench.frames.dropped_by_host_agent(first);
        bench.frames.encoded(second);
        assert_eq!(bench.counts().drops, DropCounts { host_agent: 1, ..DropCounts::default() });
        // The newer one's access unit arrives first: the older one was overwritten.
        bench.hold(3);
        bench.submit();
        bench.hold(4);
        let fourth = bench.submit();
        bench.frames.encoded(fourth);
        assert_eq!(bench.counts().dropped, 2);
        assert!(!bench.frames.is_full());
    }

    #[test]
    fn frame_without_answer_expires_once() {
        let mut bench = Bench::new();
        bench.hold(1);
        bench.submit();
        let now = Instant::now();
        bench.frames.expire(now, FRAME_TIMEOUT);
        assert_eq!(bench.counts().dropped, 0);
        bench.frames.expire(now + 2 * FRAME_TIMEOUT, FRAME_TIMEOUT);
        bench.frames.expire(now + 3 * FRAME_TIMEOUT, FRAME_TIMEOUT);
        assert_eq!(bench.counts().drops, DropCounts { expired: 1, ..DropCounts::default() });
    }

    #[test]
    fn interruption_drops_all_frames_in_flight_but_the_one_submitted_again() {
        let mut bench = Bench::new();
        bench.hold(1);
        bench.submit();
        bench.hold(2);
        bench.submit();
        bench.frames.interrupt(None);
        assert_eq!(bench.counts().drops, DropCounts { interrupted: 1, ..DropCounts::default() });
        // Replaced before it could be submitted again: dropped after all.
        bench.hold(3);
        assert_eq!(bench.counts().drops.capture, 1);
        bench.submit();
        bench.frames.interrupt(None);
        let last = bench.submit();
        bench.frames.encoded(last);
        assert_eq!(bench.counts().dropped, 2);
    }

    const FRAME_TIMEOUT: Duration = Duration::from_secs(1);
}
