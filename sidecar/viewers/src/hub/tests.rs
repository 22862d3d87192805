//! Distribution, limits and keyframe requests of the hub, with given times.

use std::time::Duration;

use bytes::Bytes;
use protocol::stream::AccessUnit;
use tokio::time::timeout;

use super::*;

const SECOND: u64 = 1_000_000_000;
const TIMEOUT: Duration = Duration::from_secs(60);
/// High profile, level 3.1 and level 4.0.
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
    timeout(TIMEOUT, subscription.unit()).await.expect("timed out: a unit").expect("the subscription is open")
}

async fn seqs(subscription: &mut Subscription, n: usize) -> Vec<u64> {
    let mut seqs = Vec::new();
    for _ in 0..n {
        seqs.push(take(subscription).await.au.seq);
    }
    seqs
}

fn dropped(hub: &Hub) -> u64 {
    hub.metrics().units_dropped.get()
}

#[tokio::test]
async fn new_viewer_receives_the_cached_gop_then_live_units() {
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
async fn slow_viewer_loses_units_up_to_the_next_idr_and_others_lose_none() {
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
    assert_eq!(dropped(&hub), 2, "5 and 6 exceed the queue");
    timeout(TIMEOUT, requests.next()).await.expect("timed out: a keyframe request");
    // After reading one unit there is room, but 7 depends on units that this viewer lost: it waits for the IDR.
    assert_eq!(seqs(&mut slow, 1).await, [1]);
    hub.publish(delta(7));
    hub.publish(idr(8));
    hub.publish(delta(9));
    let next = take(&mut slow).await;
    assert_eq!((next.au.seq, next.discontinuity), (8, true), "the queued 2, 3 and 4 are discarded");
    assert_eq!(seqs(&mut slow, 1).await, [9]);
    assert_eq!(dropped(&hub), 6);
    let units = [take(&mut quick).await, take(&mut quick).await, take(&mut quick).await];
    assert_eq!(
        units.each_ref().map(|unit| (unit.au.seq, unit.discontinuity)),
        [(7, false), (8, false), (9, false)]
    );
}

#[tokio::test]
async fn queue_over_its_byte_limit_drops_units() {
    let hub = Hub::new(options());
    let _viewer = hub.subscribe(Protocol::Mp4);
    hub.publish(unit(1, true, &SPS, 300));
    hub.publish(unit(2, false, &[0, 0, 1, 0x41], 300));
    assert_eq!(dropped(&hub), 1);
}

#[tokio::test]
async fn queue_over_its_age_limit_is_discarded_for_pages_and_kept_for_players() {
    let hub = Hub::new(options());
    let mut page = hub.subscribe(Protocol::WebSocket);
    let mut player = hub.subscribe(Protocol::Mp4);
    hub.publish_at(idr(1), SECOND);
    hub.publish_at(delta(2), 2 * SECOND);
    hub.publish_at(delta(3), 2 * SECOND + 1);
    assert_eq!(dropped(&hub), 1, "1 has been queued for more than a second");
    hub.publish_at(idr(4), 2 * SECOND + 2);
    assert_eq!(seqs(&mut page, 1).await, [4]);
    assert_eq!(seqs(&mut player, 4).await, [1, 2, 3, 4]);
}

#[tokio::test]
async fn gop_cache_over_its_limits_is_empty_until_the_next_idr() {
    let hub = Hub::new(options());
    hub.publish(idr(1));
    for seq in 2..=8 {
        hub.publish(delta(seq));
    }
    assert_eq!(hub.current_gop().len(), 8);
    assert_eq!(hub.metrics().keyframe_requests.get(), 0);
    hub.publish(delta(9));
    assert_eq!(hub.current_gop().len(), 0);
    assert_eq!(hub.metrics().keyframe_requests.get(), 1);
    hub.publish(delta(10));
    assert_eq!(hub.current_gop().len(), 0, "a delta is not cached without its IDR");
    hub.publish(unit(11, true, &SPS, 900));
    hub.publish(unit(12, false, &[0, 0, 1, 0x41], 101));
    assert_eq!(hub.current_gop().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn keyframe_requests_are_coalesced_and_stop_with_the_idr() {
    let hub = Hub::new(options());
    let mut requests = hub.keyframe_requests();
    let viewers: Vec<_> = (0..10).map(|_| hub.subscribe(Protocol::WebSocket)).collect();
    timeout(TIMEOUT, requests.next()).await.expect("timed out: the first request");
    let asked = tokio::time::Instant::now();
    timeout(TIMEOUT, requests.next()).await.expect("timed out: a repeated request while no IDR arrives");
    assert!(asked.elapsed() >= options().keyframe_interval);
    hub.publish(idr(1));
    assert!(timeout(TIMEOUT, requests.next()).await.is_err(), "no request after the IDR");
    drop(viewers);
}

#[tokio::test]
async fn discontinuity_discards_deltas_and_keeps_viewers() {
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
    assert!(take(&mut viewer).await.discontinuity, "a changed SPS is a discontinuity");
    hub.publish(idr(5));
    assert!(!take(&mut viewer).await.discontinuity);
}

#[tokio::test]
async fn viewer_that_reads_nothing_is_disconnected_after_the_stall_timeout() {
    let hub = Hub::new(options());
    let mut stuck = hub.subscribe(Protocol::AnnexB);
    hub.publish_at(idr(1), SECOND);
    for seq in 2..=4 {
        hub.publish_at(delta(seq), SECOND);
    }
    hub.publish_at(delta(5), 2 * SECOND);
    hub.publish_at(delta(6), 11 * SECOND);
    assert_eq!(seqs(&mut stuck, 1).await, [1], "the viewer reads before the timeout");
    hub.publish_at(idr(7), 12 * SECOND);
    for seq in 8..=10 {
        hub.publish_at(delta(seq), 12 * SECOND);
    }
    hub.publish_at(delta(11), 13 * SECOND);
    hub.publish_at(delta(12), 23 * SECOND);
    assert_eq!(timeout(TIMEOUT, stuck.unit()).await, Ok(None));
    assert_eq!(hub.metrics().viewers_stalled.get(), 1);
}

#[tokio::test]
async fn viewer_count_and_info_are_sent_as_description() {
    let hub = Hub::new(options());
    let mut first = hub.subscribe(Protocol::WebSocket);
    hub.set_info(StreamInfo { frame_path: Some(FramePath::Local), ..StreamInfo::default() });
    let second = hub.subscribe(Protocol::Mp4);
    let event = timeout(TIMEOUT, first.next()).await.expect("timed out: a description");
    let description = hub.description();
    assert_eq!((description.viewers, description.info.frame_path), (2, Some(FramePath::Local)));
    assert_eq!(event, Some(Event::Described(description)), "descriptions precede units");
    assert_eq!(hub.metrics().viewers(Protocol::Mp4).get(), 1);
    drop(second);
    assert_eq!((hub.description().viewers, hub.metrics().viewers(Protocol::Mp4).get()), (1, 0));
}

#[tokio::test]
async fn closed_hub_ends_existing_and_new_subscriptions() {
    let hub = Hub::new(options());
    let mut existing = hub.subscribe(Protocol::WebSocket);
    hub.close();
    assert_eq!(timeout(TIMEOUT, existing.unit()).await, Ok(None));
    let mut new = hub.subscribe(Protocol::Mp4);
    assert_eq!(timeout(TIMEOUT, new.unit()).await, Ok(None));
    assert_eq!(timeout(TIMEOUT, hub.keyframe_requests().next()).await, Ok(None));
}

#[tokio::test]
async fn metrics_are_exported_under_their_public_names() {
    let hub = Hub::new(options());
    let _viewer = hub.subscribe(Protocol::Mp4);
    hub.publish(idr(1));
    hub.metrics().rejected(Rejection::Full).inc();
    let mut registry = Registry::default();
    hub.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::prometheus_text::encode(&mut text, &registry).expect("encoded");
    for line in [
        "desktopstream_viewers{protocol=\"mp4\"} 1",
        "desktopstream_viewers{protocol=\"websocket\"} 0",
        "desktopstream_viewers{protocol=\"h264\"} 0",
        "desktopstream_viewer_units_published_total 1",
        "desktopstream_viewer_keyframes_published_total 1",
        "desktopstream_viewer_bytes_published_total 20",
        "desktopstream_viewer_units_sent_total 0",
        "desktopstream_viewer_bytes_sent_total 0",
        "desktopstream_viewer_units_dropped_total 0",
        "desktopstream_viewer_units_unusable_total 0",
        "desktopstream_viewer_keyframe_requests_total 1",
        "desktopstream_viewers_stalled_total 0",
        "desktopstream_viewers_refused_total{reason=\"auth\"} 0",
        "desktopstream_viewers_refused_total{reason=\"origin\"} 0",
        "desktopstream_viewers_refused_total{reason=\"full\"} 1",
        "desktopstream_viewer_gop_units 1",
        "desktopstream_viewer_gop_bytes 20",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing: {text}");
    }
}
