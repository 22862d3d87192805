//! Closes during silence, so that silence costs neither encoding nor packets.

use crate::frames::Frame;

/// Largest sample of silence: the noise of conversions.
const SILENCE: u16 = 1;
/// Number of silent frames that are encoded before the gate closes: decaying sound, and the decoder's overlap, end in them.
pub(crate) const HANGOVER: u32 = 20;

/// A gate; it starts closed.
#[derive(Debug)]
pub struct Gate {
    /// Silent frames in succession.
    silent: u32,
}

impl Default for Gate {
    fn default() -> Self {
        Self { silent: HANGOVER }
    }
}

impl Gate {
    /// `None` if the frame is not to be encoded, else whether it does not continue the preceding packet.
    pub fn admit(&mut self, frame: &Frame) -> Option<bool> {
        let closed = self.silent >= HANGOVER;
        if frame.samples.iter().all(|sample| sample.unsigned_abs() <= SILENCE) {
            self.silent = self.silent.saturating_add(1);
            return (!closed).then_some(frame.discontinuity);
        }
        self.silent = 0;
        Some(closed || frame.discontinuity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CHANNELS, FRAMES_PER_PACKET};

    fn frame(sample: i16) -> Frame {
        Frame { capture_ns: 0, discontinuity: false, samples: vec![sample; FRAMES_PER_PACKET * CHANNELS] }
    }

    #[test]
    fn silence_from_the_start_is_not_admitted() {
        let mut gate = Gate::default();
        assert!((0..1000).all(|_| gate.admit(&frame(0)).is_none()));
        assert_eq!(gate.admit(&frame(100)), Some(true), "sound after silence is a discontinuity");
        assert_eq!(gate.admit(&frame(-100)), Some(false));
    }

    #[test]
    fn silence_after_sound_is_admitted_for_the_hangover_only() {
        let mut gate = Gate::default();
        gate.admit(&frame(100));
        let admitted = (0..1000).filter(|_| gate.admit(&frame(-1)).is_some()).count();
        assert_eq!(admitted, HANGOVER as usize);
    }

    #[test]
    fn pause_shorter_than_the_hangover_is_no_discontinuity() {
        let mut gate = Gate::default();
        gate.admit(&frame(100));
        for _ in 1..HANGOVER {
            gate.admit(&frame(0));
        }
        assert_eq!(gate.admit(&frame(100)), Some(false));
    }
}
