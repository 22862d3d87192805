//! Pictures in, access units out.

use std::time::{Duration, Instant};

use bytes::Bytes;
use encode::annexb;
use protocol::stream::{ClientMessage, Codec, Config, ErrorCode, Path, Pixels, ServerMessage};
use protocol::{PixelFormat, Rect};

use crate::client::{Client, config, picture};
use crate::rig::{Rig, token};

fn pixels(width: u16, height: u16) -> Config {
    config(Path::Pixels, width, height)
}

#[tokio::test(flavor = "multi_thread")]
async fn pushed_pictures_come_back_encoded() {
    let rig = Rig::new("x264enc").await;
    let mut client = rig.session("a/b").await;
    assert_eq!(client.configure(pixels(160, 120)).await, "x264enc");
    for seq in 1..=30 {
        client.send(ClientMessage::Pixels(picture(seq, 160, 120, seq as u8 * 8))).await;
        let unit = loop {
            let unit = client.access_unit().await;
            if !unit.repeat {
                break unit;
            }
        };
        assert_eq!((unit.seq, unit.capture_ns, unit.idr), (seq, seq * 1000, seq == 1));
        assert_eq!(annexb::is_entry_point(&unit.data), seq == 1);
        assert!(!unit.data.is_empty());
    }
    // A client may have the last one before its way is counted.
    let status = rig.until("all are on the wire", |status| status.sessions[0].wire_us.count >= 30).await;
    let session = &status.sessions[0];
    assert_eq!((session.captured, session.encoded, session.dropped, session.lost), (30, 30, 0, 0));
    assert_eq!((session.width, session.height, session.encoder.as_deref()), (160, 120, Some("x264enc")));
    let payload = 30 * 160 * 120 * 4;
    assert!((payload..payload + 30 * 64 + 8192).contains(&session.bytes_in), "{} bytes in", session.bytes_in);
    assert!(session.bytes_out > 0 && session.encode_us.p50 > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_a_picture_are_enough_and_a_unix_socket_serves_too() {
    let rig = Rig::new("x264enc").await;
    let mut client = Client::connect(&rig.running.listeners[1]).await;
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
    let first = client.until("refused", |message| match message {
        ServerMessage::Dropped { seq } => Some(seq),
        _ => None,
    });
    assert_eq!(first.await, 1, "a part of nothing");
    client.send(ClientMessage::Pixels(part(2, Rect::full(64, 64)))).await;
    assert_eq!(client.access_unit().await.seq, 2);
    client.send(ClientMessage::Pixels(part(3, corner))).await;
    let third = client.until("the part", |message| match message {
        ServerMessage::AccessUnit(unit) if !unit.repeat => Some(unit),
        _ => None,
    });
    assert_eq!(third.await.seq, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_still_picture_is_repeated_ten_times_a_second() {
    let rig = Rig::new("x264enc").await;
    let mut client = rig.session("a/b").await;
    client.configure(pixels(64, 64)).await;
    client.send(ClientMessage::Pixels(picture(5, 64, 64, 50))).await;
    assert!(!client.access_unit().await.repeat);
    let start = Instant::now();
    for _ in 0..20 {
        let unit = client.access_unit().await;
        assert_eq!((unit.seq, unit.capture_ns, unit.repeat, unit.idr), (5, 5000, true, false));
    }
    let took = start.elapsed();
    // No faster than asked for; how much slower is this machine's business.
    assert!(took >= Duration::from_millis(1800), "{took:?}");
    let session = &rig.status().await.sessions[0];
    assert!((session.encoded, session.captured) == (1, 1) && session.repeated >= 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_keyframe_requests_make_one_keyframe() {
    let rig = Rig::new("x264enc").await;
    let mut client = rig.session("a/b").await;
    client.configure(pixels(64, 64)).await;
    client.send(ClientMessage::Pixels(picture(1, 64, 64, 50))).await;
    assert!(client.access_unit().await.idr);
    let still = client.access_unit().await;
    assert!(still.repeat && !still.idr);
    for _ in 0..50 {
        client.send(ClientMessage::RequestKeyframe).await;
    }
    let units = [client.access_unit().await, client.access_unit().await, client.access_unit().await];
    let idrs: Vec<_> = units.iter().filter(|unit| unit.idr).collect();
    assert_eq!(idrs.len(), 1, "{units:?}");
    assert!(idrs[0].repeat && annexb::is_entry_point(&idrs[0].data), "made of the still picture");
    assert!(rig.get("/metrics").await.1.contains("keyframe_requests_total 50"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_encoder_can_do_is_said_and_the_connection_lives() {
    let rig = Rig::new("x264enc").await;
    let mut client = rig.session("a/b").await;
    client.send(ClientMessage::Configure(Config { codec: Codec::Hevc, ..pixels(64, 64) })).await;
    let (code, message) = client.error().await;
    assert_eq!(code, ErrorCode::Encoder);
    assert!(message.contains("H.264"), "{message}");
    client.send(ClientMessage::Configure(pixels(8192, 8192))).await;
    let (code, message) = client.error().await;
    assert_eq!(code, ErrorCode::Encoder);
    assert!(message.contains("--max-pixels"), "{message}");
    client.send(ClientMessage::Configure(Config { bitrate_kbps: 0, ..pixels(64, 64) })).await;
    assert_eq!(client.error().await.0, ErrorCode::Encoder);
    client.configure(pixels(64, 64)).await;
    client.send(ClientMessage::SetRate { bitrate_kbps: 0, max_fps: 60 }).await;
    assert_eq!(client.error().await.0, ErrorCode::Encoder);
    client.send(ClientMessage::SetRate { bitrate_kbps: 500, max_fps: 30 }).await;
    client.send(ClientMessage::Pixels(picture(1, 64, 64, 9))).await;
    assert_eq!(client.access_unit().await.seq, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_size_begins_with_an_idr_of_that_size() {
    let rig = Rig::new("x264enc").await;
    let mut client = rig.session("a/b").await;
    for (seq, (width, height)) in (1..).zip([(64, 48), (320, 240), (33, 17), (64, 48)]) {
        client.configure(pixels(width, height)).await;
        client.send(ClientMessage::Pixels(picture(seq, width, height, 77))).await;
        let unit = client.access_unit().await;
        assert_eq!((unit.seq, unit.idr), (seq, true));
        let sps = annexb::sps(&unit.data).expect("an SPS");
        let even = |side: u16| u32::from(side.next_multiple_of(2));
        assert_eq!((sps.width, sps.height), (even(width), even(height)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn goodbye_ends_the_session() {
    let rig = Rig::new("null").await;
    let mut client = rig.session("a/b").await;
    client.send(ClientMessage::Bye).await;
    client.closed().await;
    rig.until("no session", |status| status.sessions.is_empty()).await;
    let (code, _) = rig.get("/healthz").await;
    assert_eq!(code, 200);
    rig.until("encoders", |status| status.encoders.iter().any(|encoder| encoder.ok)).await;
    assert_eq!(rig.get("/readyz").await.0, 200);
    assert_eq!(rig.get("/nothing").await.0, 404);
}
