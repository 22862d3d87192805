//! Numbers for C to keep instead of pointers. C hands a number back; what it stood for is found, or it is gone: a late
//! or repeated call finds nothing, and nothing is freed twice.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// See the module. Numbers are never used twice.
#[derive(Debug)]
pub struct Registry<T> {
    entries: Mutex<Option<(usize, HashMap<usize, T>)>>,
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Registry<T> {
    /// An empty one.
    pub const fn new() -> Self {
        Self { entries: Mutex::new(None) }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(usize, HashMap<usize, T>)>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps something; its number is not 0.
    pub fn add(&self, entry: T) -> usize {
        let mut entries = self.lock();
        let (last, map) = entries.get_or_insert_with(|| (0, HashMap::new()));
        *last += 1;
        map.insert(*last, entry);
        *last
    }

    /// Gives it back, once.
    pub fn remove(&self, number: usize) -> Option<T> {
        self.lock().as_mut()?.1.remove(&number)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().as_ref().map_or(0, |entries| entries.1.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Clone> Registry<T> {
    /// What a number stands for, if it still does.
    pub fn get(&self, number: usize) -> Option<T> {
        self.lock().as_ref()?.1.get(&number).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_and_repeated_calls_find_nothing() {
        let registry = Registry::new();
        let (a, b) = (registry.add("a"), registry.add("b"));
        assert_eq!((registry.get(a), registry.get(b), registry.get(0)), (Some("a"), Some("b"), None));
        assert_eq!((registry.remove(a), registry.remove(a), registry.get(a)), (Some("a"), None, None));
        assert!(![a, b].contains(&registry.add("c")), "a number is used once");
        assert_eq!(registry.len(), 2);
    }
}
