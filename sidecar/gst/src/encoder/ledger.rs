//! Frames in flight, and the timestamps of the access units that return, without IO or clock.
//!
//! A frame is identified by its capture time, which the host-agent returns. An access unit that matches no frame in
//! flight repeats a picture. Timestamps increase strictly, as muxers require: a repeat is stamped by the clock, and
//! the next frame may have been drawn before that repeat arrived.

use std::time::{Duration, Instant};

use encode::in_flight::InFlight;
use gstreamer::ClockTime;
use protocol::stream::AccessUnit;

/// Maximum number of frames in flight: one is encoded while the next is read.
const MAX_IN_FLIGHT: usize = 2;
/// Time after which a frame without access unit is lost.
const FRAME_TIMEOUT: Duration = Duration::from_secs(1);
/// Timeout of the first access unit, which includes the encoder's start.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// Minimum difference between two timestamps.
const STEP: ClockTime = ClockTime::USECOND;

/// Timestamp of an access unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Presentation time; `None` if the frame had none.
    pub pts: Option<ClockTime>,
    /// True if the access unit repeats a picture.
    pub repeat: bool,
}

/// Frames in flight and their timestamps.
#[derive(Debug)]
pub struct Ledger {
    /// By capture time, ns.
    in_flight: InFlight<Option<ClockTime>>,
    /// Last timestamp, and when it was given.
    last: Option<(ClockTime, Instant)>,
    /// An IDR arrived: the access units that follow can be decoded.
    started: bool,
    /// Frames whose access units will not arrive.
    lost: u64,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { in_flight: InFlight::new(MAX_IN_FLIGHT), last: None, started: false, lost: 0 }
    }
}

impl Ledger {
    /// True if another frame may be submitted.
    ///
    /// Until the first access unit only one frame may be in flight: while the connection, the binding or the encoder
    /// is not ready, a second frame would replace the first.
    pub fn has_room(&mut self, now: Instant) -> bool {
        self.expire(now);
        if self.started { !self.in_flight.is_full() } else { self.in_flight.is_empty() }
    }

    /// True if no frame is in flight.
    pub fn is_empty(&mut self, now: Instant) -> bool {
        self.expire(now);
        self.in_flight.is_empty()
    }

    /// Gives up overdue frames. Before the first access unit none is; see [`Self::is_stuck`].
    fn expire(&mut self, now: Instant) {
        if self.started {
            self.lost += self.in_flight.expire(now, FRAME_TIMEOUT).len() as u64;
        }
    }

    /// Records that a frame is submitted.
    pub fn begin(&mut self, capture_ns: u64, pts: Option<ClockTime>, now: Instant) {
        if self.in_flight.begin(capture_ns, pts, now).is_err() {
            self.lost += 1;
        }
    }

    /// Stamps an access unit; `None` if it cannot be decoded because an IDR is missing.
    pub fn complete(&mut self, unit: &AccessUnit, now: Instant) -> Option<Stamp> {
        let mut frame = None;
        if !unit.repeat {
            let mut completed = self.in_flight.complete_through(unit.capture_ns);
            frame = completed.next_back();
            // Older frames were dropped on the way.
            self.lost += completed.len() as u64;
        }
        self.started |= unit.idr;
        if !self.started {
            return None;
        }
        let drawn = match &frame {
            Some(frame) => frame.value,
            None => self.last.map(|(pts, at)| pts + clock_time(now.duration_since(at))),
        };
        let earliest = self.last.map(|(pts, _)| pts + STEP);
        let pts = drawn.map(|pts| earliest.map_or(pts, |earliest| pts.max(earliest)));
        if let Some(pts) = pts {
            self.last = Some((pts, now));
        }
        Some(Stamp { pts, repeat: frame.is_none() })
    }

    /// Records that the host-agent dropped a frame: the oldest, since the newest wins.
    pub fn dropped(&mut self) {
        if self.in_flight.complete_oldest().is_some() {
            self.lost += 1;
        }
    }

    /// Records a change of the encoder: access units are discarded until its first IDR. The pump submits the newest
    /// frame in flight again.
    pub fn interrupt(&mut self) {
        self.started = false;
    }

    /// Gives up all frames in flight, because pictures of another format follow.
    pub fn clear(&mut self) {
        self.lost += self.in_flight.clear().len() as u64;
        self.started = false;
    }

