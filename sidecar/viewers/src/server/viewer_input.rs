//! A viewer's access to the input of the desktop.

use contract::clipboard::Format;
use contract::input::{InputEvent, LAYOUTS, MAX_EVENTS};
use input::{ControlState, Input, InputState, Refused, Role, Session};
use protocol::rate::{RateLimit, TokenBucket};
use tokio::sync::watch;

use super::viewer_clipboard::Outgoing;
use super::wire::{ControlAction, InputInfo};

/// Limit on events of a viewer. A page sends at most one position per frame of its display, and a few keys.
const EVENT_LIMIT: RateLimit = RateLimit::new(1000, 1000);
/// Limit on messages with events.
const MESSAGE_LIMIT: RateLimit = RateLimit::new(500, 500);

/// Rate limits of one viewer's events.
#[derive(Debug)]
pub struct InputLimit {
    events: TokenBucket,
    messages: TokenBucket,
}

impl Default for InputLimit {
    fn default() -> Self {
        Self { events: TokenBucket::new(EVENT_LIMIT), messages: TokenBucket::new(MESSAGE_LIMIT) }
    }
}

impl InputLimit {
    /// True if a message with these events is within the limits.
    pub fn admits(&mut self, events: &[InputEvent], now_ns: u64) -> bool {
        events.len() <= MAX_EVENTS
            && self.messages.try_take(now_ns)
            && events.iter().all(|_| self.events.try_take(now_ns))
    }
}

/// A violation that ends the viewer's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// The desktop does not accept the events as fast as they arrive.
    TooFast,
}

/// One viewer's session of the input. Dropping it releases what the viewer holds.
#[derive(Debug)]
pub struct ViewerInput {
    input: Input,
    session: Session,
    control: watch::Receiver<ControlState>,
    state: watch::Receiver<InputState>,
}

impl ViewerInput {
    /// Opens a session.
    pub fn open(input: &Input, role: Role) -> Self {
        Self {
            input: input.clone(),
            session: input.open(role),
            control: input.control(),
            state: input.state(),
        }
    }

    /// Session of the viewer.
    pub const fn session(&self) -> &Session {
        &self.session
    }

    /// State and contents of the desktop's clipboard, in the formats that the viewer accepts.
    pub fn clipboard(&self, accepts: watch::Receiver<Vec<Format>>) -> Outgoing<'_> {
        Outgoing::new(&self.input, &self.session, accepts)
    }

    /// Injects events. Events of a viewer without control are ignored.
    pub fn inject(&self, events: &[InputEvent]) -> Result<(), Violation> {
        match self.session.inject(events) {
            Ok(()) | Err(Refused::NotAllowed | Refused::NotInControl) => Ok(()),
            Err(Refused::TooFast) => Err(Violation::TooFast),
        }
    }

    /// True if the desktop follows the size of the viewer's window.
    pub fn may_resize(&self) -> bool {
        self.session.may_resize()
    }

    /// Changes control, if the viewer may. The next [`Changes::next`] shows the result.
    pub fn control(&self, action: ControlAction, to: Option<u64>) {
        let result = match action {
            ControlAction::Take => self.session.take_control(),
            ControlAction::Request => self.session.request_control(),
            ControlAction::Give => self.session.give_control(to),
        };
        if let Err(refused) = result {
            tracing::debug!(viewer = self.session.id(), %refused, "control not changed");
        }
    }

    /// Changes of the viewer's access; the first is the present state.
    pub fn changes(&self) -> Changes {
        let (mut control, mut state) = (self.control.clone(), self.state.clone());
        control.mark_changed();
        state.mark_unchanged();
        Changes {
            you: self.session.id(),
            allowed: self.session.role() == Role::Controller,
            control,
            state,
            layouts: LAYOUTS,
        }
    }
}

/// Changes of a viewer's access to the input.
#[derive(Debug)]
pub struct Changes {
    you: u64,
    allowed: bool,
    control: watch::Receiver<ControlState>,
    state: watch::Receiver<InputState>,
    /// Layouts that were not sent yet.
    layouts: &'static [(&'static str, &'static str)],
}

impl Changes {
    /// Waits for a change; `None` once the input has ended. Cancel safe.
    pub async fn next(&mut self) -> Option<InputInfo> {
        tokio::select! {
            changed = self.control.changed() => changed.ok()?,
            // Without a backend thread the state never changes.
            Ok(()) = self.state.changed() => {}
        }
        let ControlState { policy, controller, requests } = self.control.borrow_and_update().clone();
        let InputState { backend, error } = self.state.borrow_and_update().clone();
        let backend = backend.map(input::BackendKind::name);
        Some(InputInfo {
            you: self.you,
            allowed: self.allowed,
            policy,
            controller,
            requests,
            backend,
            reason: error,
            layouts: std::mem::take(&mut self.layouts),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_with_too_many_events_or_above_the_rate_is_refused() {
        let events = |count| vec![InputEvent::Release {}; count];
        let mut limit = InputLimit::default();
        assert!(limit.admits(&events(MAX_EVENTS), 0));
        assert!(!limit.admits(&events(MAX_EVENTS + 1), 0));
        let admitted = (0..10_000).filter(|_| limit.admits(&events(1), 0)).count();
        assert!(admitted < 500, "{admitted}");
        let mut limit = InputLimit::default();
        let admitted: usize = (0..100).filter(|_| limit.admits(&events(MAX_EVENTS), 0)).count();
        assert_eq!(admitted, 1000 / MAX_EVENTS);
    }
}
