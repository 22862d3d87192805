//! The hub's rules, without sockets and without a real clock.

use std::time::Duration;

use bytes::Bytes;
use protocol::stream::AccessUnit;
use tokio::time::timeout;

use super::*;

const SECOND: u64 = 1_000_000_000;
const WAIT: Duration = Duration::from_secs(5);
/// An SPS of 1280x720 High, and one of another level.
const SPS: [u8; 8] = [0, 0, 0, 1, 0x67, 100, 0, 31];
const OTHER_SPS: [u8; 8] = [0, 0, 0, 1, 0x67, 100, 0, 40];

fn options() -> HubOptions {
    HubOptions { gop_units: 8, gop_bytes: 1000, queue_units: 4, queue_bytes: 500, ..HubOptions::default() }
}

fn unit(seq: u64, idr: bool, head: &[u8], len: usize) -> AccessUnit {
    let mut data = head.to_vec();
    data.resize(len, 0xff);
    AccessUnit {
        seq,
        capture_ns: seq,
        idr,
        repeat: false,
        queue_us: 0,
        encode_us: 0,
        data: Bytes::from(data),
    }
}

fn idr(seq: u64) -> AccessUnit {
    unit(seq, true, &SPS, 20)
}

fn delta(seq: u64) -> AccessUnit {
    unit(seq, false, &[0, 0, 0, 1, 0x41], 20)
}

async fn take(subscription: &mut Subscription) -> Unit {
    timeout(WAIT, subscription.unit()).await.expect("a unit in time").expect("not closed")
}

async fn seqs(subscription: &mut Subscription, n: usize) -> Vec<u64> {
    let mut seqs = Vec::new();
    for _ in 0..n {
        seqs.push(take(subscription).await.au.seq);
    }
    seqs
}

fn dropped(hub: &Hub) -> u64 {
    hub.counters().dropped.load(Ordering::Relaxed)
}

#[tokio::test]
async fn a_late_joiner_gets_the_gop_and_goes_on() {
    let hub = Hub::new(options());
    for au in [delta(1), idr(2), delta(3), idr(4), delta(5)] {
        hub.publish(au);
    }
    let mut late = hub.subscribe(Protocol::WebSocket);
    hub.publish(delta(6));
    let units = [take(&mut late).await, take(&mut late).await, take(&mut late).await];
    assert_eq!(units.each_ref().map(|unit| unit.au.seq), [4, 5, 6]);
    assert_eq!(units.each_ref().map(|unit| unit.backlog), [true, true, false]);
    assert_eq!(hub.description().codec, "avc1.64001F");
}

#[tokio::test]
async fn a_slow_viewer_loses_until_the_next_idr_and_others_lose_nothing() {
    let hub = Hub::new(options());
    let mut slow = hub.subscribe(Protocol::WebSocket);
    let mut quick = hub.subscribe(Protocol::WebSocket);
    let mut requests = hub.keyframe_requests();
    hub.publish(idr(1));
    assert_eq!(seqs(&mut quick, 1).await, [1]);
    for seq in 2..=6 {
        hub.publish(delta(seq));
        assert_eq!(seqs(&mut quick, 1).await, [seq]);
    }
    assert_eq!(dropped(&hub), 2, "5 and 6 had no room");
    timeout(WAIT, requests.next()).await.expect("a keyframe is asked for");
    // It takes one, but goes on with the IDR only: 7 would refer to what it has not got.
    assert_eq!(seqs(&mut slow, 1).await, [1]);
    hub.publish(delta(7));
    hub.publish(idr(8));
    hub.publish(delta(9));
    let next = take(&mut slow).await;
    assert_eq!((next.au.seq, next.discontinuity), (8, true), "the queued 2, 3 and 4 are old");
    assert_eq!(seqs(&mut slow, 1).await, [9]);
    assert_eq!(dropped(&hub), 6);
    let units = [take(&mut quick).await, take(&mut quick).await, take(&mut quick).await];
    assert_eq!(
        units.each_ref().map(|unit| (unit.au.seq, unit.discontinuity)),
        [(7, false), (8, false), (9, false)]
    );
}

#[tokio::test]
async fn bytes_bound_a_queue_too() {
    let hub = Hub::new(options());
    let _viewer = hub.subscribe(Protocol::Mp4);
    hub.publish(unit(1, true, &SPS, 300));
    hub.publish(unit(2, false, &[0, 0, 1, 0x41], 300));
    assert_eq!(dropped(&hub), 1);
}

