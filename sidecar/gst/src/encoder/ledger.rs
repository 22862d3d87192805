//! The ledger: which frames are under way, and what time the access units get that come back. Pure: no IO, no
//! clock of its own.
//!
//! A frame is known by its capture time, which the host-agent repeats; frames that were dropped on the way are
//! those older than one that came back. An access unit of no frame under way repeats a picture. Times only
//! rise, so that no muxer complains: a repeat is dated by the clock and the next frame was drawn before that
//! repeat came.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use gstreamer::ClockTime;
use protocol::stream::AccessUnit;

/// Frames between here and the host-agent: one being read, one being encoded.
const UNDER_WAY: usize = 2;
/// A frame that has not come back after this was lost.
const LOST: Duration = Duration::from_secs(1);
/// How long the first access unit may take: encoders start slowly.
const START: Duration = Duration::from_secs(15);
/// The least between two access units.
const STEP: ClockTime = ClockTime::USECOND;

#[derive(Debug, Clone, Copy)]
struct Frame {
    capture_ns: u64,
    pts: Option<ClockTime>,
    since: Instant,
}

/// What an access unit gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// When to show it.
    pub pts: Option<ClockTime>,
    /// It shows no new picture.
    pub repeat: bool,
}

/// The ledger.
#[derive(Debug, Default)]
pub struct Ledger {
    under_way: VecDeque<Frame>,
    /// The newest time given, and when.
    last: Option<(ClockTime, Instant)>,
    /// An IDR came: what follows can be decoded.
    open: bool,
    /// Frames whose access units will not come.
    lost: u64,
}

impl Ledger {
    /// Whether another frame may go. Until the first access unit came only one may: the connection, the
    /// binding and the encoder may all still be on their way, and a second frame would replace the first.
    pub fn room(&mut self, now: Instant) -> bool {
        let limit = if self.open { UNDER_WAY } else { 1 };
        self.forget(now);
        self.under_way.len() < limit
    }

    /// Whether nothing is under way.
    pub fn is_empty(&mut self, now: Instant) -> bool {
        self.forget(now);
        self.under_way.is_empty()
    }

    /// Gives up what is overdue; of a stream that has not begun see [`Self::stuck`].
    fn forget(&mut self, now: Instant) {
        let overdue = |frame: &Frame| now.duration_since(frame.since) > LOST;
        while self.open && self.under_way.front().is_some_and(overdue) {
            self.under_way.pop_front();
            self.lost += 1;
        }
    }

    /// A frame goes.
    pub fn enter(&mut self, capture_ns: u64, pts: Option<ClockTime>, now: Instant) {
        self.under_way.push_back(Frame { capture_ns, pts, since: now });
    }

    /// The stamp of an access unit; `None` if it can't be decoded without one that is missing.
    pub fn land(&mut self, unit: &AccessUnit, now: Instant) -> Option<Stamp> {
        let frame = self
            .under_way
            .iter()
            .position(|frame| frame.capture_ns == unit.capture_ns && !unit.repeat)
            .and_then(|at| {
                self.lost += at as u64;
                self.under_way.drain(..=at).next_back()
            });
        self.open |= unit.idr;
        if !self.open {
            return None;
        }
        let drawn = match frame {
            Some(frame) => frame.pts,
            None => self.last.map(|(pts, at)| pts + clock_time(now.duration_since(at))),
        };
        let after = self.last.map(|(pts, _)| pts + STEP);
        let pts = drawn.map(|pts| after.map_or(pts, |after| pts.max(after)));
        if let Some(pts) = pts {
            self.last = Some((pts, now));
        }
        Some(Stamp { pts, repeat: frame.is_none() })
    }

    /// The host-agent dropped a frame: the older one, as the newer one wins.
    pub fn dropped(&mut self) {
        if self.under_way.pop_front().is_some() {
            self.lost += 1;
        }
    }

    /// Another encoder: what comes begins with an IDR. The newest frame under way is carried again.
    pub fn interrupt(&mut self) {
        self.open = false;
    }

