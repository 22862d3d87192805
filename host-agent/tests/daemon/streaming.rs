//! Frames in, access units out.

use std::time::{Duration, Instant};

use bytes::Bytes;
use encode::annexb;
use protocol::stream::{ClientMessage, Codec, Config, ErrorCode, Path, Pixels};
use protocol::{PixelFormat, Rect};

use crate::client::{config, grey_frame};
use crate::rig::{Rig, token};

/// Minimum time between requested keyframes.
const KEYFRAME_INTERVAL: Duration = Duration::from_millis(200);

fn pixels(width: u16, height: u16) -> Config {
    config(Path::Pixels, width, height)
}

#[tokio::test(flavor = "multi_thread")]
async fn pushed_frames_are_encoded_one_by_one() {
    let rig = Rig::new("x264enc").await;
    let mut client = rig.session("a/b").await;
    assert_eq!(client.configure(pixels(160, 120)).await, "x264enc");
    for seq in 1..=30 {
        client.send(ClientMessage::Pixels(grey_frame(seq, 160, 120, seq as u8 * 8))).await;
        let unit = client.new_access_unit().await;
        assert_eq!((unit.seq, unit.capture_ns, unit.idr), (seq, seq * 1000, seq == 1));
        assert_eq!(annexb::is_entry_point(&unit.data), seq == 1);
        assert!(!unit.data.is_empty());
    }
    // The client may receive the last unit before the daemon counted it.
    let status = rig.until("30 units written", |status| status.sessions[0].wire_us.count >= 30).await;
    let session = &status.sessions[0];
    assert_eq!((session.captured, session.encoded, session.dropped, session.lost), (30, 30, 0, 0));
    assert_eq!((session.width, session.height, session.encoder.as_deref()), (160, 120, Some("x264enc")));
    let payload = 30 * 160 * 120 * 4;
    assert!((payload..payload + 30 * 64 + 8192).contains(&session.bytes_in), "{} bytes in", session.bytes_in);
    assert!(session.bytes_out > 0 && session.encode_us.p50 > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn partial_frame_is_encoded_after_a_whole_one() {
    let rig = Rig::new("x264enc").await;
    let mut client = rig.connect_by_unix_socket().await;
    client.hello(&token("a/b")).await;
    client.configure(Config { format: PixelFormat::Nv12, ..pixels(64, 64) }).await;
    let part = |seq, rect: Rect| Pixels {
        seq,
        capture_ns: 0,
        format: PixelFormat::Nv12,
        width: 64,
        height: 64,
        rects: vec![rect],
        data: Bytes::from(vec![100; PixelFormat::Nv12.bytes(rect.width, rect.height)]),
    };
    let corner = Rect { x: 2, y: 2, width: 8, height: 8 };
    client.send(ClientMessage::Pixels(part(1, corner))).await;
    assert_eq!(client.dropped().await, 1);
    client.send(ClientMessage::Pixels(part(2, Rect::full(64, 64)))).await;
    assert_eq!(client.new_access_unit().await.seq, 2);
    client.send(ClientMessage::Pixels(part(3, corner))).await;
    assert_eq!(client.new_access_unit().await.seq, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn unchanged_frame_is_repeated_at_most_ten_times_a_second() {
    let rig = Rig::new("x264enc").await;
    let mut client = rig.session("a/b").await;
    client.configure(pixels(64, 64)).await;
    client.send(ClientMessage::Pixels(grey_frame(5, 64, 64, 50))).await;
    assert!(!client.access_unit().await.repeat);
    let start = Instant::now();
    for _ in 0..20 {
        let unit = client.access_unit().await;
        assert_eq!((unit.seq, unit.capture_ns, unit.repeat, unit.idr), (5, 5000, true, false));
    }
    // A lower bound only: a busy machine repeats less often.
    let elapsed = start.elapsed();
    assert!(elapsed >= Duration::from_millis(1800), "{elapsed:?}");
    let session = &rig.status().await.sessions[0];
    assert!((session.encoded, session.captured) == (1, 1) && session.repeated >= 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn keyframe_requests_within_the_interval_share_a_keyframe() {
    let rig = Rig::new("x264enc").await;
    let mut client = rig.session("a/b").await;
    client.configure(pixels(64, 64)).await;
    client.send(ClientMessage::Pixels(grey_frame(1, 64, 64, 50))).await;
    assert!(client.access_unit().await.idr);
    let repeat = client.access_unit().await;
    assert!(repeat.repeat && !repeat.idr);
    let start = Instant::now();
    client.send_bytes(&ClientMessage::RequestKeyframe.encode().to_vec().repeat(50)).await;
    let units = [client.access_unit().await, client.access_unit().await, client.access_unit().await];
    let idrs: Vec<_> = units.iter().filter(|unit| unit.idr).collect();
    // On a busy machine the daemon may read the requests in more than one interval.
    let intervals = start.elapsed().div_duration_f64(KEYFRAME_INTERVAL) as usize;
    assert!((1..=1 + intervals).contains(&idrs.len()), "{} IDRs in {intervals} intervals", idrs.len());
    assert!(idrs[0].repeat && annexb::is_entry_point(&idrs[0].data), "made of the unchanged frame");
    assert!(rig.get("/metrics").await.1.contains("keyframe_requests_total 50"));
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_configuration_is_refused_and_the_session_continues() {
    let rig = Rig::new("x264enc").await;
    let mut client = rig.session("a/b").await;
    let cases = [
        (Config { codec: Codec::Hevc, ..pixels(64, 64) }, "H.264"),
        (pixels(8192, 8192), "--max-pixels"),
        (Config { bitrate_kbps: 0, ..pixels(64, 64) }, ""),
    ];
    for (config, expected) in cases {
        client.send(ClientMessage::Configure(config)).await;
        let (code, message) = client.error().await;
        assert_eq!(code, ErrorCode::Encoder);
        assert!(message.contains(expected), "{message}");
    }
    client.configure(pixels(64, 64)).await;
    client.send(ClientMessage::Pixels(grey_frame(1, 64, 64, 9))).await;
    assert_eq!(client.access_unit().await.seq, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_size_starts_with_an_idr_of_that_size() {
    let rig = Rig::new("x264enc").await;
    let mut client = rig.session("a/b").await;
    for (seq, (width, height)) in (1..).zip([(64, 48), (320, 240), (33, 17), (64, 48)]) {
        client.configure(pixels(width, height)).await;
        client.send(ClientMessage::Pixels(grey_frame(seq, width, height, 77))).await;
        let unit = client.access_unit().await;
        assert_eq!((unit.seq, unit.idr), (seq, true));
        let sps = annexb::sps(&unit.data).expect("an SPS");
        let even = |side: u16| u32::from(side.next_multiple_of(2));
        assert_eq!((sps.width, sps.height), (even(width), even(height)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bye_ends_the_session_and_the_daemon_stays_ready() {
    let rig = Rig::new("null").await;
    let mut client = rig.session("a/b").await;
    client.send(ClientMessage::Bye).await;
    client.closed().await;
    rig.until("no session", |status| status.sessions.is_empty()).await;
    assert_eq!(rig.get("/healthz").await.0, 200);
    rig.until("encoders tested", |status| status.encoders.iter().any(|encoder| encoder.ok)).await;
    assert_eq!(rig.get("/readyz").await.0, 200);
    assert_eq!(rig.get("/missing").await.0, 404);
}
