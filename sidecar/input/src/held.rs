//! Keys, buttons and touch points that sessions hold.
//!
//! An input is pressed in the desktop while at least one session holds it. The end of a session, or of its control,
//! releases what no other one holds.

use std::collections::{BTreeMap, BTreeSet};

use contract::input::{InputEvent, KeyCode, MAX_TOUCHES, PointerButton, TouchId, TouchPhase};

use crate::SessionId;
use crate::action::Action;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Pressed {
    Key(KeyCode),
    Button(PointerButton),
}

impl Pressed {
    const fn action(self, down: bool) -> Action {
        match self {
            Self::Key(code) => Action::Key { code, down },
            Self::Button(button) => Action::Button { button, down },
        }
    }
}

/// Inputs that are pressed, by session.
#[derive(Debug, Default)]
pub struct Held {
    pressed: BTreeMap<Pressed, BTreeSet<SessionId>>,
    /// Slot of each touch point.
    touches: BTreeMap<(SessionId, TouchId), u8>,
}

impl Held {
    /// Actions for an event of a session. Repeated presses and releases of what is not held are ignored.
    pub fn apply(&mut self, id: SessionId, event: &InputEvent) -> Vec<Action> {
        let one = |action| vec![action];
        match event {
            InputEvent::Key { code, down } => self.press(id, Pressed::Key(*code), *down),
            InputEvent::Button { button, down } => self.press(id, Pressed::Button(*button), *down),
            InputEvent::Touch { id: touch, phase, x, y } => {
                let (x, y) = (*x, *y);
                match phase {
                    TouchPhase::Down => self
                        .touch_down(id, *touch)
                        .map_or_else(Vec::new, |slot| one(Action::TouchDown { slot, x, y })),
                    TouchPhase::Move => {
                        let slot = self.touches.get(&(id, *touch));
                        slot.map_or_else(Vec::new, |slot| one(Action::TouchMove { slot: *slot, x, y }))
                    }
                    TouchPhase::Up => {
                        let slot = self.touches.remove(&(id, *touch));
                        slot.map_or_else(Vec::new, |slot| one(Action::TouchUp { slot }))
                    }
                }
            }
            InputEvent::Text { text } => one(Action::Text(text.clone())),
            InputEvent::Pointer { x, y } => one(Action::Pointer { x: *x, y: *y }),
            InputEvent::Motion { dx, dy } => one(Action::Motion { dx: dx.get(), dy: dy.get() }),
            InputEvent::Scroll { dx, dy } => one(Action::Scroll { dx: dx.get(), dy: dy.get() }),
            InputEvent::Wheel { dx, dy } => one(Action::Wheel { dx: dx.get(), dy: dy.get() }),
            InputEvent::Layout { layout } => one(Action::Layout(*layout)),
            InputEvent::Release {} => self.release(id),
        }
    }

    /// Releases all that only this session holds: keys and buttons in reverse order of their codes, so that modifiers with
    /// high codes do not outlive the keys that they modify, then touch points.
    pub fn release(&mut self, id: SessionId) -> Vec<Action> {
        let held: Vec<Pressed> =
            self.pressed.iter().filter(|(_, ids)| ids.contains(&id)).map(|(pressed, _)| *pressed).collect();
        let mut actions: Vec<Action> =
            held.into_iter().rev().flat_map(|pressed| self.press(id, pressed, false)).collect();
        let touches: Vec<_> = self.touches.keys().copied().filter(|(holder, _)| *holder == id).collect();
        let slots = touches.into_iter().filter_map(|touch| self.touches.remove(&touch));
        actions.extend(slots.map(|slot| Action::TouchUp { slot }));
        actions
    }

