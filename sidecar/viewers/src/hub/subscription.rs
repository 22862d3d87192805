//! A viewer's end of the hub.

use std::sync::Arc;

use tokio::sync::watch;

use super::queue::Queue;
use super::{Description, Hub, Protocol, Unit, ViewerReport};

/// A viewer's subscription; dropping it removes the viewer.
#[derive(Debug)]
pub struct Subscription {
    pub(super) hub: Hub,
    pub(super) id: u64,
    pub(super) protocol: Protocol,
    pub(super) queue: Arc<Queue>,
    pub(super) description: watch::Receiver<Arc<Description>>,
}

/// Event of a [`Subscription`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The stream's description changed.
    Described(Arc<Description>),
    /// The next access unit.
    Unit(Unit),
}

impl Subscription {
    /// The next unit; `None` once the hub closed or disconnected this viewer. Cancel safe.
    pub async fn unit(&mut self) -> Option<Unit> {
        let unit = self.queue.take().await?;
        self.hub.count_sent(&unit);
        Some(unit)
    }

    /// The next event, descriptions first; `None` once the hub closed or disconnected this viewer. Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        let Self { hub, queue, description, .. } = self;
        tokio::select! {
            biased;
            changed = description.changed() => {
                changed.ok()?;
                Some(Event::Described(Arc::clone(&description.borrow_and_update())))
            }
            unit = queue.take() => {
                let unit = unit?;
                hub.count_sent(&unit);
                Some(Event::Unit(unit))
            }
        }
    }

    /// Current description; [`Self::next`] does not report it again.
    pub fn description(&mut self) -> Arc<Description> {
        Arc::clone(&self.description.borrow_and_update())
    }

    /// A handle for the task that receives this viewer's messages.
    pub fn handle(&self) -> ViewerHandle {
        ViewerHandle { hub: self.hub.clone(), id: self.id }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.unsubscribe(self.id, self.protocol);
    }
}

/// Passes a viewer's messages to the hub while another task reads its [`Subscription`].
#[derive(Debug, Clone)]
pub struct ViewerHandle {
    hub: Hub,
    id: u64,
}

impl ViewerHandle {
    /// Stores the viewer's statistics.
    pub fn report(&self, report: ViewerReport) {
        self.hub.set_report(self.id, report);
    }

    /// Requests a keyframe from the encoder.
    pub fn request_keyframe(&self) {
        self.hub.request_keyframe();
    }
}
