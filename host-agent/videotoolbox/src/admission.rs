//! Admission control: estimates the capacity of a Mac's encoder and refuses streams beyond it.
//!
//! VideoToolbox does not report its capacity, and too many sessions kill its service, which ends all of
//! them. The estimate:
//! - time: a 1080p picture takes 5.8 ms of the encoder and a 2160p picture 18.9 ms, which gives
//!   [`PICTURE_US`] per picture and [`MEGAPIXEL_US`] per million pixels. Desktops are still most of the time,
//!   so the encoder's time is overbooked by [`Limits::overbooking`]; when all move at once, frames are
//!   dropped.
//! - memory: the service is killed at 1 GB. A session has about [`PICTURES`] pictures and [`SESSION_BYTES`].

use std::sync::Arc;

use encode::{EncodeError, Settings};
use parking_lot::Mutex;

/// Encoder time per picture, us.
const PICTURE_US: u64 = 1_430;
/// Encoder time per million pixels, us.
const MEGAPIXEL_US: u64 = 2_110;
/// Number of pictures in a session's memory: references, input and reconstruction.
const PICTURES: u64 = 6;
/// Memory of a session besides pictures, bytes.
const SESSION_BYTES: u64 = 24 << 20;

/// Limits of the total load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Factor by which the encoder's time is overbooked.
    pub overbooking: u64,
    /// Memory of the encoder service, bytes.
    pub bytes: u64,
}

impl Default for Limits {
    /// Memory is 10 % below the size at which the service is killed.
    fn default() -> Self {
        Self { overbooking: 4, bytes: 900 << 20 }
    }
}

/// Load of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Encoder time per second, us.
    pub us: u64,
    /// Memory of the encoder service, bytes.
    pub bytes: u64,
}

impl Load {
    /// Load of a stream at its frame rate limit.
    pub fn of(settings: &Settings) -> Self {
        let pixels = u64::from(settings.width) * u64::from(settings.height);
        Self {
            us: u64::from(settings.max_fps) * (PICTURE_US + pixels * MEGAPIXEL_US / 1_000_000),
            bytes: SESSION_BYTES + PICTURES * pixels * 3 / 2,
        }
    }
}

/// The load of all streams of this process.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    total: Mutex<Total>,
}

/// Number of streams and their total load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Total {
    /// Number of streams.
    pub streams: usize,
    /// Total load.
    pub load: Load,
}

/// A stream's share of the load, released when dropped.
#[derive(Debug)]
pub struct Reservation {
    admission: Arc<Admission>,
    load: Load,
}

impl Admission {
    /// Without streams.
    pub fn new(limits: Limits) -> Self {
        Self { limits, total: Mutex::default() }
    }

    /// The current total.
    pub fn total(&self) -> Total {
        *self.total.lock()
    }

    /// Reserves capacity for a stream.
    ///
    /// # Errors
    /// [`EncodeError::Unsupported`] if time or memory does not suffice.
    pub fn reserve(self: &Arc<Self>, settings: &Settings) -> Result<Reservation, EncodeError> {
        let mut reservation = Reservation { admission: Arc::clone(self), load: Load::default() };
        self.change(Load::default(), Load::of(settings), settings, true)?;
        reservation.load = Load::of(settings);
        Ok(reservation)
    }

    fn change(&self, from: Load, to: Load, settings: &Settings, new: bool) -> Result<(), EncodeError> {
        let mut total = self.total.lock();
        let others = Load { us: total.load.us - from.us, bytes: total.load.bytes - from.bytes };
        let all = Load { us: others.us + to.us, bytes: others.bytes + to.bytes };
        let exhausted = if all.us > self.limits.overbooking * 1_000_000 {
            Some("time")
        } else if all.bytes > self.limits.bytes {
            Some("memory")
        } else {
            None
        };
        if let Some(resource) = exhausted {
            return Err(EncodeError::Unsupported(format!(
                "the encoder has no {resource} left for {} x {} at {} fps, with {} streams running; \
                 end a stream, or use a smaller size or frame rate limit",
                settings.width, settings.height, settings.max_fps, total.streams
            )));
        }
        total.streams += usize::from(new);
        total.load = all;
        Ok(())
    }
}

impl Reservation {
    /// Changes the reservation to new settings of the stream.
    ///
    /// # Errors
    /// [`EncodeError::Unsupported`] if time or memory does not suffice; then nothing changes.
    pub fn change(&mut self, settings: &Settings) -> Result<(), EncodeError> {
        let load = Load::of(settings);
        self.admission.change(self.load, load, settings, false)?;
        self.load = load;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.load == Load::default() {
            return;
        }
        let mut total = self.admission.total.lock();
        total.streams -= 1;
        total.load.us -= self.load.us;
        total.load.bytes -= self.load.bytes;
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
    fn load_agrees_with_measured_times() {
        assert!((5_700..5_900).contains(&Load::of(&settings(1920, 1080, 1)).us));
        assert!((18_700..19_100).contains(&Load::of(&settings(3840, 2160, 1)).us));
    }

    #[test]
    fn time_is_exhausted_and_released() {
        let admission = Arc::new(Admission::new(Limits { overbooking: 1, ..Limits::default() }));
        let hd = settings(1920, 1080, 60);
        let first = admission.reserve(&hd).expect("room");
        let _second = admission.reserve(&hd).expect("room");
        let refused = admission.reserve(&hd).expect_err("1.04 s per second");
        assert!(refused.to_string().contains("no time left") && refused.to_string().contains("2 streams"));
        drop(first);
        assert_eq!(admission.total().streams, 1);
        admission.reserve(&hd).expect("there is room again");
    }

    #[test]
    fn memory_is_exhausted_by_5k_streams() {
        let admission = Arc::new(Admission::new(Limits { overbooking: 1000, ..Limits::default() }));
        let mut reservations = Vec::new();
        let refused = loop {
            match admission.reserve(&settings(5120, 2880, 30)) {
                Ok(reservation) => reservations.push(reservation),
                Err(refused) => break refused,
            }
        };
        assert!(refused.to_string().contains("no memory left"));
        assert_eq!(reservations.len(), 5);
        drop(reservations);
        assert_eq!(admission.total(), Total::default());
    }

    #[test]
    fn changed_rate_changes_the_reservation() {
        let admission = Arc::new(Admission::new(Limits { overbooking: 1, ..Limits::default() }));
        let mut reservation = admission.reserve(&settings(1920, 1080, 120)).expect("room");
        assert!(reservation.change(&settings(1920, 1080, 240)).is_err());
        assert_eq!(admission.total().load, Load::of(&settings(1920, 1080, 120)), "a refusal has no effect");
        reservation.change(&settings(1920, 1080, 30)).expect("less");
        admission.reserve(&settings(1920, 1080, 120)).expect("room");
    }
}
