use bytes::Bytes;
use contract::clipboard::Format;

use super::*;
use crate::InputState;
use crate::queue::Queue;

/// An input with a clipboard that is connected, without a compositor.
pub fn connected(policy: ClipboardPolicy, control: ControlPolicy) -> (Input, DesktopEnd) {
    let (viewers, desktop) = ends(policy, control);
    desktop.state.send_replace(ClipboardState { protocol: Some("fake"), error: String::new() });
    let (_, backend) = watch::channel(InputState::default());
    (Input::new(control, Arc::new(Queue::default()), backend, viewers), desktop)
}

pub fn text(text: &str) -> Content {
    Content::new(vec![(Format::Text, Bytes::copy_from_slice(text.as_bytes()))]).expect("valid")
}

#[test]
fn transfer_needs_the_right_the_policy_control_and_a_desktop() {
    let (input, mut desktop) = connected(ClipboardPolicy::Both, ControlPolicy::Exclusive);
    let (viewer, one, other) =
        (input.open(Role::Viewer), input.open(Role::Controller), input.open(Role::Controller));
    assert_eq!(viewer.transfer().err(), Some(ClipboardRefused::NotAllowed));
    assert!(viewer.selections().is_none());
    one.take_control().expect("allowed");
    assert_eq!(other.transfer().err(), Some(ClipboardRefused::NotInControl));
    let transfer = one.transfer().expect("in control");
    assert_eq!(one.transfer().err(), Some(ClipboardRefused::Busy), "one content at a time");
    drop(transfer);
    assert!(one.transfer().is_ok());
    desktop.unavailable("the desktop restarts");
    assert_eq!(one.transfer().err(), Some(ClipboardRefused::Unavailable));
}

#[test]
fn policy_decides_over_the_directions() {
    for policy in ClipboardPolicy::ALL {
        let (input, _desktop) = connected(policy, ControlPolicy::Shared);
        let session = input.open(Role::Controller);
        assert_eq!(session.transfer().is_ok(), policy.to_desktop(), "{policy}");
        assert_eq!(session.selections().is_some(), policy.from_desktop(), "{policy}");
    }
    let (input, _desktop) = connected(ClipboardPolicy::Both, ControlPolicy::None);
    assert_eq!(input.open(Role::Controller).transfer().err(), Some(ClipboardRefused::NotAllowed));
    let (viewers, mut desktop) = ends(ClipboardPolicy::Off, ControlPolicy::Exclusive);
    desktop.unavailable("no compositor");
    assert!(viewers.state.borrow().error.contains("--clipboard"), "{:?}", viewers.state.borrow());
}

#[tokio::test]
async fn session_that_lost_control_meanwhile_stores_nothing() {
    let (input, mut desktop) = connected(ClipboardPolicy::Both, ControlPolicy::Exclusive);
    let (one, other) = (input.open(Role::Controller), input.open(Role::Controller));
    let transfer = one.transfer().expect("control is free");
    other.take_control().expect("allowed");
    assert_eq!(transfer.finish(text("late")).await, Err(ClipboardRefused::NotInControl));
    assert!(desktop.requests.try_recv().is_err());
}

#[tokio::test]
async fn selection_is_given_to_sessions_in_control_only() {
    let (input, desktop) = connected(ClipboardPolicy::Both, ControlPolicy::Exclusive);
    let (one, other) = (input.open(Role::Controller), input.open(Role::Controller));
    let (mut of_one, mut of_other) =
        (one.selections().expect("allowed"), other.selections().expect("allowed"));
    one.take_control().expect("allowed");
    desktop.selection.send_replace(Some(Arc::new(text("for one"))));
    let content = of_one.next().await.and_then(|content| content.upgrade()).expect("content");
    assert_eq!(*content, text("for one"));
    assert!(futures_util::poll!(std::pin::pin!(of_other.next())).is_pending());
    other.take_control().expect("allowed");
    assert!(
        futures_util::poll!(std::pin::pin!(of_other.next())).is_pending(),
        "copied before it had control"
    );
    desktop.selection.send_replace(Some(Arc::new(text("for the other"))));
    let content = of_other.next().await.and_then(|content| content.upgrade()).expect("content");
    assert_eq!(*content, text("for the other"));
    assert!(futures_util::poll!(std::pin::pin!(of_one.next())).is_pending());
}