    /// True if the first access unit has not arrived within 15 s.
    pub fn is_stuck(&self, now: Instant) -> bool {
        !self.started && self.in_flight.oldest_age(now).is_some_and(|age| age >= START_TIMEOUT)
    }

    /// Number of frames without access unit.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

fn clock_time(duration: Duration) -> ClockTime {
    ClockTime::from_nseconds(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const MS: ClockTime = ClockTime::MSECOND;

    fn unit(capture_ns: u64, idr: bool, repeat: bool) -> AccessUnit {
        AccessUnit { seq: 0, capture_ns, idr, repeat, queue_us: 0, encode_us: 0, data: Bytes::new() }
    }

    fn pts(stamp: Option<Stamp>) -> Option<ClockTime> {
        stamp.expect("decodable").pts
    }

    #[test]
    fn access_units_have_the_timestamps_of_their_frames() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        assert!(ledger.has_room(now));
        ledger.begin(1, Some(100 * MS), now);
        assert!(!ledger.has_room(now), "one frame before the first access unit");
        assert_eq!(
            ledger.complete(&unit(1, true, false), now),
            Some(Stamp { pts: Some(100 * MS), repeat: false })
        );
        ledger.begin(2, Some(116 * MS), now);
        assert!(ledger.has_room(now));
        ledger.begin(3, Some(133 * MS), now);
        assert!(!ledger.has_room(now));
        assert_eq!(pts(ledger.complete(&unit(2, false, false), now)), Some(116 * MS));
        assert_eq!(pts(ledger.complete(&unit(3, false, false), now)), Some(133 * MS));
        assert!(ledger.is_empty(now));
        assert_eq!(ledger.lost(), 0);
    }

    #[test]
    fn frames_older_than_a_completed_one_are_lost() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        ledger.begin(1, Some(MS), now);
        ledger.begin(2, Some(2 * MS), now);
        assert_eq!(pts(ledger.complete(&unit(2, true, false), now)), Some(2 * MS));
        assert!(ledger.is_empty(now));
        assert_eq!(ledger.lost(), 1);
    }

    #[test]
    fn repeats_are_stamped_by_the_clock_and_timestamps_increase() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        ledger.begin(1, Some(100 * MS), now);
        ledger.complete(&unit(1, true, false), now);
        let later = now + Duration::from_millis(100);
        assert_eq!(
            ledger.complete(&unit(1, false, true), later),
            Some(Stamp { pts: Some(200 * MS), repeat: true })
        );
        // Drawn before the repeat arrived.
        ledger.begin(2, Some(190 * MS), later);
        assert_eq!(pts(ledger.complete(&unit(2, false, false), later)), Some(200 * MS + STEP));
    }

    #[test]
    fn access_units_before_an_idr_are_discarded() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        ledger.begin(1, Some(MS), now);
        assert_eq!(ledger.complete(&unit(1, false, false), now), None);
        ledger.begin(2, Some(2 * MS), now);
        assert!(ledger.complete(&unit(2, true, false), now).is_some());
        ledger.begin(3, Some(3 * MS), now);
        ledger.interrupt();
        assert_eq!(ledger.complete(&unit(2, false, true), now), None, "of the previous encoder");
        assert_eq!(pts(ledger.complete(&unit(3, true, false), now)), Some(3 * MS), "submitted again");
        ledger.begin(4, Some(4 * MS), now);
        ledger.clear();
        assert!(ledger.is_empty(now));
        assert_eq!(ledger.lost(), 1);
    }

    #[test]
    fn frame_without_access_unit_is_lost_after_its_timeout() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        ledger.begin(1, None, now);
        assert!(!ledger.has_room(now + START_TIMEOUT * 2), "encoders start slowly");
        assert!(!ledger.is_stuck(now + FRAME_TIMEOUT * 2));
        assert!(ledger.is_stuck(now + START_TIMEOUT));
        ledger.complete(&unit(1, true, false), now);
        for frame in [2, 3] {
            ledger.begin(frame, None, now);
        }
        assert!(!ledger.has_room(now + FRAME_TIMEOUT / 2));
        assert!(!ledger.is_stuck(now + START_TIMEOUT), "started");
        assert!(ledger.has_room(now + FRAME_TIMEOUT * 2));
        assert_eq!(ledger.lost(), 2);
        ledger.begin(4, None, now);
        ledger.dropped();
        assert!(ledger.is_empty(now));
        assert_eq!(ledger.lost(), 3);
    }
}
