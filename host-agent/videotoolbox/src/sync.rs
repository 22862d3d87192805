//! Locks of [`completion_queue`](crate::completion_queue): std's, or loom's for tests/loom.rs, which
//! has the same interface; parking_lot has another.

#[cfg(feature = "loom")]
pub(crate) use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
#[cfg(not(feature = "loom"))]
pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard};
