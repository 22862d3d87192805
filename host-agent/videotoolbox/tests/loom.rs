//! Callbacks concurrent with each other, with a new session and with the end, in every order that the memory
//! model allows (up to three preemptions): every picture has one outcome, in order, and none after the end.

use std::time::Duration;

use bytes::Bytes;
use encode::{Codec, EncodeError, Output};
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;
use videotoolbox::api::{Delivery, Sample};
use videotoolbox::completion_queue::CompletionQueue;

/// Not reached: there is always room.
const TIMEOUT: Duration = Duration::from_secs(1);

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(check);
}

/// Tickets that the sink received, and whether they have an access unit.
type Log = Arc<Mutex<Vec<(u64, bool)>>>;

fn queue() -> (Arc<CompletionQueue>, Log) {
    let log: Log = Arc::default();
    let kept = Arc::clone(&log);
    let sink = move |outcome: Result<Output, (u64, EncodeError)>| {
        let entry = outcome.map_or_else(|failed| (failed.0, false), |output| (output.ticket, true));
        kept.lock().expect("not poisoned").push(entry);
    };
    (Arc::new(CompletionQueue::new(Codec::Hevc, Box::new(sink))), log)
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
fn concurrent_callbacks_keep_the_order() {
    model(|| {
        let (queue, log) = queue();
        let session = queue.begin_session();
        queue.begin(1, 1, true, TIMEOUT).expect("room");
        queue.begin(2, 2, false, TIMEOUT).expect("room");
        let other = Arc::clone(&queue);
        let second = thread::spawn(move || other.deliver(session, 2, sample(false)));
        queue.deliver(session, 1, sample(true));
        second.join().expect("no panic");
        assert_eq!(*log.lock().expect("not poisoned"), [(1, true), (2, true)]);
    });
}

#[test]
fn second_callback_for_a_picture_is_unmatched() {
    model(|| {
        let (queue, log) = queue();
        let session = queue.begin_session();
        queue.begin(1, 1, true, TIMEOUT).expect("room");
        let other = Arc::clone(&queue);
        let twin = thread::spawn(move || other.deliver(session, 1, sample(true)));
        queue.deliver(session, 1, sample(true));
        twin.join().expect("no panic");
        assert_eq!(*log.lock().expect("not poisoned"), [(1, true)]);
        assert_eq!(queue.unmatched(), 1);
    });
}

#[test]
fn callback_concurrent_with_a_new_session_has_one_outcome() {
    model(|| {
        let (queue, log) = queue();
        let old = queue.begin_session();
        queue.begin(1, 1, true, TIMEOUT).expect("room");
        let other = Arc::clone(&queue);
        let late = thread::spawn(move || other.deliver(old, 1, sample(true)));
        let new = queue.begin_session();
        queue.begin(2, 2, true, TIMEOUT).expect("room");
        queue.deliver(new, 2, sample(true));
        late.join().expect("no panic");
        let log = log.lock().expect("not poisoned");
        assert_eq!(log.iter().map(|entry| entry.0).collect::<Vec<_>>(), [1, 2]);
        assert!(log[1].1, "the old session's callback does not affect the new session");
    });
}

#[test]
fn closed_queue_calls_the_sink_no_more() {
    model(|| {
        let ended = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ended);
        let sink = move |_| assert!(!seen.load(Ordering::SeqCst), "called after the end");
        let queue = Arc::new(CompletionQueue::new(Codec::Hevc, Box::new(sink)));
        let session = queue.begin_session();
        queue.begin(1, 1, true, TIMEOUT).expect("room");
        let other = Arc::clone(&queue);
        let late = thread::spawn(move || other.deliver(session, 1, sample(true)));
        queue.close();
        ended.store(true, Ordering::SeqCst);
        late.join().expect("no panic");
    });
}
