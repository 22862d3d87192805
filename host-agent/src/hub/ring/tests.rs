use std::sync::Arc;
use std::time::Duration;

use protocol::link::Context;
use protocol::stream::ServerMessage;
use tokio::sync::mpsc::Receiver;

use super::super::tests::{CONTEXT, Fixture, OTHER, advance, config, received, sent_messages};
use super::super::{Outgoing, Session, Vm};
use super::*;

/// Configurations of 4K and a little less.
fn large() -> [Config; 2] {
    [3840, 3838].map(|width| Config { width, height: 2160, ..config(1, Path::ResourceId) })
}

/// Numbers of the rings that the messages attach.
fn rings(messages: &[ToTap]) -> Vec<u64> {
    let number = |message: &ToTap| match message {
        ToTap::Attach { ring, .. } => Some(*ring),
        _ => None,
    };
    messages.iter().filter_map(number).collect()
}

fn bound(f: &mut Fixture, vm: &Arc<Vm>, number: u8) -> Arc<Session> {
    let session = f.session(&format!("a/{number}"), number);
    let context = Context { id: number.into(), generation: number.into() };
    assert!(f.bind(vm, context, number));
    session
}

/// Attaches a 4K ring to as many sessions as fit; returns them.
fn full(f: &mut Fixture, vm: &Arc<Vm>, to_tap: &mut Receiver<Outgoing>) -> Vec<Arc<Session>> {
    let count = MAX_VM_RING_BYTES / ring_bytes(4 * 3840 * 2160);
    let sessions: Vec<_> = (1..=count as u8).map(|number| bound(f, vm, number)).collect();
    for session in &sessions {
        f.hub.configure(session.info.id, large()[0]);
    }
    assert_eq!(rings(&sent_messages(to_tap)).len(), sessions.len());
    sessions
}

#[test]
fn alternating_sizes_make_one_ring_until_the_tap_answers() {
    let mut f = Fixture::with_sessions(3);
    let (vm, mut to_tap) = f.vm("one");
    let session = bound(&mut f, &vm, 1);
    for round in 0..1001 {
        f.hub.configure(session.info.id, large()[round % 2]);
    }
    let messages = sent_messages(&mut to_tap);
    assert_eq!((rings(&messages), messages.len()), (vec![1], 1));
    // The ring is of the wrong size by now if the last configuration differs from the first.
    f.hub.configure(session.info.id, large()[1]);
    f.hub.ring_answered(vm.id, session.info.id, 1, Ok(()));
    let messages = sent_messages(&mut to_tap);
    assert_eq!((rings(&messages), messages.len()), (vec![2], 2), "detach and attach");
    let ring = f.inboxes[0].take_orders().ring.flatten().expect("a ring");
    assert_eq!(ring.consumer.slot_bytes(), 4 * 3838 * 2160);
}

#[test]
fn answer_that_was_not_expected_has_no_effect() {
    let mut f = Fixture::with_sessions(3);
    let ((vm, mut to_tap), (other, _keep)) = (f.vm("one"), f.vm("two"));
    let session = bound(&mut f, &vm, 1);
    f.hub.configure(session.info.id, large()[0]);
    f.hub.configure(session.info.id, large()[1]);
    f.hub.ring_answered(other.id, session.info.id, 1, Ok(()));
    f.hub.ring_answered(vm.id, session.info.id, 2, Err(RingRefusal::Memory));
    f.hub.ring_answered(vm.id, 99, 1, Ok(()));
    assert_eq!(rings(&sent_messages(&mut to_tap)), [1]);
    assert!(f.hub.view().0[0].binding.is_some());
}

#[test]
fn rings_over_the_rate_limit_wait() {
    let mut f = Fixture::with_sessions(3);
    let (vm, mut to_tap) = f.vm("one");
    let session = bound(&mut f, &vm, 1);
    let alternate = |session: &Session, to_tap: &mut Receiver<Outgoing>| {
        let mut made = 0;
        for round in 0..101 {
            f.hub.configure(session.info.id, large()[round % 2]);
            for ring in rings(&sent_messages(to_tap)) {
                made += 1;
                f.hub.ring_answered(vm.id, session.info.id, ring, Ok(()));
            }
        }
        made
    };
    assert_eq!(alternate(&session, &mut to_tap), 8, "the burst");
    assert!(f.hub.make_deferred_rings());
    assert!(rings(&sent_messages(&mut to_tap)).is_empty());
    advance(Duration::from_millis(500));
    assert!(!f.hub.make_deferred_rings());
    assert_eq!(rings(&sent_messages(&mut to_tap)), [9]);
}

