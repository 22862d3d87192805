//! Handles for C instead of pointers. A callback passes a handle back, which is looked up: a late or
//! repeated callback finds nothing, and nothing is freed twice.

use std::collections::HashMap;

use parking_lot::Mutex;

/// Values by handle. A handle is never reused.
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
    /// An empty registry.
    pub const fn new() -> Self {
        Self { entries: Mutex::new(None) }
    }

    /// Adds a value; returns its handle, which is not 0.
    pub fn add(&self, entry: T) -> usize {
        let mut entries = self.entries.lock();
        let (last, map) = entries.get_or_insert_with(|| (0, HashMap::new()));
        *last += 1;
        map.insert(*last, entry);
        *last
    }

    /// Removes and returns a value.
    pub fn remove(&self, handle: usize) -> Option<T> {
        self.entries.lock().as_mut()?.1.remove(&handle)
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.entries.lock().as_ref().map_or(0, |entries| entries.1.len())
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Clone> Registry<T> {
    /// A clone of a value.
    pub fn get(&self, handle: usize) -> Option<T> {
        self.entries.lock().as_ref()?.1.get(&handle).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_handle_finds_nothing_and_is_not_reused() {
        let registry = Registry::new();
        let (a, b) = (registry.add("a"), registry.add("b"));
        assert_eq!((registry.get(a), registry.get(b), registry.get(0)), (Some("a"), Some("b"), None));
        assert_eq!((registry.remove(a), registry.remove(a), registry.get(a)), (Some("a"), None, None));
        assert!(![a, b].contains(&registry.add("c")), "a handle is not reused");
        assert_eq!(registry.len(), 2);
    }
}