#[tokio::test]
async fn a_late_page_jumps_to_the_present_and_a_late_player_goes_on() {
    let hub = Hub::new(options());
    let mut page = hub.subscribe(Protocol::WebSocket);
    let mut player = hub.subscribe(Protocol::Mp4);
    hub.publish_at(idr(1), SECOND);
    hub.publish_at(delta(2), 2 * SECOND);
    hub.publish_at(delta(3), 2 * SECOND + 1);
    assert_eq!(dropped(&hub), 1, "1 has waited for more than a second");
    hub.publish_at(idr(4), 2 * SECOND + 2);
    assert_eq!(seqs(&mut page, 1).await, [4]);
    assert_eq!(seqs(&mut player, 4).await, [1, 2, 3, 4]);
}

#[tokio::test]
async fn the_gop_is_bounded_by_units_and_bytes() {
    let hub = Hub::new(options());
    hub.publish(idr(1));
    for seq in 2..=8 {
        hub.publish(delta(seq));
    }
    assert_eq!(hub.current_gop().len(), 8);
    assert_eq!(hub.counters().keyframe_requests.load(Ordering::Relaxed), 0);
    hub.publish(delta(9));
    assert_eq!(hub.current_gop().len(), 0);
    assert_eq!(hub.counters().keyframe_requests.load(Ordering::Relaxed), 1);
    hub.publish(delta(10));
    assert_eq!(hub.current_gop().len(), 0, "no delta without its IDR");
    hub.publish(unit(11, true, &SPS, 900));
    hub.publish(unit(12, false, &[0, 0, 1, 0x41], 101));
    assert_eq!(hub.current_gop().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn keyframe_requests_are_few_and_stop_with_the_idr() {
    let hub = Hub::new(options());
    let mut requests = hub.keyframe_requests();
    let viewers: Vec<_> = (0..10).map(|_| hub.subscribe(Protocol::WebSocket)).collect();
    timeout(WAIT, requests.next()).await.expect("the first at once");
    let asked = tokio::time::Instant::now();
    timeout(WAIT, requests.next()).await.expect("again while none comes");
    assert!(asked.elapsed() >= options().keyframe_interval);
    hub.publish(idr(1));
    assert!(timeout(WAIT, requests.next()).await.is_err(), "none is missing any more");
    drop(viewers);
}

#[tokio::test]
async fn a_discontinuity_leaves_out_deltas_and_keeps_viewers() {
    let hub = Hub::new(options());
    let mut viewer = hub.subscribe(Protocol::WebSocket);
    hub.publish(idr(1));
    hub.discontinuity();
    hub.publish(delta(2));
    hub.publish(unit(3, true, &OTHER_SPS, 20));
    assert_eq!(seqs(&mut viewer, 1).await, [1]);
    let next = take(&mut viewer).await;
    assert_eq!((next.au.seq, next.discontinuity), (3, true));
    assert_eq!(hub.description().codec, "avc1.640028");
    hub.publish(idr(4));
    assert!(take(&mut viewer).await.discontinuity, "another SPS is one by itself");
    hub.publish(idr(5));
    assert!(!take(&mut viewer).await.discontinuity);
}

#[tokio::test]
async fn a_viewer_that_takes_nothing_is_given_up() {
    let hub = Hub::new(options());
    let mut stuck = hub.subscribe(Protocol::AnnexB);
    hub.publish_at(idr(1), SECOND);
    for seq in 2..=4 {
        hub.publish_at(delta(seq), SECOND);
    }
    hub.publish_at(delta(5), 2 * SECOND);
    hub.publish_at(delta(6), 11 * SECOND);
    assert_eq!(seqs(&mut stuck, 1).await, [1], "just in time");
    hub.publish_at(idr(7), 12 * SECOND);
    for seq in 8..=10 {
        hub.publish_at(delta(seq), 12 * SECOND);
    }
    hub.publish_at(delta(11), 13 * SECOND);
    hub.publish_at(delta(12), 23 * SECOND);
    assert_eq!(timeout(WAIT, stuck.unit()).await, Ok(None));
    assert_eq!(hub.counters().stalled.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn viewers_are_counted_and_described() {
    let hub = Hub::new(options());
    let mut first = hub.subscribe(Protocol::WebSocket);
    hub.set_info(StreamInfo { rung: "Local".into(), ..StreamInfo::default() });
    let second = hub.subscribe(Protocol::Mp4);
    let event = timeout(WAIT, first.next()).await.expect("in time");
    let description = hub.description();
    assert_eq!((description.viewers, description.info.rung.as_str()), (2, "Local"));
    assert_eq!(event, Some(Event::Described(description)), "before any unit");
    assert!(hub.metrics().contains("desktopstream_viewers{protocol=\"mp4\"} 1\n"));
    drop(second);
    assert_eq!(hub.description().viewers, 1);
    hub.close();
    let mut late = hub.subscribe(Protocol::Mp4);
    assert_eq!(timeout(WAIT, late.unit()).await, Ok(None));
}
