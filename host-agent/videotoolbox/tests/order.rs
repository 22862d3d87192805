//! What becomes of the pictures that were under way when one of them failed: who may refer to it fails with it, and one
//! IDR is asked for, not one for each.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use encode::{Codec, EncodeError, Output};
use videotoolbox::api::{Delivery, Sample, Status};
use videotoolbox::flow::Flow;

type Log = Arc<Mutex<Vec<(u64, bool)>>>;

fn flow() -> (Flow, u64, Log) {
    let log: Log = Arc::default();
    let kept = Arc::clone(&log);
    let sink = move |outcome: Result<Output, (u64, EncodeError)>| {
        let entry = outcome.map_or_else(|failed| (failed.0, false), |output| (output.ticket, true));
        kept.lock().expect("not poisoned").push(entry);
    };
    let flow = Flow::new(Codec::Hevc, Box::new(sink));
    let session = flow.begin_session();
    (flow, session, log)
}

fn board(flow: &Flow, number: u64, idr: bool) {
    flow.board(number, number, idr, Duration::from_secs(1)).expect("room");
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
fn who_may_refer_to_a_failed_picture_fails_with_it() {
    let (flow, session, log) = flow();
    for number in 1..=4 {
        board(&flow, number, number == 1);
    }
    flow.deliver(session, 1, sample(true));
    flow.deliver(session, 3, sample(false));
    flow.deliver(session, 2, Delivery::Failed(Status(-12912)));
    assert!(flow.wants_idr());
    board(&flow, 5, true);
    flow.deliver(session, 4, sample(false));
    assert!(!flow.wants_idr(), "the IDR is under way");
    flow.deliver(session, 5, sample(true));
    board(&flow, 6, false);
    flow.deliver(session, 6, sample(false));
    let want = [(1, true), (2, false), (3, false), (4, false), (5, true), (6, true)];
    assert_eq!(*log.lock().expect("not poisoned"), want);
}

#[test]
fn nobody_refers_to_a_picture_that_was_left_out() {
    let (flow, session, log) = flow();
    for number in 1..=3 {
        board(&flow, number, number == 1);
    }
    flow.deliver(session, 1, sample(true));
    flow.deliver(session, 2, Delivery::Dropped);
    flow.deliver(session, 3, sample(false));
    assert!(!flow.wants_idr());
    assert_eq!(*log.lock().expect("not poisoned"), [(1, true), (2, false), (3, true)]);
}

#[test]
fn a_session_that_never_gives_an_idr_is_given_up() {
    let (flow, session, log) = flow();
    for number in 1..=20 {
        let idr = flow.wants_idr();
        board(&flow, number, idr);
        flow.deliver(session, number, sample(false));
    }
    assert!(log.lock().expect("not poisoned").iter().all(|entry| !entry.1));
    assert!(flow.failures() >= videotoolbox::flow::MAX_FAILURES, "{} failures", flow.failures());
}
