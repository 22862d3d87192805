//! Who gets whose pictures: taps, contexts, nonces.

use std::time::Duration;

use protocol::link::{Context, FromTap, Quantiles, Stats};
use protocol::stream::{ClientMessage, ErrorCode, Path, ServerMessage};

use crate::client::config;
use crate::rig::Rig;
use crate::tap::Tap;

const CONTEXT: Context = Context { id: 7, generation: 1 };
const OTHER: Context = Context { id: 8, generation: 2 };
const SIZE: (u32, u32) = (64, 48);

fn by_resource() -> protocol::stream::Config {
    config(Path::ResourceId, SIZE.0 as u16, SIZE.1 as u16)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_session_gets_its_own_pictures() {
    let rig = Rig::new("x264enc").await;
    let (mut one, mut two) = (rig.session("a/one").await, rig.session("a/two").await);
    let (mut tap_one, mut tap_two) = (rig.tap("vm-one"), rig.tap("vm-two"));
    // The same context ID in two VMs, one session each; one binds before it configures.
    tap_one.bind(CONTEXT, one.nonce);
    assert_eq!(one.bound().await, (7, "vm-one".to_owned()));
    one.configure(by_resource()).await;
    two.configure(by_resource()).await;
    tap_two.bind(CONTEXT, two.nonce);
    assert_eq!(two.bound().await, (7, "vm-two".to_owned()));
    let (mut ring_one, mut ring_two) = (tap_one.attached(), tap_two.attached());
    assert_eq!((ring_one.session, ring_one.context), (one.session, CONTEXT));
    for seq in 1..=20 {
        ring_one.frame(seq, SIZE, 10);
        ring_two.frame(seq + 100, SIZE, 200);
        let (first, second) = (one.access_unit().await, two.access_unit().await);
        assert_eq!(first.capture_ns, 10);
        assert_eq!(second.capture_ns, 200);
    }
    let status = rig.status().await;
    assert_eq!(status.vms.len(), 2);
    let session = &status.sessions[0];
    assert_eq!(
        (session.vm.as_deref(), session.context, session.path.as_deref()),
        (Some("vm-one"), Some(7), Some("resource_id"))
    );
    assert!(session.captured >= 20 && session.encoded + session.dropped >= 20, "{session:#?}");
    assert!(session.queue_us.count >= 1 && session.read_us.p50 > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nonces_that_are_wrong_foreign_or_used_bind_nothing() {
    let rig = Rig::new("null").await;
    let (mut one, two) = (rig.session("a/one").await, rig.session("a/two").await);
    let (mut tap, mut other) = (rig.tap("vm-one"), rig.tap("vm-two"));
    tap.bind(CONTEXT, [0x55; 16]);
    tap.bind(CONTEXT, one.nonce);
    one.bound().await;
    // Replays: another context, another VM, the same ID reborn.
    tap.bind(OTHER, one.nonce);
    other.bind(CONTEXT, one.nonce);
    tap.bind(Context { generation: 9, ..CONTEXT }, one.nonce);
    let status = rig.until("four refusals", |status| status.binds_refused == 4).await;
    assert_eq!(status.sessions[0].context, Some(7));
    assert_eq!(status.sessions[1].context, None, "a/two is untouched");
    // After its session is gone a nonce is nothing.
    let old = two.nonce;
    drop(two);
    rig.until("one session", |status| status.sessions.len() == 1).await;
    other.bind(OTHER, old);
    rig.until("five refusals", |status| status.binds_refused == 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_context_is_told_and_can_be_bound_anew() {
    let rig = Rig::new("x264enc").await;
    let mut client = rig.session("a/b").await;
    client.configure(by_resource()).await;
    let mut tap = rig.tap("vm");
    tap.bind(CONTEXT, client.nonce);
    client.bound().await;
    let mut slots = tap.attached();
    slots.frame(1, SIZE, 1);
    assert!(client.access_unit().await.idr);
    tap.send(&FromTap::ContextGone(CONTEXT));
    assert!(client.unbound().await.contains("bind again"));
    assert_eq!(tap.detached(), client.session);
    tap.bind(OTHER, client.nonce);
    client.bound().await;
    let mut slots = tap.attached();
    assert_eq!(slots.context, OTHER);
    slots.frame(2, SIZE, 2);
    let unit = client.until("the new picture", |message| match message {
        ServerMessage::AccessUnit(unit) => Some(unit),
        _ => None,
    });
    assert_eq!(unit.await.seq, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_vm_leaves_nothing_behind() {
    let rig = Rig::new("null").await;
    let (mut one, mut two) = (rig.session("a/one").await, rig.session("a/two").await);
    let (mut tap, mut other) = (rig.tap("doomed"), rig.tap("other"));
    tap.bind(CONTEXT, one.nonce);
    other.bind(CONTEXT, two.nonce);
    one.bound().await;
    two.bound().await;
    drop(tap);
    assert!(one.unbound().await.contains("tap disconnected"));
    let status = rig.until("one VM", |status| status.vms.len() == 1).await;
    assert_eq!(status.vms[0].name, "other");
    assert_eq!(status.sessions[1].vm.as_deref(), Some("other"), "the other VM's session stays bound");
    // The VM is back: the same session binds with the same nonce.
    let mut tap = rig.tap("doomed");
    tap.bind(OTHER, one.nonce);
    assert_eq!(one.bound().await.0, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_size_gets_another_ring() {
    let rig = Rig::new("x264enc").await;
    let mut client = rig.session("a/b").await;
    client.configure(by_resource()).await;
    let mut tap = rig.tap("vm");
    tap.bind(CONTEXT, client.nonce);
    let mut small = tap.attached();
    small.frame(1, SIZE, 1);
    assert_eq!(client.access_unit().await.seq, 1);
    client.configure(config(Path::ResourceId, 128, 96)).await;
    assert_eq!(tap.detached(), client.session);
    let mut large = tap.attached();
    assert!(large.producer.slot_bytes() >= 128 * 96 * 4);
    large.frame(2, (128, 96), 2);
    let unit = client.access_unit().await;
    assert_eq!((unit.seq, unit.idr), (2, true));
    let sps = encode::annexb::sps(&unit.data).expect("an SPS");
    assert_eq!((sps.width, sps.height), (128, 96));
    // A picture that was read for the old size is dropped, not stretched.
    large.frame(3, SIZE, 3);
    let dropped = client.until("dropped", |message| match message {
        ServerMessage::Dropped { seq } => Some(seq),
        _ => None,
    });
    assert_eq!(dropped.await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_is_told_and_everything_pairs_again() {
    let rig = Rig::new("null").await;
    let mut client = rig.session("a/b").await;
    let mut tap = rig.tap("vm");
    tap.bind(CONTEXT, client.nonce);
    client.bound().await;
    let link = rig.link();
    let restarted = tokio::spawn(rig.restart());
    assert_eq!(client.error().await.0, ErrorCode::ShuttingDown);
    client.closed().await;
    assert!(tap.is_closed());
    let rig = restarted.await.expect("restarted");
    assert_eq!(rig.link(), link);
    let mut client = rig.session("a/b").await;
    let mut tap = rig.tap("vm");
    tap.bind(CONTEXT, client.nonce);
    client.bound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_picture_wins_and_the_overtaken_are_told() {
    let rig = Rig::new("x264enc").await;
    let mut client = rig.session("a/b").await;
    // One picture a second may pass.
    client.configure(protocol::stream::Config { max_fps: 1, ..by_resource() }).await;
    let mut tap = rig.tap("vm");
    tap.bind(CONTEXT, client.nonce);
    let mut slots = tap.attached();
    slots.frame(1, SIZE, 1);
    assert_eq!(client.access_unit().await.seq, 1);
    for seq in 2..=9 {
        slots.frame(seq, SIZE, seq as u8);
    }
    let mut dropped = Vec::new();
    let newest = loop {
        match client.next().await {
            ServerMessage::Dropped { seq } => dropped.push(seq),
            ServerMessage::AccessUnit(unit) if !unit.repeat => break unit.seq,
            _ => {}
        }
    };
    assert_eq!(newest, 9);
    dropped.sort_unstable();
    assert_eq!(dropped, (2..9).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tap_counts_is_in_status_and_metrics() {
    let rig = Rig::new("null").await;
    let mut tap = rig.tap("vm");
    let mut stats = Stats { request_bytes: 6400, disabled: 1, ..Stats::default() };
    stats.answers[3] = 42;
    stats.entry = Quantiles { count: 100, p50: 1_000, p99: 2_000, max: 3_000 };
    tap.stats(stats);
    let status =
        rig.until("stats", |status| status.vms.iter().any(|vm| vm.stats.request_bytes == 6400)).await;
    let vm = &status.vms[0];
    assert_eq!(vm.stats.answers["not_attached"], 42);
    assert_eq!((vm.stats.entry.p50, vm.stats.entry.max, vm.stats.disabled), (1_000, 3_000, true));
    let (_, metrics) = rig.get("/metrics").await;
    assert!(
        metrics.contains("desktopstream_host_agent_tap_answers{status=\"not_attached\"} 42"),
        "{metrics}"
    );
    assert!(metrics.contains("desktopstream_host_agent_taps 1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn taps_that_talk_nonsense_are_dropped_and_harm_nobody() {
    let rig = Rig::new("null").await;
    let mut client = rig.session("a/b").await;
    let mut good = rig.tap("good");
    good.bind(CONTEXT, client.nonce);
    client.bound().await;
    let link = rig.link();
    for bytes in [
        &[0xFF; 64][..],
        &[0, 0, 0, 0, 2, 0, 0, 0],
        &[0, 0, 0, 0, 1, 0, 0, 0],
        &[255, 255, 255, 255, 1, 0, 0, 0],
    ] {
        let mut tap = Tap::silent(&link);
        tap.send_bytes(bytes);
        assert!(tap.is_closed(), "{bytes:?}");
    }
    let mut twice = rig.tap("twice");
    twice.send(&FromTap::Hello {
        min: 1,
        max: 1,
        tap_version: 1,
        instance: [0; 16],
        pid: 1,
        abi: 1,
        vm: String::new(),
    });
    assert!(twice.is_closed());
    let mut future = Tap::silent(&link);
    future.send(&FromTap::Hello {
        min: 9,
        max: 9,
        tap_version: 1,
        instance: [0; 16],
        pid: 1,
        abi: 1,
        vm: String::new(),
    });
    assert!(future.is_closed());
    rig.until("only the good one", |status| status.vms.len() == 1).await;
    client.send(ClientMessage::Ping(5)).await;
    assert_eq!(client.next().await, ServerMessage::Pong(5), "still bound, nothing was said in between");
    // Nobody else is at the link: a second daemon must not take the socket away.
    let second = host_agent::listen::UnixSocket::bind(&link);
    assert_eq!(second.expect_err("taken").kind(), std::io::ErrorKind::AddrInUse);
    tokio::time::timeout(Duration::from_secs(5), rig.running.shut_down()).await.expect("ends in time");
}
