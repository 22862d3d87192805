//! Bounded queue between sessions and the backend thread.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::action::Action;

/// Maximum number of queued actions.
const CAPACITY: usize = 4096;

/// Actions that the backend has not applied yet.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    actions: VecDeque<Action>,
    is_closed: bool,
}

impl Queue {
    /// Appends an action; false if the queue is full. A position replaces one that is still the last in the queue.
    pub fn push(&self, action: Action) -> bool {
        {
            let mut state = self.state.lock();
            if action.is_position() && state.actions.back().is_some_and(Action::is_position) {
                state.actions.pop_back();
            }
            if state.actions.len() >= CAPACITY {
                return false;
            }
            state.actions.push_back(action);
        }
        self.changed.notify_one();
        true
    }

    /// Appends actions that release something. They are few, and must not be lost: the capacity does not apply.
    pub fn push_all(&self, actions: Vec<Action>) {
        self.state.lock().actions.extend(actions);
        self.changed.notify_one();
    }

    /// Discards all actions.
    pub fn clear(&self) {
        self.state.lock().actions.clear();
    }

    /// Ends [`Queue::next`].
    pub fn close(&self) {
        self.state.lock().is_closed = true;
        self.changed.notify_one();
    }

    /// Waits for actions and takes them all; `None` once closed. Cancel safe. For one task only.
    pub async fn next(&self) -> Option<Vec<Action>> {
        loop {
            {
                let mut state = self.state.lock();
                if !state.actions.is_empty() {
                    return Some(state.actions.drain(..).collect());
                }
                if state.is_closed {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use contract::input::{Fraction, KeyCode};

    use super::*;

    fn position(x: f64) -> Action {
        let x = Fraction::new(x).expect("a number");
        Action::Pointer { x, y: x }
    }

    fn key(down: bool) -> Action {
        Action::Key { code: KeyCode::from_evdev(30).expect("a key"), down }
    }

    #[tokio::test]
    async fn positions_are_merged_but_not_across_other_actions() {
        let queue = Queue::default();
        for action in [position(0.1), position(0.2), key(true), position(0.3), position(0.4)] {
            assert!(queue.push(action));
        }
        assert_eq!(queue.next().await, Some(vec![position(0.2), key(true), position(0.4)]));
        queue.close();
        assert_eq!(queue.next().await, None);
    }

    #[tokio::test]
    async fn full_queue_refuses_actions_but_not_releases() {
        let queue = Queue::default();
        let accepted = (0..CAPACITY + 10).filter(|_| queue.push(key(true))).count();
        assert_eq!(accepted, CAPACITY);
        queue.push_all(vec![key(false)]);
        let actions = queue.next().await.expect("actions");
        assert_eq!((actions.len(), actions.last()), (CAPACITY + 1, Some(&key(false))));
    }
}