    /// Other pictures follow: nothing is under way any more.
    pub fn clear(&mut self) {
        self.lost += self.under_way.len() as u64;
        self.under_way.clear();
        self.open = false;
    }

    /// Whether the first access unit is waited for, and for too long.
    pub fn stuck(&self, now: Instant) -> bool {
        !self.open && self.under_way.front().is_some_and(|frame| now.duration_since(frame.since) >= START)
    }

    /// Frames that were given and did not come back.
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
        stamp.expect("goes out").pts
    }

    #[test]
    fn frames_keep_their_times() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        assert!(ledger.room(now));
        ledger.enter(1, Some(100 * MS), now);
        assert!(!ledger.room(now), "the first one alone");
        assert_eq!(
            ledger.land(&unit(1, true, false), now),
            Some(Stamp { pts: Some(100 * MS), repeat: false })
        );
        ledger.enter(2, Some(116 * MS), now);
        assert!(ledger.room(now));
        ledger.enter(3, Some(133 * MS), now);
        assert!(!ledger.room(now));
        assert_eq!(pts(ledger.land(&unit(2, false, false), now)), Some(116 * MS));
        assert_eq!(pts(ledger.land(&unit(3, false, false), now)), Some(133 * MS));
        assert!(ledger.is_empty(now));
        assert_eq!(ledger.lost(), 0);
    }

    #[test]
    fn a_newer_frame_tells_that_older_ones_are_lost() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        ledger.enter(1, Some(MS), now);
        ledger.enter(2, Some(2 * MS), now);
        assert_eq!(pts(ledger.land(&unit(2, true, false), now)), Some(2 * MS));
        assert!(ledger.is_empty(now));
        assert_eq!(ledger.lost(), 1);
    }

    #[test]
    fn repeats_are_dated_by_the_clock_and_times_only_rise() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        ledger.enter(1, Some(100 * MS), now);
        ledger.land(&unit(1, true, false), now);
        let later = now + Duration::from_millis(100);
        assert_eq!(
            ledger.land(&unit(1, false, true), later),
            Some(Stamp { pts: Some(200 * MS), repeat: true })
        );
        // Drawn before the repeat came.
        ledger.enter(2, Some(190 * MS), later);
        assert_eq!(pts(ledger.land(&unit(2, false, false), later)), Some(200 * MS + STEP));
    }

    #[test]
    fn nothing_goes_out_before_an_idr() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        ledger.enter(1, Some(MS), now);
        assert_eq!(ledger.land(&unit(1, false, false), now), None);
        ledger.enter(2, Some(2 * MS), now);
        assert!(ledger.land(&unit(2, true, false), now).is_some());
        ledger.enter(3, Some(3 * MS), now);
        ledger.interrupt();
        assert_eq!(ledger.land(&unit(2, false, true), now), None, "of the encoder before");
        assert_eq!(pts(ledger.land(&unit(3, true, false), now)), Some(3 * MS), "carried again");
        ledger.enter(4, Some(4 * MS), now);
        ledger.clear();
        assert!(ledger.is_empty(now));
        assert_eq!(ledger.lost(), 1);
    }

    #[test]
    fn what_does_not_come_back_is_not_waited_for_for_ever() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        ledger.enter(1, None, now);
        assert!(!ledger.room(now + START * 2), "encoders start slowly");
        assert!(!ledger.stuck(now + LOST * 2));
        assert!(ledger.stuck(now + START));
        ledger.land(&unit(1, true, false), now);
        for frame in [2, 3] {
            ledger.enter(frame, None, now);
        }
        assert!(!ledger.room(now + LOST / 2));
        assert!(!ledger.stuck(now + START), "it has begun");
        assert!(ledger.room(now + LOST * 2));
        assert_eq!(ledger.lost(), 2);
        ledger.enter(4, None, now);
        ledger.dropped();
        assert!(ledger.is_empty(now));
        assert_eq!(ledger.lost(), 3);
    }
}
