//! Permission to control the desktop.

use std::collections::BTreeMap;

use contract::input::ControlPolicy;

use crate::{Refused, SessionId};

/// Right of a viewer, by its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Sees the desktop.
    Viewer,
    /// May control the desktop.
    Controller,
}

/// Holder of control and requests for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ControlState {
    /// Policy of the desktop.
    pub policy: ControlPolicy,
    /// Session that has control; `None` if it is free, or if control is shared.
    pub controller: Option<SessionId>,
    /// Sessions that asked for control.
    pub requests: Vec<SessionId>,
}

/// Sessions and their control.
#[derive(Debug)]
pub struct Control {
    policy: ControlPolicy,
    sessions: BTreeMap<SessionId, Role>,
    controller: Option<SessionId>,
    /// In the order of requests.
    requests: Vec<SessionId>,
}

impl Control {
    /// No sessions.
    pub const fn new(policy: ControlPolicy) -> Self {
        Self { policy, sessions: BTreeMap::new(), controller: None, requests: Vec::new() }
    }

    /// State for viewers.
    pub fn state(&self) -> ControlState {
        ControlState { policy: self.policy, controller: self.controller, requests: self.requests.clone() }
    }

    /// Adds a session.
    pub fn join(&mut self, id: SessionId, role: Role) {
        self.sessions.insert(id, role);
    }

    /// Removes a session. If it has control, the first session that asked for it gets it.
    pub fn leave(&mut self, id: SessionId) {
        self.sessions.remove(&id);
        self.requests.retain(|other| *other != id);
        if self.controller == Some(id) {
            self.pass_on();
        }
    }

    /// True if events of the session are injected.
    pub fn controls(&self, id: SessionId) -> bool {
        match self.policy {
            ControlPolicy::None => false,
            ControlPolicy::Shared => self.is_allowed(id),
            ControlPolicy::Exclusive => self.controller == Some(id),
        }
    }

    /// True if the desktop follows the size of the session's window: it has control, or would get it by its next event.
    pub fn may_resize(&self, id: SessionId) -> bool {
        self.is_allowed(id) && (self.controls(id) || self.controller.is_none())
    }

    /// Sessions whose events are injected.
    pub fn controllers(&self) -> Vec<SessionId> {
        self.sessions.keys().copied().filter(|id| self.controls(*id)).collect()
    }

    /// Permission for an event. True if the session took control that was free.
    pub fn claim(&mut self, id: SessionId) -> Result<bool, Refused> {
        if !self.is_allowed(id) {
            return Err(Refused::NotAllowed);
        }
        if self.controls(id) {
            return Ok(false);
        }
        if self.controller.is_some() {
            return Err(Refused::NotInControl);
        }
        self.set(id);
        Ok(true)
    }

    /// Takes control.
    pub fn take(&mut self, id: SessionId) -> Result<(), Refused> {
        if !self.is_allowed(id) {
            return Err(Refused::NotAllowed);
        }
        self.set(id);
        Ok(())
    }

    /// Asks for control.
    pub fn request(&mut self, id: SessionId) -> Result<(), Refused> {
        if !self.is_allowed(id) {
            return Err(Refused::NotAllowed);
        }
        if self.policy == ControlPolicy::Exclusive && self.controller.is_some_and(|holder| holder != id) {
            if !self.requests.contains(&id) {
                self.requests.push(id);
            }
        } else {
            self.set(id);
        }
        Ok(())
    }

    /// Gives control to `to`, or up.
    pub fn give(&mut self, id: SessionId, to: Option<SessionId>) -> Result<(), Refused> {
        if self.controller != Some(id) {
            return Err(Refused::NotInControl);
        }
        match to {
            Some(to) if !self.is_allowed(to) => Err(Refused::NotAllowed),
            Some(to) => {
                self.set(to);
                Ok(())
            }
            None => {
                self.pass_on();
                Ok(())
            }
        }
    }

    fn is_allowed(&self, id: SessionId) -> bool {
        self.policy != ControlPolicy::None && self.sessions.get(&id) == Some(&Role::Controller)
    }

    fn set(&mut self, id: SessionId) {
        self.requests.retain(|other| *other != id);
        if self.policy == ControlPolicy::Exclusive {
            self.controller = Some(id);
        }
    }

    fn pass_on(&mut self) {
        self.controller = if self.requests.is_empty() { None } else { Some(self.requests.remove(0)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(policy: ControlPolicy) -> Control {
        let mut control = Control::new(policy);
        control.join(1, Role::Controller);
        control.join(2, Role::Controller);
        control.join(3, Role::Viewer);
        control
    }

    #[test]
    fn first_event_takes_control_that_is_free() {
        let mut control = control(ControlPolicy::Exclusive);
        assert!(control.may_resize(1) && control.may_resize(2) && !control.may_resize(3));
        assert_eq!(control.claim(3), Err(Refused::NotAllowed));
        assert_eq!(control.claim(1), Ok(true));
        assert!(control.may_resize(1) && !control.may_resize(2) && !control.may_resize(99));
        assert_eq!(control.claim(1), Ok(false));
        assert_eq!(control.claim(2), Err(Refused::NotInControl));
        assert_eq!(control.controllers(), [1]);
    }

    #[test]
    fn requested_control_is_given_or_passed_on_at_the_end() {
        let mut control = control(ControlPolicy::Exclusive);
        control.join(4, Role::Controller);
        control.take(1).expect("allowed");
        control.request(2).expect("allowed");
        control.request(4).expect("allowed");
        control.request(2).expect("allowed");
        assert_eq!(control.state().requests, [2, 4]);
        assert_eq!(control.give(2, Some(4)), Err(Refused::NotInControl));
        assert_eq!(control.give(1, Some(3)), Err(Refused::NotAllowed));
        assert_eq!(control.give(1, Some(99)), Err(Refused::NotAllowed));
        control.give(1, Some(4)).expect("allowed");
        assert_eq!(control.state().controller, Some(4));
        control.leave(4);
        assert_eq!((control.state().controller, control.state().requests), (Some(2), vec![]));
        control.leave(2);
        assert_eq!(control.state().controller, None);
    }

    #[test]
    fn viewer_without_the_right_never_has_control() {
        for policy in ControlPolicy::ALL {
            let mut control = control(policy);
            assert_eq!(control.claim(3), Err(Refused::NotAllowed));
            assert_eq!(control.take(3), Err(Refused::NotAllowed));
            assert_eq!(control.request(3), Err(Refused::NotAllowed));
            assert!(!control.controls(3) && !control.controls(99) && !control.may_resize(3));
        }
    }

    #[test]
    fn policy_decides_over_the_number_of_controllers() {
        let mut shared = control(ControlPolicy::Shared);
        assert_eq!((shared.claim(1), shared.claim(2)), (Ok(false), Ok(false)));
        assert_eq!(shared.controllers(), [1, 2]);
        let mut none = control(ControlPolicy::None);
        assert_eq!(none.claim(1), Err(Refused::NotAllowed));
        assert_eq!(none.take(1), Err(Refused::NotAllowed));
    }
}