#[test]
fn reconnecting_sidecar_gets_no_other_rate_limit() {
    let mut f = Fixture::with_sessions(3);
    let (vm, mut to_tap) = f.vm("one");
    let mut made = 0;
    for _ in 0..50 {
        let session = bound(&mut f, &vm, 1);
        f.hub.configure(session.info.id, large()[0]);
        made += rings(&sent_messages(&mut to_tap)).len();
        f.hub.remove_session(session.info.id);
    }
    assert_eq!(made, 8);
    let other = bound(&mut f, &vm, 2);
    f.hub.configure(other.info.id, large()[0]);
    assert_eq!(rings(&sent_messages(&mut to_tap)).len(), 1, "another stream is not limited");
}

#[test]
fn seventeen_4k_desktops_have_rings() {
    let mut f = Fixture::with_sessions(64);
    let (vm, mut to_tap) = f.vm("one");
    assert!(full(&mut f, &vm, &mut to_tap).len() >= 17);
}

#[tokio::test]
async fn session_over_the_vm_budget_is_unbound_and_others_stay() {
    let mut f = Fixture::with_sessions(64);
    let (vm, mut to_tap) = f.vm("one");
    let sessions = full(&mut f, &vm, &mut to_tap);
    let greedy = bound(&mut f, &vm, 200);
    f.hub.configure(greedy.info.id, large()[0]);
    // It is told so at each attempt to bind, and does not count as bound meanwhile.
    assert!(!f.bind(&vm, CONTEXT, 200));
    assert!(sent_messages(&mut to_tap).is_empty());
    let (views, _) = f.hub.view();
    let bound = views.iter().filter(|view| view.binding.is_some());
    assert_eq!(bound.count(), sessions.len());
    let (other, mut to_other) = f.vm("two");
    assert!(f.bind(&other, OTHER, 200), "another VM has its own budget");
    assert_eq!(rings(&sent_messages(&mut to_other)).len(), 1);
    let messages = received(&greedy).await;
    let is_reason = |message: &ServerMessage| matches!(message, ServerMessage::Unbound { reason } if reason.contains("smaller desktops"));
    assert_eq!(messages.iter().filter(|message| is_reason(message)).count(), 2, "{messages:?}");
}

#[test]
fn session_that_fits_again_is_bound() {
    let mut f = Fixture::with_sessions(64);
    let (vm, mut to_tap) = f.vm("one");
    let sessions = full(&mut f, &vm, &mut to_tap);
    let late = bound(&mut f, &vm, 200);
    f.hub.configure(late.info.id, large()[0]);
    assert!(!f.bind(&vm, CONTEXT, 200));
    f.hub.remove_session(sessions[0].info.id);
    assert!(f.bind(&vm, CONTEXT, 200));
    assert_eq!(rings(&sent_messages(&mut to_tap)).len(), 1);
}

#[tokio::test]
async fn refused_ring_unbinds_its_session_only() {
    let mut f = Fixture::with_sessions(3);
    let (vm, mut to_tap) = f.vm("one");
    let (refused, other) = (bound(&mut f, &vm, 1), bound(&mut f, &vm, 2));
    for session in [&refused, &other] {
        f.hub.configure(session.info.id, large()[0]);
    }
    assert_eq!(rings(&sent_messages(&mut to_tap)), [1, 2]);
    f.hub.ring_answered(vm.id, refused.info.id, 1, Err(RingRefusal::Memfd));
    f.hub.ring_answered(vm.id, other.info.id, 2, Ok(()));
    let (views, _) = f.hub.view();
    assert_eq!(views.iter().map(|view| view.binding.is_some()).collect::<Vec<_>>(), [false, true]);
    let messages = received(&refused).await;
    assert!(
        matches!(messages.last(), Some(ServerMessage::Unbound { reason }) if reason.contains("memory limits"))
    );
    assert_eq!(f.hub.counts.rings_refused.load(Ordering::Relaxed), 1);
}
