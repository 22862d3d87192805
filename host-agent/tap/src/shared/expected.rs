//! Nonces of the host-agent's sessions, for the VMM's thread.

use std::sync::atomic::{AtomicU64, Ordering};

/// Largest number of nonces. Binds with a nonce beyond it are limited like guesses.
pub const MAX_EXPECTED: usize = 4096;
/// Content of a free place. A session with this prefix is limited like a guess; one of 2^64 is.
const FREE: u64 = 0;

/// A set of [nonce prefixes](protocol::link::nonce_prefix), without locks: the link thread writes and the
/// VMM's thread reads. A nonce keeps its place until its session ends.
#[derive(Debug)]
pub struct Expected(Box<[AtomicU64]>);

impl Default for Expected {
    fn default() -> Self {
        Self((0..MAX_EXPECTED).map(|_| AtomicU64::new(FREE)).collect())
    }
}

impl Expected {
    /// Any thread: the place of a nonce.
    pub fn find(&self, prefix: u64) -> Option<usize> {
        if prefix == FREE {
            return None;
        }
        self.0.iter().position(|place| place.load(Ordering::Acquire) == prefix)
    }

    /// Link thread: adds a nonce. Returns false if there is no place.
    pub fn insert(&self, prefix: u64) -> bool {
        if self.find(prefix).is_some() {
            return true;
        }
        let free = self.0.iter().find(|place| place.load(Ordering::Acquire) == FREE);
        free.map(|place| place.store(prefix, Ordering::Release)).is_some()
    }

    /// Link thread: removes a nonce.
    pub fn remove(&self, prefix: u64) {
        if let Some(place) = self.find(prefix).and_then(|at| self.0.get(at)) {
            place.store(FREE, Ordering::Release);
        }
    }

    /// Link thread: removes all nonces.
    pub fn clear(&self) {
        self.0.iter().for_each(|place| place.store(FREE, Ordering::Release));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonce_keeps_its_place_until_it_is_removed() {
        let expected = Expected::default();
        assert!((1..=MAX_EXPECTED as u64).all(|prefix| expected.insert(prefix)));
        assert!(expected.insert(7), "present");
        assert!(!expected.insert(u64::MAX), "full");
        let place = expected.find(8);
        expected.remove(7);
        assert_eq!((expected.find(7), expected.find(8)), (None, place));
        assert!(expected.insert(u64::MAX) && expected.find(u64::MAX).is_some());
        expected.clear();
        assert_eq!((expected.find(8), expected.find(0)), (None, None));
    }
}
