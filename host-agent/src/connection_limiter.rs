//! Limits on simultaneous connections: in total, and from one origin.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Counts connections; clones share the counts.
#[derive(Debug, Clone)]
pub struct ConnectionLimiter {
    open: Arc<Mutex<HashMap<String, usize>>>,
    per_origin: usize,
    total: usize,
}

/// Permission to keep a connection open; dropping it frees its place.
#[derive(Debug)]
pub struct ConnectionPermit {
    limiter: ConnectionLimiter,
    origin: String,
}

impl ConnectionLimiter {
    /// Allows `total` connections, of which `per_origin` may come from one origin.
    pub fn new(per_origin: usize, total: usize) -> Self {
        Self { open: Arc::default(), per_origin, total }
    }

    /// Counts a connection; `None` if a limit is reached.
    pub fn try_acquire(&self, origin: &str) -> Option<ConnectionPermit> {
        let mut open = self.open.lock();
        let (total, from_origin) = (open.values().sum::<usize>(), open.get(origin).copied().unwrap_or(0));
        if total >= self.total || from_origin >= self.per_origin {
            return None;
        }
        *open.entry(origin.to_owned()).or_default() += 1;
        Some(ConnectionPermit { limiter: self.clone(), origin: origin.to_owned() })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut open = self.limiter.open.lock();
        if let Some(count) = open.get_mut(&self.origin) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.origin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_over_a_limit_is_refused_until_one_closes() {
        let limiter = ConnectionLimiter::new(2, 3);
        let first = limiter.try_acquire("a").expect("below both limits");
        let _second = limiter.try_acquire("a").expect("below both limits");
        assert!(limiter.try_acquire("a").is_none(), "limit of one origin");
        let _third = limiter.try_acquire("b").expect("below both limits");
        assert!(limiter.try_acquire("c").is_none(), "limit in total");
        drop(first);
        assert!(limiter.try_acquire("c").is_some());
    }

    #[test]
    fn origin_without_connections_is_forgotten() {
        let limiter = ConnectionLimiter::new(2, 3);
        let permit = limiter.try_acquire("a").expect("below both limits");
        limiter.try_acquire("b").expect("below both limits");
        assert_eq!(limiter.open.lock().len(), 1);
        drop(permit);
        assert!(limiter.open.lock().is_empty());
        for origin in 0..100 {
            drop(limiter.try_acquire(&origin.to_string()));
        }
        assert!(limiter.open.lock().is_empty());
    }
}
