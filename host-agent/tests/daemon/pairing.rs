//! Bindings: which session gets the frames of which context.

use protocol::link::{Context, FromTap, Quantiles, Stats, VERSION};
use protocol::stream::{ClientMessage, Config, ErrorCode, Path, ServerMessage};

use crate::client::{Client, config};
use crate::rig::{Rig, TIMEOUT};
use crate::tap::{AttachedRing, Tap, hello};

const CONTEXT: Context = Context { id: 7, generation: 1 };
const OTHER: Context = Context { id: 8, generation: 2 };
const SIZE: (u32, u32) = (64, 48);

fn by_resource() -> Config {
    config(Path::ResourceId, SIZE.0 as u16, SIZE.1 as u16)
}

/// A session that is bound and configured, its tap and its ring.
async fn bound_session(rig: &Rig, config: Config) -> (Client, Tap, AttachedRing) {
    let mut client = rig.session("a/b").await;
    client.configure(config).await;
    let mut tap = rig.tap("vm");
    tap.bind(CONTEXT, client.nonce);
    client.bound().await;
    let ring = tap.attached();
    (client, tap, ring)
}

#[tokio::test(flavor = "multi_thread")]
async fn session_gets_the_frames_of_its_own_vm() {
    let rig = Rig::new("x264enc").await;
    let (mut one, mut two) = (rig.session("a/one").await, rig.session("a/two").await);
    let (mut tap_one, mut tap_two) = (rig.tap("vm-one"), rig.tap("vm-two"));
    // The same context ID in two VMs. One session binds before it is configured, the other after.
    tap_one.bind(CONTEXT, one.nonce);
    assert_eq!(one.bound().await, (7, "vm-one".to_owned()));
    one.configure(by_resource()).await;
    two.configure(by_resource()).await;
    tap_two.bind(CONTEXT, two.nonce);
    assert_eq!(two.bound().await, (7, "vm-two".to_owned()));
    let (mut ring_one, mut ring_two) = (tap_one.attached(), tap_two.attached());
    assert_eq!((ring_one.session, ring_one.context), (one.session, CONTEXT));
    for seq in 1..=20 {
        ring_one.publish(seq, SIZE, 10);
        ring_two.publish(seq + 100, SIZE, 200);
        let (first, second) = (one.access_unit().await, two.access_unit().await);
        assert_eq!((first.capture_ns, second.capture_ns), (10, 200));
    }
    let status = rig.until("all frames received", |status| status.sessions[0].captured >= 20).await;
    assert_eq!(status.vms.len(), 2);
    let session = &status.sessions[0];
    assert_eq!((session.vm.as_deref(), session.context), (Some("vm-one"), Some(7)));
    assert_eq!(session.frame_path, Some(contract::FramePath::ResourceId));
    assert!(session.queue_us.count >= 1 && session.read_us.p50 > 0, "{session:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_or_replayed_nonce_is_refused() {
    let rig = Rig::new("null").await;
    let (mut one, two) = (rig.session("a/one").await, rig.session("a/two").await);
    let (mut tap, mut other) = (rig.tap("vm-one"), rig.tap("vm-two"));
    tap.bind(CONTEXT, [0x55; 16]);
    tap.bind(CONTEXT, one.nonce);
    one.bound().await;
    // Replays: from another context, from another VM, and from a later context with the same ID.
    tap.bind(OTHER, one.nonce);
    other.bind(CONTEXT, one.nonce);
    tap.bind(Context { generation: 9, ..CONTEXT }, one.nonce);
    let status = rig.until("four refusals", |status| status.binds_refused == 4).await;
    assert_eq!(status.sessions[0].context, Some(7));
    assert_eq!(status.sessions[1].context, None);
    // The nonce of a session that ended.
    let old = two.nonce;
    drop(two);
    rig.until("one session", |status| status.sessions.len() == 1).await;
    other.bind(OTHER, old);
    rig.until("five refusals", |status| status.binds_refused == 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn session_of_a_destroyed_context_binds_another() {
    let rig = Rig::new("x264enc").await;
    let (mut client, mut tap, mut ring) = bound_session(&rig, by_resource()).await;
    ring.publish(1, SIZE, 1);
    assert!(client.access_unit().await.idr);
    tap.send(&FromTap::ContextGone(CONTEXT));
    assert!(client.unbound().await.contains("bind again"));
    assert_eq!(tap.detached(), client.session);
    tap.bind(OTHER, client.nonce);
    client.bound().await;
    let mut ring = tap.attached();
    assert_eq!(ring.context, OTHER);
    ring.publish(2, SIZE, 2);
    assert_eq!(client.new_access_unit().await.seq, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_vm_unbinds_its_own_session_only() {
    let rig = Rig::new("null").await;
    let (mut one, mut two) = (rig.session("a/one").await, rig.session("a/two").await);
    let (mut tap, mut other) = (rig.tap("killed"), rig.tap("other"));
    tap.bind(CONTEXT, one.nonce);
    other.bind(CONTEXT, two.nonce);
    one.bound().await;
    two.bound().await;
    drop(tap);
    assert!(one.unbound().await.contains("tap disconnected"));
    let status = rig.until("one VM", |status| status.vms.len() == 1).await;
    assert_eq!(status.vms[0].name, "other");
    assert_eq!(status.sessions[1].vm.as_deref(), Some("other"));
    // The restarted VM binds the same session with the same nonce.
    let mut tap = rig.tap("killed");
    tap.bind(OTHER, one.nonce);
    assert_eq!(one.bound().await.0, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_size_gets_a_new_ring_and_drops_frames_of_the_old_size() {
    let rig = Rig::new("x264enc").await;
    let (mut client, mut tap, mut small) = bound_session(&rig, by_resource()).await;
    small.publish(1, SIZE, 1);
    assert_eq!(client.access_unit().await.seq, 1);
    client.configure(config(Path::ResourceId, 128, 96)).await;
    assert_eq!(tap.detached(), client.session);
    let mut large = tap.attached();
    assert!(large.producer.slot_bytes() >= 128 * 96 * 4);
    large.publish(2, (128, 96), 2);
    let unit = client.access_unit().await;
    assert_eq!((unit.seq, unit.idr), (2, true));
    let sps = encode::annexb::sps(&unit.data).expect("an SPS");
    assert_eq!((sps.width, sps.height), (128, 96));
    large.publish(3, SIZE, 3);
    assert_eq!(client.dropped().await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn restarted_daemon_pairs_again() {
    let rig = Rig::new("null").await;
    let mut client = rig.session("a/b").await;
    let mut tap = rig.tap("vm");
    tap.bind(CONTEXT, client.nonce);
    client.bound().await;
    let link = rig.link();
    let restarting = tokio::spawn(rig.restart());
    assert_eq!(client.error().await.0, ErrorCode::ShuttingDown);
    client.closed().await;
    assert!(tap.is_closed());
    let rig = restarting.await.expect("restarted");
    assert_eq!(rig.link(), link);
    let mut client = rig.session("a/b").await;
    let mut tap = rig.tap("vm");
    tap.bind(CONTEXT, client.nonce);
    client.bound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn newest_frame_is_encoded_and_replaced_ones_are_reported() {
    let rig = Rig::new("x264enc").await;
    // One frame per second may be encoded.
    let (mut client, _tap, mut ring) = bound_session(&rig, Config { max_fps: 1, ..by_resource() }).await;
    ring.publish(1, SIZE, 1);
    assert_eq!(client.access_unit().await.seq, 1);
    for seq in 2..=9 {
        ring.publish(seq, SIZE, seq as u8);
    }
    let (mut encoded, mut dropped) = (Vec::new(), Vec::new());
    while encoded.last() != Some(&9) {
        match client.next().await {
            ServerMessage::Dropped { seq } => dropped.push(seq),
            ServerMessage::AccessUnit(unit) if !unit.repeat => encoded.push(unit.seq),
            _ => {}
        }
    }
    assert!(encoded.is_sorted() && !dropped.is_empty(), "encoded {encoded:?}, dropped {dropped:?}");
    // Each frame is either encoded or reported. On a busy machine more than one is encoded.
    let mut all = [encoded, dropped].concat();
    all.sort_unstable();
    assert_eq!(all, (2..=9).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_of_a_tap_are_in_status_and_metrics() {
    let rig = Rig::new("null").await;
    let mut tap = rig.tap("vm");
    let mut stats = Stats { request_bytes: 6400, disabled: 1, ..Stats::default() };
    stats.answers[3] = 42;
    stats.entry = Quantiles { count: 100, p50: 1_000, p99: 2_000, max: 3_000 };
    tap.stats(stats);
    let has_stats = |status: &contract::HostAgentStatus| {
        status.vms.first().is_some_and(|vm| vm.stats.request_bytes == 6400)
    };
    let status = rig.until("counters", has_stats).await;
    let vm = &status.vms[0];
    assert_eq!(vm.stats.answers["not_attached"], 42);
    assert_eq!((vm.stats.entry_ns.p50, vm.stats.entry_ns.max, vm.stats.disabled), (1_000, 3_000, true));
    let (_, metrics) = rig.get("/metrics").await;
    let answers =
        |line: &str| line.starts_with("desktopstream_host_agent_tap_answers{status=\"not_attached\"} 42");
    assert!(metrics.lines().any(answers), "{metrics}");
    assert!(metrics.lines().any(|line| line.starts_with("desktopstream_host_agent_taps 1")), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_tap_is_disconnected_and_others_continue() {
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
        let mut tap = Tap::connect_silently(&link);
        tap.send_bytes(bytes);
        assert!(tap.is_closed(), "{bytes:?}");
    }
    let mut twice = rig.tap("twice");
    twice.send(&hello("twice", VERSION, VERSION));
    assert!(twice.is_closed());
    let mut future = Tap::connect_silently(&link);
    future.send(&hello("future", VERSION + 1, VERSION + 1));
    assert!(future.is_closed());
    rig.until("one VM", |status| status.vms.len() == 1).await;
    client.send(ClientMessage::Ping(5)).await;
    assert_eq!(client.next().await, ServerMessage::Pong(5), "no Unbound was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn link_of_a_running_daemon_is_in_use_until_shutdown() {
    let rig = Rig::new("null").await;
    let link = rig.link();
    let second = host_agent::listen::UnixSocket::bind(&link).expect_err("in use");
    assert!(matches!(second, host_agent::listen::ListenError::InUse(_)), "{second}");
    tokio::time::timeout(TIMEOUT, rig.daemon.shut_down()).await.expect("in time");
    host_agent::listen::UnixSocket::bind(&link).expect("free");
}
