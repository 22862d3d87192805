//! Asks the desktop for another size.

use std::sync::Arc;

use contract::display::DisplaySize;
use parking_lot::Mutex;

use crate::waker::Waker;

#[derive(Debug, Default)]
struct Request {
    wanted: Option<DisplaySize>,
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
        self.request.lock().wanted = Some(size);
        self.waker.wake();
    }

    /// Reason why the desktop does not have the size that was asked for last, with a remedy; empty if it does, or may still
    /// get it.
    pub fn error(&self) -> String {
        self.request.lock().error.clone()
    }

    /// Size that was asked for last.
    pub(crate) fn wanted(&self) -> Option<DisplaySize> {
        self.request.lock().wanted
    }

    /// Records that the desktop has the size `size`.
    pub(crate) fn succeeded(&self, size: DisplaySize) {
        tracing::debug!(
            width = size.width(),
            height = size.height(),
            scale = size.scale(),
            "desktop resized"
        );
        self.request.lock().error.clear();
    }

    /// Records why the desktop does not have the size that was asked for.
    pub(crate) fn failed(&self, reason: String) {
        let mut request = self.request.lock();
        if request.error != reason {
            tracing::info!(reason, "desktop not resized");
            request.error = reason;
        }
    }
}