    fn press(&mut self, id: SessionId, pressed: Pressed, down: bool) -> Vec<Action> {
        let holders = self.pressed.entry(pressed).or_default();
        let was_pressed = !holders.is_empty();
        if down {
            holders.insert(id);
        } else {
            holders.remove(&id);
        }
        let is_pressed = !holders.is_empty();
        if !is_pressed {
            self.pressed.remove(&pressed);
        }
        if was_pressed == is_pressed { Vec::new() } else { vec![pressed.action(down)] }
    }

    /// Slot for a new touch point; `None` if it is held already, or all slots are taken.
    fn touch_down(&mut self, id: SessionId, touch: TouchId) -> Option<u8> {
        if self.touches.contains_key(&(id, touch)) {
            return None;
        }
        let taken: BTreeSet<u8> = self.touches.values().copied().collect();
        let slot = (0..MAX_TOUCHES).find(|slot| !taken.contains(slot))?;
        self.touches.insert((id, touch), slot);
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use contract::input::Fraction;

    use super::*;

    fn key(name: &str, down: bool) -> InputEvent {
        InputEvent::Key { code: name.parse().expect("a key"), down }
    }

    fn action(name: &str, down: bool) -> Action {
        Action::Key { code: name.parse().expect("a key"), down }
    }

    fn touch(touch: u8, phase: TouchPhase) -> InputEvent {
        let zero = Fraction::new(0.0).expect("a number");
        InputEvent::Touch { id: TouchId::new(touch).expect("a touch point"), phase, x: zero, y: zero }
    }

    #[test]
    fn end_of_a_session_releases_all_that_it_holds() {
        let mut held = Held::default();
        let button = PointerButton::new(0).expect("a button");
        for event in [
            key("ShiftLeft", true),
            key("KeyA", true),
            key("KeyB", true),
            key("KeyB", false),
            InputEvent::Button { button, down: true },
            touch(3, TouchPhase::Down),
        ] {
            assert_eq!(held.apply(1, &event).len(), 1, "{event:?}");
        }
        let released = held.release(1);
        for expected in [
            action("ShiftLeft", false),
            action("KeyA", false),
            Action::Button { button, down: false },
            Action::TouchUp { slot: 0 },
        ] {
            assert!(released.contains(&expected), "{expected:?} in {released:?}");
        }
        assert_eq!(released.len(), 4);
        assert!(held.release(1).is_empty() && held.pressed.is_empty() && held.touches.is_empty());
    }

    #[test]
    fn key_that_two_sessions_hold_is_released_by_the_last() {
        let mut held = Held::default();
        assert_eq!(held.apply(1, &key("KeyA", true)), [action("KeyA", true)]);
        assert!(held.apply(2, &key("KeyA", true)).is_empty());
        assert!(held.apply(1, &key("KeyA", false)).is_empty());
        assert_eq!(held.release(2), [action("KeyA", false)]);
    }

    #[test]
    fn repeated_press_and_release_without_press_are_ignored() {
        let mut held = Held::default();
        assert!(held.apply(1, &key("KeyA", false)).is_empty());
        assert_eq!(held.apply(1, &key("KeyA", true)).len(), 1);
        assert!(held.apply(1, &key("KeyA", true)).is_empty(), "the desktop repeats keys");
        assert!(held.apply(1, &touch(0, TouchPhase::Move)).is_empty());
        assert!(held.apply(1, &touch(0, TouchPhase::Up)).is_empty());
    }

    #[test]
    fn touch_points_of_all_sessions_share_the_slots() {
        let mut held = Held::default();
        for n in 0..MAX_TOUCHES {
            let id = u64::from(n % 2);
            let point = touch(n / 2, TouchPhase::Down);
            assert!(matches!(held.apply(id, &point)[..], [Action::TouchDown { slot, .. }] if slot == n));
        }
        assert!(held.apply(7, &touch(0, TouchPhase::Down)).is_empty(), "all slots are taken");
        assert_eq!(held.release(0).len(), 5);
        assert!(matches!(
            held.apply(7, &touch(0, TouchPhase::Down))[..],
            [Action::TouchDown { slot: 0, .. }]
        ));
    }
}
