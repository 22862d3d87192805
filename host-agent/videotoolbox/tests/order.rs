//! Failures in the completion queue: pictures that may refer to a failed one fail too, and one IDR is
//! requested for all of them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use encode::{Codec, EncodeError, Output};
use parking_lot::Mutex;
use videotoolbox::api::{Delivery, Sample, Status};
use videotoolbox::completion_queue::{CompletionQueue, MAX_FAILURES};

type Log = Arc<Mutex<Vec<(u64, bool)>>>;

fn queue() -> (CompletionQueue, u64, Log) {
    let log: Log = Arc::default();
    let kept = Arc::clone(&log);
    let sink = move |outcome: Result<Output, (u64, EncodeError)>| {
        let entry = outcome.map_or_else(|failed| (failed.0, false), |output| (output.ticket, true));
        kept.lock().push(entry);
    };
    let queue = CompletionQueue::new(Codec::Hevc, Box::new(sink));
    let session = queue.begin_session();
    (queue, session, log)
}

fn begin(queue: &CompletionQueue, number: u64, idr: bool) {
    queue.begin(number, number, idr, Duration::from_secs(1)).expect("room");
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
fn pictures_after_a_failed_one_fail_until_the_next_idr() {
    let (queue, session, log) = queue();
    for number in 1..=4 {
        begin(&queue, number, number == 1);
    }
    queue.deliver(session, 1, sample(true));
    queue.deliver(session, 3, sample(false));
    queue.deliver(session, 2, Delivery::Failed(Status(-12912)));
    assert!(queue.needs_idr());
    begin(&queue, 5, true);
    queue.deliver(session, 4, sample(false));
    assert!(!queue.needs_idr(), "the IDR is in flight");
    queue.deliver(session, 5, sample(true));
    begin(&queue, 6, false);
    queue.deliver(session, 6, sample(false));
    let want = [(1, true), (2, false), (3, false), (4, false), (5, true), (6, true)];
    assert_eq!(*log.lock(), want);
}

#[test]
fn skipped_picture_does_not_affect_later_ones() {
    let (queue, session, log) = queue();
    for number in 1..=3 {
        begin(&queue, number, number == 1);
    }
    queue.deliver(session, 1, sample(true));
    queue.deliver(session, 2, Delivery::Dropped);
    queue.deliver(session, 3, sample(false));
    assert!(!queue.needs_idr());
    assert_eq!(*log.lock(), [(1, true), (2, false), (3, true)]);
}

#[test]
fn session_without_an_idr_counts_as_failing() {
    let (queue, session, log) = queue();
    for number in 1..=20 {
        let idr = queue.needs_idr();
        begin(&queue, number, idr);
        queue.deliver(session, number, sample(false));
    }
    assert!(log.lock().iter().all(|entry| !entry.1));
    assert!(queue.failures() >= MAX_FAILURES, "{} failures", queue.failures());
}
