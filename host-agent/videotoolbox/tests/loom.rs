//! Callbacks that race with each other, with a new session and with the end, in every order that the memory model allows
//! (up to three preemptions): one outcome for each picture, in order, and none after the end.

use std::time::Duration;

use bytes::Bytes;
use encode::{Codec, EncodeError, Output};
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;
use videotoolbox::api::{Delivery, Sample};
use videotoolbox::flow::Flow;

/// Nobody waits for room here.
const PATIENCE: Duration = Duration::from_secs(1);

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(check);
}

/// What the sink got: tickets, and whether they came to something.
type Log = Arc<Mutex<Vec<(u64, bool)>>>;

fn flow() -> (Arc<Flow>, Log) {
    let log: Log = Arc::default();
    let kept = Arc::clone(&log);
    let sink = move |outcome: Result<Output, (u64, EncodeError)>| {
        let entry = outcome.map_or_else(|failed| (failed.0, false), |output| (output.ticket, true));
        kept.lock().expect("not poisoned").push(entry);
    };
    (Arc::new(Flow::new(Codec::Hevc, Box::new(sink))), log)
}

fn sample(keyframe: bool) -> Delivery {
    Delivery::Sample(Sample {
        keyframe,
        length_bytes: 4,
        parameter_sets: if keyframe { vec![Bytes::from_static(&[0x42, 1])] } else { Vec::new() },
        data: Bytes::from_static(&[0, 0, 0, 2, 0x26, 1]),
    })
}

#[test]
fn callbacks_beside_each_other_keep_the_order() {
    model(|| {
        let (flow, log) = flow();
        let session = flow.begin_session();
        flow.board(1, 1, true, PATIENCE).expect("room");
        flow.board(2, 2, false, PATIENCE).expect("room");
        let other = Arc::clone(&flow);
        let second = thread::spawn(move || other.deliver(session, 2, sample(false)));
        flow.deliver(session, 1, sample(true));
        second.join().expect("no panic");
        assert_eq!(*log.lock().expect("not poisoned"), [(1, true), (2, true)]);
    });
}

#[test]
fn a_second_callback_for_one_picture_is_a_stray() {
    model(|| {
        let (flow, log) = flow();
        let session = flow.begin_session();
        flow.board(1, 1, true, PATIENCE).expect("room");
        let other = Arc::clone(&flow);
        let twin = thread::spawn(move || other.deliver(session, 1, sample(true)));
        flow.deliver(session, 1, sample(true));
        twin.join().expect("no panic");
        assert_eq!(*log.lock().expect("not poisoned"), [(1, true)]);
        assert_eq!(flow.strays(), 1);
    });
}

#[test]
fn a_callback_beside_a_new_session_has_one_outcome() {
    model(|| {
        let (flow, log) = flow();
        let old = flow.begin_session();
        flow.board(1, 1, true, PATIENCE).expect("room");
        let other = Arc::clone(&flow);
        let late = thread::spawn(move || other.deliver(old, 1, sample(true)));
        let new = flow.begin_session();
        flow.board(2, 2, true, PATIENCE).expect("room");
        flow.deliver(new, 2, sample(true));
        late.join().expect("no panic");
        let log = log.lock().expect("not poisoned");
        assert_eq!(log.iter().map(|entry| entry.0).collect::<Vec<_>>(), [1, 2]);
        assert!(log[1].1, "the new session's picture is no concern of the old one's callback");
    });
}

#[test]
fn after_the_end_nothing_comes() {
    model(|| {
        let ended = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ended);
        let sink = move |_| assert!(!seen.load(Ordering::SeqCst), "it came after the end");
        let flow = Arc::new(Flow::new(Codec::Hevc, Box::new(sink)));
        let session = flow.begin_session();
        flow.board(1, 1, true, PATIENCE).expect("room");
        let other = Arc::clone(&flow);
        let late = thread::spawn(move || other.deliver(session, 1, sample(true)));
        flow.close();
        ended.store(true, Ordering::SeqCst);
        late.join().expect("no panic");
    });
}
