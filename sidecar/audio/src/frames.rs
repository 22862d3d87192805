//! Cuts samples into frames of one packet each and determines the time of each frame.

use protocol::rate::{RateLimit, TokenBucket};

use crate::error::AudioError;
use crate::{CHANNELS, FRAME_BYTES, FRAMES_PER_PACKET, SAMPLE_RATE};

const NS_PER_SECOND: u64 = 1_000_000_000;
/// Difference between the observed and the expected time of samples that means lost sound, ns.
const GAP_NS: u64 = 100_000_000;
/// Fraction of the elapsed time by which the expected time moves towards later observations: clocks drift by less.
const DRIFT: u64 = 1000;
/// Limit on frames: the rate of the format and a tenth more, and what a daemon may deliver at once after a pause.
const FRAME_LIMIT: RateLimit = RateLimit::new(110, 100);

/// Samples of one packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Time of the first sample, ns of `CLOCK_MONOTONIC`.
    pub capture_ns: u64,
    /// True if the frame does not continue the preceding one.
    pub discontinuity: bool,
    /// Interleaved samples.
    pub samples: Vec<i16>,
}

const fn duration_ns(frames: usize) -> u64 {
    frames as u64 * NS_PER_SECOND / SAMPLE_RATE as u64
}

/// Estimates when samples were played from when they arrive.
///
/// Samples arrive at the end of the daemon's cycle or later, never earlier. The estimate is the lower envelope of the
/// observations, which rises slowly so that it follows a drift of clocks.
#[derive(Debug, Default)]
struct Timeline {
    next_ns: Option<u64>,
}

impl Timeline {
    /// Time of the first of `frames` sample frames that arrived at `now_ns`, and true if sound was lost before them.
    fn stamp(&mut self, frames: usize, now_ns: u64) -> (u64, bool) {
        let duration = duration_ns(frames);
        let observed = now_ns.saturating_sub(duration);
        let (start, gap) = match self.next_ns {
            Some(expected) if expected.abs_diff(observed) <= GAP_NS => {
                (observed.min(expected + duration / DRIFT), false)
            }
            _ => (observed, true),
        };
        self.next_ns = Some(start + duration);
        (start, gap)
    }
}

/// Collects samples until they fill a frame.
#[derive(Debug)]
pub struct Framer {
    timeline: Timeline,
    limit: TokenBucket,
    pending: Vec<i16>,
    discontinuity: bool,
}

impl Default for Framer {
    fn default() -> Self {
        Self {
            timeline: Timeline::default(),
            limit: TokenBucket::new(FRAME_LIMIT),
            pending: Vec::with_capacity(2 * FRAMES_PER_PACKET * CHANNELS),
            discontinuity: true,
        }
    }
}

