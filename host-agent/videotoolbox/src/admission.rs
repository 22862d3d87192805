//! How many streams a Mac's encoder takes. VideoToolbox can't be asked, and answers too many with its service's death,
//! which ends all of them: so it is reckoned here, and the one too many is refused with words.
//!
//! Time: a 1080p picture takes 5.8 ms and a 2160p one 18.9 ms of the encoder, so a picture takes
//! [`PICTURE_US`] and [`MEGAPIXEL_US`] for each million of its pixels. Desktops stand still most of the time, so the
//! encoder's time is given away [`Limits::overbooking`] times; when all move at once, frames are dropped.
//! Memory: the service is killed at 1 GB. A session has about [`PICTURES`] pictures in it, and [`SESSION_BYTES`].

use std::sync::{Arc, Mutex, PoisonError};

use encode::{EncodeError, Settings};

/// Time of the encoder for a picture of no pixels, us.
const PICTURE_US: u64 = 1_430;
/// Time for a million pixels, us.
const MEGAPIXEL_US: u64 = 2_110;
/// Pictures that a session keeps: references, input, reconstruction.
const PICTURES: u64 = 6;
/// What a session has besides pictures.
const SESSION_BYTES: u64 = 24 << 20;

/// What the encoder may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How many times the encoder's time is given away.
    pub overbooking: u64,
    /// Memory of the encoder's service.
    pub bytes: u64,
}

impl Default for Limits {
    /// A tenth below what the service dies of.
    fn default() -> Self {
        Self { overbooking: 4, bytes: 900 << 20 }
    }
}

/// What a stream takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Time of the encoder in each second, us.
    pub us: u64,
    /// Memory of its service.
    pub bytes: u64,
}

impl Load {
    /// Of a stream at its full rate.
    pub fn of(settings: &Settings) -> Self {
        let pixels = u64::from(settings.width) * u64::from(settings.height);
        Self {
            us: u64::from(settings.max_fps) * (PICTURE_US + pixels * MEGAPIXEL_US / 1_000_000),
            bytes: SESSION_BYTES + PICTURES * pixels * 3 / 2,
        }
    }
}

/// What all streams of this process take.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    taken: Mutex<(usize, Load)>,
}

/// A stream's place; given back when dropped.
#[derive(Debug)]
pub struct Seat {
    admission: Arc<Admission>,
    load: Load,
}

impl Admission {
    /// Nothing is taken yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, taken: Mutex::default() }
    }

    /// Streams, and what they take.
    pub fn taken(&self) -> (usize, Load) {
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more, or why not.
    pub fn admit(self: &Arc<Self>, settings: &Settings) -> Result<Seat, EncodeError> {
        let mut seat = Seat { admission: Arc::clone(self), load: Load::default() };
        self.change(Load::default(), Load::of(settings), settings, true)?;
        seat.load = Load::of(settings);
        Ok(seat)
    }

    fn change(&self, from: Load, to: Load, settings: &Settings, new: bool) -> Result<(), EncodeError> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let others = Load { us: taken.1.us - from.us, bytes: taken.1.bytes - from.bytes };
        let all = Load { us: others.us + to.us, bytes: others.bytes + to.bytes };
        let full = if all.us > self.limits.overbooking * 1_000_000 {
            Some("time")
        } else if all.bytes > self.limits.bytes {
            Some("memory")
        } else {
            None
        };
        if let Some(what) = full {
            return Err(EncodeError::Unsupported(format!(
                "this Mac's encoder has no {what} left for {} x {} at {} fps beside the {} streams that it has; \
                 end one, or ask for fewer pixels or a lower frame rate",
                settings.width, settings.height, settings.max_fps, taken.0
            )));
        }
        taken.0 += usize::from(new);
        taken.1 = all;
        Ok(())
    }
}

impl Seat {
    /// The stream's rate is another now.
    pub fn change(&mut self, settings: &Settings) -> Result<(), EncodeError> {
        let load = Load::of(settings);
        self.admission.change(self.load, load, settings, false)?;
        self.load = load;
        Ok(())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.load == Load::default() {
            return;
        }
        let mut taken = self.admission.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.0 -= 1;
        taken.1.us -= self.load.us;
        taken.1.bytes -= self.load.bytes;
    }
}

#[cfg(test)]
mod tests {
    use encode::Codec;

    use super::*;

    fn settings(width: u32, height: u32, max_fps: u32) -> Settings {
        Settings { width, height, codec: Codec::H264, bitrate_kbps: 1000, max_fps, keyframe_ms: 0 }
    }

    #[test]
    fn measured_times_are_met() {
        assert!((5_700..5_900).contains(&Load::of(&settings(1920, 1080, 1)).us));
        assert!((18_700..19_100).contains(&Load::of(&settings(3840, 2160, 1)).us));
    }

    #[test]
    fn time_runs_out_and_comes_back() {
        let admission = Arc::new(Admission::new(Limits { overbooking: 1, ..Limits::default() }));
        let hd = settings(1920, 1080, 60);
        let first = admission.admit(&hd).expect("room");
        let _second = admission.admit(&hd).expect("room");
        let refused = admission.admit(&hd).expect_err("1.04 s in each second");
        assert!(refused.to_string().contains("no time left") && refused.to_string().contains("2 streams"));
        drop(first);
        assert_eq!(admission.taken().0, 1);
        admission.admit(&hd).expect("room again");
    }

    #[test]
    fn several_5k_sessions_are_too_many() {
        let admission = Arc::new(Admission::new(Limits { overbooking: 1000, ..Limits::default() }));
        let mut seats = Vec::new();
        let refused = loop {
            match admission.admit(&settings(5120, 2880, 30)) {
                Ok(seat) => seats.push(seat),
                Err(refused) => break refused,
            }
        };
        assert!(refused.to_string().contains("no memory left"));
        assert_eq!(seats.len(), 5);
        drop(seats);
        assert_eq!(admission.taken(), (0, Load::default()));
    }

    #[test]
    fn a_changed_rate_is_reckoned_anew() {
        let admission = Arc::new(Admission::new(Limits { overbooking: 1, ..Limits::default() }));
        let mut seat = admission.admit(&settings(1920, 1080, 120)).expect("room");
        assert!(seat.change(&settings(1920, 1080, 240)).is_err());
        assert_eq!(admission.taken().1, Load::of(&settings(1920, 1080, 120)), "a refusal changes nothing");
        seat.change(&settings(1920, 1080, 30)).expect("less");
        admission.admit(&settings(1920, 1080, 120)).expect("room");
    }
}
