//! A viewer's end of the hub: what it takes out, and what it says.

use std::sync::Arc;

use tokio::sync::watch;

use super::queue::Queue;
use super::{Description, Hub, Protocol, Unit, ViewerReport};

/// A viewer's end. Dropping it leaves.
#[derive(Debug)]
pub struct Subscription {
    pub(super) hub: Hub,
    pub(super) id: u64,
    pub(super) protocol: Protocol,
    pub(super) queue: Arc<Queue>,
    pub(super) description: watch::Receiver<Arc<Description>>,
}

/// What a subscription hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The stream's description, at first and when it changed.
    Described(Arc<Description>),
    /// A unit.
    Unit(Unit),
}

impl Subscription {
    /// The next unit; `None` at the end: the hub closed, or gave this viewer up. Cancelling loses nothing.
    pub async fn unit(&mut self) -> Option<Unit> {
        let unit = self.queue.take().await?;
        Some(self.hub.sent(unit))
    }

    /// The next event, descriptions first; `None` at the end. Cancelling loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        let Self { hub, queue, description, .. } = self;
        tokio::select! {
            biased;
            changed = description.changed() => {
                changed.ok()?;
                Some(Event::Described(Arc::clone(&description.borrow_and_update())))
            }
            unit = queue.take() => Some(Event::Unit(hub.sent(unit?))),
        }
    }

    /// What is known of the stream now.
    pub fn description(&mut self) -> Arc<Description> {
        Arc::clone(&self.description.borrow_and_update())
    }

    /// A handle for whoever listens to this viewer.
    pub fn reporter(&self) -> Reporter {
        Reporter { hub: self.hub.clone(), id: self.id }
    }
}

/// Speaks for a viewer while another task drains its [`Subscription`].
#[derive(Debug, Clone)]
pub struct Reporter {
    hub: Hub,
    id: u64,
}

impl Reporter {
    /// Keeps what this viewer says of itself.
    pub fn report(&self, report: ViewerReport) {
        if let Some(viewer) = self.hub.state().viewers.iter_mut().find(|viewer| viewer.id == self.id) {
            viewer.report = Some(report);
        }
    }

    /// Asks for a keyframe.
    pub fn want_keyframe(&self) {
        self.hub.want_keyframe();
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.hub.state();
        state.viewers.retain(|viewer| viewer.id != self.id);
        let viewers = state.viewers.len() as u64;
        self.hub.describe(|description| description.viewers = viewers);
        drop(state);
        self.hub.0.counters.left(self.protocol);
    }
}
