use contract::input::{KeyCode, KeyboardLayout, PointerButton};

use super::*;
use crate::action::Action;

fn input(policy: ControlPolicy) -> (Input, Arc<Queue>) {
    let queue = Arc::new(Queue::default());
    let (_, backend) = watch::channel(InputState::default());
    let (clipboard, _) = clipboard::ends(ClipboardPolicy::Both, policy);
    (Input::new(policy, Arc::clone(&queue), backend, clipboard), queue)
}

fn code(name: &str) -> KeyCode {
    name.parse().expect("a key")
}

fn key(name: &str, down: bool) -> InputEvent {
    InputEvent::Key { code: code(name), down }
}

#[tokio::test]
async fn viewer_that_disconnects_with_shift_down_releases_it() {
    let (input, queue) = input(ControlPolicy::Exclusive);
    let session = input.open(Role::Controller);
    session.inject(&[key("ShiftLeft", true), key("KeyA", true), key("KeyA", false)]).expect("injected");
    drop(session);
    let actions = queue.next().await.expect("actions");
    assert_eq!(actions.last(), Some(&Action::Key { code: code("ShiftLeft"), down: false }));
    assert_eq!(actions.len(), 4);
    assert_eq!(input.control().borrow().controller, None);
}

#[tokio::test]
async fn control_that_is_taken_releases_the_keys_of_the_former_controller() {
    let (input, queue) = input(ControlPolicy::Exclusive);
    let (first, second) = (input.open(Role::Controller), input.open(Role::Controller));
    first.inject(&[key("ControlLeft", true)]).expect("injected");
    assert_eq!(second.inject(&[key("KeyQ", true)]), Err(Refused::NotInControl));
    second.take_control().expect("allowed");
    assert_eq!(first.inject(&[key("KeyQ", true)]), Err(Refused::NotInControl));
    let actions = queue.next().await.expect("actions");
    assert_eq!(
        actions,
        [true, false].map(|down| Action::Key { code: code("ControlLeft"), down }),
        "pressed by the first, and released when it lost control"
    );
    assert_eq!(input.control().borrow().controller, Some(second.id()));
}

#[tokio::test]
async fn layout_and_release_take_no_control() {
    let (input, queue) = input(ControlPolicy::Exclusive);
    let (first, second) = (input.open(Role::Controller), input.open(Role::Controller));
    let layout = InputEvent::Layout { layout: KeyboardLayout::US };
    assert_eq!(first.inject(&[InputEvent::Release {}]), Err(Refused::NotInControl));
    assert_eq!(first.inject(std::slice::from_ref(&layout)), Err(Refused::NotInControl));
    assert_eq!(input.control().borrow().controller, None);
    second.inject(&[layout.clone(), key("KeyA", true)]).expect("an event of a person");
    second.inject(&[layout, InputEvent::Release {}]).expect("in control");
    assert_eq!(input.control().borrow().controller, Some(second.id()));
    assert_eq!(queue.next().await.expect("actions").len(), 4);
}

#[tokio::test]
async fn viewer_without_the_right_injects_nothing() {
    let (input, queue) = input(ControlPolicy::Shared);
    let viewer = input.open(Role::Viewer);
    let button = PointerButton::new(0).expect("a button");
    assert_eq!(viewer.inject(&[InputEvent::Button { button, down: true }]), Err(Refused::NotAllowed));
    assert_eq!(viewer.take_control(), Err(Refused::NotAllowed));
    assert_eq!(viewer.request_control(), Err(Refused::NotAllowed));
    drop(viewer);
    queue.close();
    assert_eq!(queue.next().await, None);
}

#[tokio::test]
async fn flood_is_refused_and_leaves_nothing_pressed() {
    let (input, queue) = input(ControlPolicy::Exclusive);
    let session = input.open(Role::Controller);
    let mut refused = None;
    for _ in 0..10_000 {
        if let Err(error) = session.inject(&[key("KeyA", true), key("KeyA", false)]) {
            refused = Some(error);
            break;
        }
    }
    assert_eq!(refused, Some(Refused::TooFast));
    drop(session);
    let actions = queue.next().await.expect("actions");
    assert!(matches!(actions.last(), Some(Action::Key { down: false, .. })), "{:?}", actions.last());
}
