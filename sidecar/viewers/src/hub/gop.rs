//! The current group of pictures: everything since the last IDR, so that a late joiner sees a picture at
//! once. Bounded; when the encoder sends no IDR for so long that the bound is reached, nothing is kept
//! until the next one.

use super::Unit;

/// What became of an offered unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// It is in the cache.
    Yes,
    /// No IDR has come since the start or the overflow.
    NoIdr,
    /// It was the one too many: the cache is empty now.
    Overflow,
}

/// The units since the last IDR.
#[derive(Debug, Default)]
pub(super) struct Gop {
    units: Vec<Unit>,
    bytes: usize,
}

impl Gop {
    pub(super) fn offer(&mut self, unit: &Unit, max_units: usize, max_bytes: usize) -> Kept {
        if unit.au.idr {
            self.clear();
        } else if self.units.is_empty() {
            return Kept::NoIdr;
        }
        if self.units.len() >= max_units || self.bytes + unit.au.data.len() > max_bytes {
            self.clear();
            return Kept::Overflow;
        }
        self.bytes += unit.au.data.len();
        self.units.push(unit.clone());
        Kept::Yes
    }

    pub(super) fn clear(&mut self) {
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
