//! Asks the desktop for another size.

use std::sync::Arc;

use contract::display::DisplaySize;
use parking_lot::Mutex;

use crate::waker::Waker;

/// A size that was asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Wanted {
    /// Number of the request: the same size may be asked for again, because the desktop changed it meanwhile.
    pub number: u64,
    /// Size and scale.
    pub size: DisplaySize,
}

#[derive(Debug, Default)]
struct Request {
    wanted: Option<Wanted>,
    /// Reason why the desktop does not have the wanted size.
    error: String,
}

/// Asks the desktop of a capture for a size. A later request replaces an earlier one; the last one also applies to a source
/// that starts later. Clones share it.
#[derive(Debug, Clone)]
pub struct Resizer {
    request: Arc<Mutex<Request>>,
    waker: Arc<Waker>,
}

impl Resizer {
    /// A resizer without a request, which wakes the source by `waker`.
    pub(crate) fn new(waker: Arc<Waker>) -> Self {
        Self { request: Arc::default(), waker }
    }

    /// Asks for a size. The source changes it soon; frames have their own size.
    pub fn request(&self, size: DisplaySize) {
        {
            let mut request = self.request.lock();
            let number = request.wanted.map_or(0, |wanted| wanted.number) + 1;
            *request = Request { wanted: Some(Wanted { number, size }), error: String::new() };
        }
        self.waker.wake();
    }

    /// Reason why the desktop does not have the size that was asked for last, with a remedy; empty if it does, or may still
    /// get it.
    pub fn error(&self) -> String {
        self.request.lock().error.clone()
    }

    /// Size that was asked for last.
    pub(crate) fn wanted(&self) -> Option<Wanted> {
        self.request.lock().wanted
    }

    /// Records why the desktop does not have the size that was asked for.
    pub(crate) fn failed(&self, reason: &str) {
        let mut request = self.request.lock();
        if request.error != reason {
            tracing::info!(reason, "desktop not resized");
            reason.clone_into(&mut request.error);
        }
    }
}
