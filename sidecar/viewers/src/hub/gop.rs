//! Cache of the current group of pictures: the access units since the last IDR. New viewers start with it. When it
//! exceeds its limits, it stays empty until the next IDR.

use super::Unit;

/// Result of [`Gop::offer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cached {
    /// The unit is in the cache.
    Yes,
    /// The unit was not cached: there was no IDR since the start or the last overflow.
    NoIdr,
    /// The unit exceeds a limit: the cache is now empty.
    Overflow,
}

/// Access units since the last IDR.
#[derive(Debug, Default)]
pub(super) struct Gop {
    units: Vec<Unit>,
    bytes: usize,
}

impl Gop {
    pub(super) fn offer(&mut self, unit: &Unit, max_units: usize, max_bytes: usize) -> Cached {
        if unit.au.idr {
            self.clear();
        } else if self.units.is_empty() {
            return Cached::NoIdr;
        }
        if self.units.len() >= max_units || self.bytes + unit.au.data.len() > max_bytes {
            self.clear();
            return Cached::Overflow;
        }
        self.bytes += unit.au.data.len();
        self.units.push(unit.clone());
        Cached::Yes
    }

    fn clear(&mut self) {
        self.units.clear();
        self.bytes = 0;
    }

    pub(super) fn units(&self) -> &[Unit] {
        &self.units
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