impl Framer {
    /// Adds interleaved samples, little-endian `i16`, that arrived at `now_ns`; passes complete frames to `deliver`.
    ///
    /// # Errors
    /// [`AudioError::TooFast`] if the samples exceed the rate of their format, or the error of `deliver`.
    pub fn push(
        &mut self,
        bytes: &[u8],
        now_ns: u64,
        deliver: &mut impl FnMut(Frame) -> Result<(), AudioError>,
    ) -> Result<(), AudioError> {
        let frames = bytes.len() / FRAME_BYTES;
        if frames == 0 {
            return Ok(());
        }
        let (start, gap) = self.timeline.stamp(frames, now_ns);
        if gap {
            self.pending.clear();
            self.discontinuity = true;
        }
        let mut capture_ns = start.saturating_sub(duration_ns(self.pending.len() / CHANNELS));
        let mut rest = &bytes[..frames * FRAME_BYTES];
        while !rest.is_empty() {
            let missing = (FRAMES_PER_PACKET * CHANNELS - self.pending.len()) * size_of::<i16>();
            let (now, later) = rest.split_at(missing.min(rest.len()));
            self.pending.extend(
                now.chunks_exact(size_of::<i16>()).map(|bytes| i16::from_le_bytes([bytes[0], bytes[1]])),
            );
            rest = later;
            if self.pending.len() < FRAMES_PER_PACKET * CHANNELS {
                break;
            }
            if !self.limit.try_take(now_ns) {
                return Err(AudioError::TooFast);
            }
            let samples =
                std::mem::replace(&mut self.pending, Vec::with_capacity(FRAMES_PER_PACKET * CHANNELS));
            let discontinuity = std::mem::take(&mut self.discontinuity);
            deliver(Frame { capture_ns, discontinuity, samples })?;
            capture_ns += duration_ns(FRAMES_PER_PACKET);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const START: u64 = 1 << 40;
    /// Sample frames of a cycle of the daemon, and its duration.
    const CYCLE: usize = 240;
    const CYCLE_NS: u64 = 5 * MS;

    fn bytes(samples: &[i16]) -> Vec<u8> {
        samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
    }

    /// Frames of cycles that arrive at the given times.
    fn frames_of(arrivals: impl IntoIterator<Item = u64>) -> Vec<Frame> {
        let (mut framer, mut frames) = (Framer::default(), Vec::new());
        for now in arrivals {
            let cycle = bytes(&[500; CYCLE * CHANNELS]);
            framer
                .push(&cycle, now, &mut |frame| {
                    frames.push(frame);
                    Ok(())
                })
                .expect("within the limits");
        }
        frames
    }

    #[test]
    fn samples_are_cut_into_packets_whatever_the_size_of_their_buffers() {
        let all: Vec<i16> = (0..4 * 480 * 2).collect();
        for size in [1, 7, 256, 1024, 1920] {
            let (mut framer, mut frames, mut now) = (Framer::default(), Vec::new(), START);
            for chunk in all.chunks(size * CHANNELS) {
                now += duration_ns(chunk.len() / CHANNELS);
                framer
                    .push(&bytes(chunk), now, &mut |frame| {
                        frames.push(frame);
                        Ok(())
                    })
                    .expect("a rate in bounds");
            }
            assert_eq!(
                frames.iter().flat_map(|frame| frame.samples.clone()).collect::<Vec<_>>(),
                all,
                "{size}"
            );
            assert!(frames.iter().all(|frame| frame.samples.len() == FRAMES_PER_PACKET * CHANNELS));
            for (number, frame) in frames.iter().enumerate() {
                let expected = START + number as u64 * 10 * MS;
                assert!(frame.capture_ns.abs_diff(expected) < MS, "{size}: frame {number}");
                assert_eq!(frame.discontinuity, number == 0);
            }
        }
    }

    #[test]
    fn jitter_of_arrivals_does_not_move_the_capture_times() {
        // Cycles arrive in bursts of six: five are late, and the last one is on time.
        let arrivals = (1..=300_u64).map(|n| START + n.div_ceil(6) * 6 * CYCLE_NS);
        let frames = frames_of(arrivals);
        for (number, frame) in (0..).zip(&frames).skip(3) {
            let expected = START + number * 10 * MS;
            assert!(
                frame.capture_ns.abs_diff(expected) < MS,
                "{number}: {}, not {expected}",
                frame.capture_ns
            );
        }
        assert_eq!(frames.iter().filter(|frame| frame.discontinuity).count(), 1);
    }

    #[test]
    fn lost_sound_is_a_discontinuity_and_its_time_is_observed() {
        let arrivals = (1..=100).map(|n| START + n * CYCLE_NS + if n > 50 { 400 * MS } else { 0 });
        let frames = frames_of(arrivals);
        let marked: Vec<&Frame> = frames.iter().filter(|frame| frame.discontinuity).collect();
        assert_eq!(marked.len(), 2);
        assert_eq!(marked[1].capture_ns, START + 50 * CYCLE_NS + 400 * MS);
    }

    #[test]
    fn sound_faster_than_real_time_ends_the_capture() {
        let mut framer = Framer::default();
        let cycle = bytes(&[500; CYCLE * CHANNELS]);
        let mut frames = 0;
        let result = (0..10_000).try_for_each(|n| {
            framer.push(&cycle, START + n * MS, &mut |_| {
                frames += 1;
                Ok(())
            })
        });
        assert!(matches!(result, Err(AudioError::TooFast)));
        assert!(frames < 300, "{frames}");
    }

    #[test]
    fn incomplete_sample_frames_are_ignored() {
        let mut framer = Framer::default();
        for size in 0..FRAME_BYTES {
            framer
                .push(&vec![1; size], START, &mut |_| Err(AudioError::TooFast))
                .expect("nothing to deliver");
        }
        assert!(framer.pending.is_empty());
    }
}
