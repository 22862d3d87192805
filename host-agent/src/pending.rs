//! Connections whose peer has not been authenticated.
//!
//! Every process that reaches a listener can open one, so they have places of their own, and few per origin. A
//! new connection always gets a place: the oldest connection of its origin is closed for it, or, if all places
//! are taken, the oldest of the origin that has the most.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The places; clones share them.
#[derive(Debug, Clone)]
pub struct PendingConnections {
    places: Arc<Mutex<Places>>,
    per_origin: usize,
    total: usize,
}

#[derive(Debug, Default)]
struct Places {
    /// Ordered by age, the oldest first.
    taken: VecDeque<Taken>,
    last_id: u64,
}

#[derive(Debug)]
struct Taken {
    id: u64,
    origin: String,
    evicted: Arc<Notify>,
}

/// The place of a connection; dropping it frees the place.
#[derive(Debug)]
pub struct PendingPlace {
    places: Arc<Mutex<Places>>,
    id: u64,
    evicted: Arc<Notify>,
}

impl PendingConnections {
    /// Makes `total` places, of which connections of one origin may take `per_origin`. Both must be at least 1.
    pub fn new(per_origin: usize, total: usize) -> Self {
        Self { places: Arc::default(), per_origin, total }
    }

    /// Gives a connection a place. Evicts another connection if its origin's places, or all, are taken.
    pub fn enter(&self, origin: &str) -> PendingPlace {
        let mut places = self.places.lock();
        let of_origin = places.taken.iter().filter(|taken| taken.origin == origin).count();
        if of_origin >= self.per_origin {
            places.evict_oldest(origin);
        } else if places.taken.len() >= self.total
            && let Some(largest) = places.largest_origin()
        {
            places.evict_oldest(&largest);
        }
        places.last_id += 1;
        let (id, evicted) = (places.last_id, Arc::new(Notify::new()));
        places.taken.push_back(Taken { id, origin: origin.to_owned(), evicted: Arc::clone(&evicted) });
        PendingPlace { places: Arc::clone(&self.places), id, evicted }
    }
}

impl Places {
    /// The origin with the most places; of several, that of the oldest connection.
    fn largest_origin(&self) -> Option<String> {
        let mut counts = HashMap::<&str, usize>::new();
        for taken in &self.taken {
            *counts.entry(&taken.origin).or_default() += 1;
        }
        let most = counts.values().max()?;
        let largest = self.taken.iter().find(|taken| counts.get(taken.origin.as_str()) == Some(most))?;
        Some(largest.origin.clone())
    }

    fn evict_oldest(&mut self, origin: &str) {
        let oldest = self.taken.iter().position(|taken| taken.origin == origin);
        if let Some(evicted) = oldest.and_then(|at| self.taken.remove(at)) {
            evicted.evicted.notify_one();
        }
    }
}

impl PendingPlace {
    /// Waits until another connection needs the place. Cancel safe.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl Drop for PendingPlace {
    fn drop(&mut self) {
        // Not found if it was evicted.
        self.places.lock().taken.retain(|taken| taken.id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn is_evicted(place: &PendingPlace) -> bool {
        let mut evicted = std::pin::pin!(place.evicted());
        evicted.as_mut().poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    /// Numbers of the evicted places.
    fn evicted(places: &[PendingPlace]) -> Vec<usize> {
        (0..places.len()).filter(|at| is_evicted(&places[*at])).collect()
    }

    #[test]
    fn connection_over_the_limit_of_its_origin_evicts_the_oldest_of_that_origin() {
        let pending = PendingConnections::new(2, 10);
        let places: Vec<_> = ["b", "a", "a", "a"].map(|origin| pending.enter(origin)).into();
        assert_eq!(evicted(&places), [1]);
    }

    #[test]
    fn connection_over_the_total_evicts_the_oldest_of_the_largest_origin() {
        let pending = PendingConnections::new(3, 5);
        let places: Vec<_> = ["a", "b", "b", "b", "c", "d"].map(|origin| pending.enter(origin)).into();
        assert_eq!(evicted(&places), [1]);
    }

    #[test]
    fn connections_of_distinct_origins_over_the_total_evict_the_oldest() {
        let pending = PendingConnections::new(3, 2);
        let places: Vec<_> = ["a", "b", "c"].map(|origin| pending.enter(origin)).into();
        assert_eq!(evicted(&places), [0]);
    }

    #[test]
    fn dropped_place_is_free() {
        let pending = PendingConnections::new(1, 1);
        for _ in 0..100 {
            assert!(!is_evicted(&pending.enter("a")));
        }
        assert!(pending.places.lock().taken.is_empty());
    }
}
