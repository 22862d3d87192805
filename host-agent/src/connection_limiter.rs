//! Limits on simultaneous connections: in total, and with one key, such as a stream or an address.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Counts connections; clones share the counts.
#[derive(Debug, Clone)]
pub struct ConnectionLimiter {
    open: Arc<Mutex<HashMap<String, usize>>>,
    per_key: usize,
    total: usize,
}

/// Permission to keep a connection open; dropping it frees its place.
#[derive(Debug)]
pub struct ConnectionPermit {
    limiter: ConnectionLimiter,
    key: String,
}

impl ConnectionLimiter {
    /// Allows `total` connections, of which `per_key` may have one key.
    pub fn new(per_key: usize, total: usize) -> Self {
        Self { open: Arc::default(), per_key, total }
    }

    /// Counts a connection; `None` if a limit is reached.
    pub fn try_acquire(&self, key: &str) -> Option<ConnectionPermit> {
        let mut open = self.open.lock();
        let (total, of_key) = (open.values().sum::<usize>(), open.get(key).copied().unwrap_or(0));
        if total >= self.total || of_key >= self.per_key {
            return None;
        }
        *open.entry(key.to_owned()).or_default() += 1;
        Some(ConnectionPermit { limiter: self.clone(), key: key.to_owned() })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut open = self.limiter.open.lock();
        if let Some(count) = open.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.key);
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
        assert!(limiter.try_acquire("a").is_none(), "limit of one key");
        let _third = limiter.try_acquire("b").expect("below both limits");
        assert!(limiter.try_acquire("c").is_none(), "limit in total");
        drop(first);
        assert!(limiter.try_acquire("c").is_some());
    }

    #[test]
    fn key_without_connections_is_forgotten() {
        let limiter = ConnectionLimiter::new(2, 3);
        let permit = limiter.try_acquire("a").expect("below both limits");
        limiter.try_acquire("b").expect("below both limits");
        assert_eq!(limiter.open.lock().len(), 1);
        drop(permit);
        assert!(limiter.open.lock().is_empty());
        for key in 0..100 {
            drop(limiter.try_acquire(&key.to_string()));
        }
        assert!(limiter.open.lock().is_empty());
    }
}
