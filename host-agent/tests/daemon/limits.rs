//! Peers that read slowly, send too much, or send malformed data.

use std::time::{Duration, Instant};

use protocol::frame::Header;
use protocol::stream::{ClientMessage, ErrorCode, Path, ServerMessage};

use crate::client::{config, grey_frame, noise_frame};
use crate::rig::{Rig, TIMEOUT};

#[tokio::test(flavor = "multi_thread")]
async fn slow_reader_loses_frames_and_keeps_their_order() {
    const SIDE: u16 = 256;
    const FRAMES: u64 = 400;
    let rig = Rig::new("x264enc").await;
    let mut client = rig.session("a/slow").await;
    let config =
        protocol::stream::Config { max_fps: 240, bitrate_kbps: 400_000, ..config(Path::Pixels, SIDE, SIDE) };
    client.configure(config).await;
    // The client reads nothing: the sockets' buffers fill, then the outbox, then the encoder is held back.
    for seq in 1..=FRAMES {
        client.send(ClientMessage::Pixels(noise_frame(seq, SIDE, SIDE))).await;
    }
    let status = rig.until("all frames received", |status| status.sessions[0].captured == FRAMES).await;
    let session = &status.sessions[0];
    assert!(session.encoded < FRAMES / 2, "{} of {FRAMES} frames encoded", session.encoded);
    assert_eq!(session.lost, 0, "the encoder is held back before a unit is lost");
    // The client reads: the units are in order, decodable, and end with the newest frame.
    let mut last = 0;
    let mut count = 0;
    while last < FRAMES {
        let unit = client.access_unit().await;
        assert!(unit.seq > last || unit.repeat && unit.seq == last, "{} after {last}", unit.seq);
        assert_eq!(unit.idr, count == 0, "no unit was lost, so no further IDR is needed");
        last = unit.seq;
        count += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_reader_does_not_delay_other_sessions() {
    let rig = Rig::new("x264enc").await;
    let (mut slow, mut quick) = (rig.session("a/slow").await, rig.session("a/quick").await);
    for client in [&mut slow, &mut quick] {
        client.configure(config(Path::Pixels, 128, 128)).await;
    }
    for seq in 1..=50 {
        slow.send(ClientMessage::Pixels(noise_frame(seq, 128, 128))).await;
        quick.send(ClientMessage::Pixels(noise_frame(seq, 128, 128))).await;
        let unit = quick.until("the frame just sent", |message| match message {
            ServerMessage::AccessUnit(unit) if unit.seq == seq => Some(unit),
            _ => None,
        });
        unit.await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn message_flood_is_slowed_down_with_a_warning() {
    const MESSAGES: usize = 2500;
    let rig = Rig::new("null").await;
    let mut client = rig.session("a/flood").await;
    let start = Instant::now();
    client.send_bytes(&ClientMessage::RequestKeyframe.encode().to_vec().repeat(MESSAGES)).await;
    assert_eq!(client.error().await.0, ErrorCode::RateLimited);
    client.send(ClientMessage::Ping(1)).await;
    client.until("an answer", |message| (message == ServerMessage::Pong(1)).then_some(())).await;
    // A burst of 1000, and 1500 at 1000 per second.
    let elapsed = start.elapsed();
    assert!(elapsed >= Duration::from_millis(1400), "{MESSAGES} messages took {elapsed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_message_ends_its_own_session_only() {
    let rig = Rig::new("null").await;
    let mut witness = rig.session("a/witness").await;
    witness.configure(config(Path::Pixels, 16, 16)).await;
    let too_large = Header { len: u32::MAX, kind: 3 }.encode();
    let unknown = Header { len: 0, kind: 0x77 }.encode();
    let of_server = Header { len: 8, kind: 0x88 }.encode();
    let truncated = [Header { len: 2, kind: 2 }.encode().to_vec(), vec![1, 2]].concat();
    let reserved = [0, 0, 0, 0, 4, 1, 2, 3];
    for bytes in [&too_large[..], &unknown, &of_server, &truncated, &reserved] {
        let mut client = rig.session("a/malformed").await;
        client.send_bytes(bytes).await;
        assert_eq!(client.error().await.0, ErrorCode::Protocol, "{bytes:?}");
        client.closed().await;
    }
    witness.send(ClientMessage::Pixels(grey_frame(1, 16, 16, 1))).await;
    assert_eq!(witness.access_unit().await.seq, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_before_hello_do_not_affect_a_session() {
    let rig = Rig::new("null").await;
    let mut witness = rig.session("a/witness").await;
    witness.configure(config(Path::Pixels, 16, 16)).await;
    let mut state = 1u64;
    for length in 0..200 {
        let mut client = rig.connect().await;
        let garbage: Vec<u8> = (0..length)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        // Fails if the daemon closed the connection before it read everything.
        let _ = client.try_send_bytes(&garbage).await;
    }
    witness.send(ClientMessage::Pixels(grey_frame(1, 16, 16, 1))).await;
    assert_eq!(witness.access_unit().await.seq, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn pixels_larger_than_configured_are_refused_before_they_are_read() {
    let rig = Rig::new("null").await;
    let mut client = rig.session("a/b").await;
    client.configure(config(Path::Pixels, 16, 16)).await;
    client.send_bytes(&Header { len: 16 * 16 * 4 + 1000, kind: 3 }.encode()).await;
    let (code, message) = client.error().await;
    assert_eq!(code, ErrorCode::Protocol);
    assert!(message.contains("must be at most 1280"), "{message}");
    client.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_does_not_wait_for_an_incomplete_message() {
    let rig = Rig::new("null").await;
    let mut client = rig.session("a/stalled").await;
    client.configure(config(Path::Pixels, 64, 64)).await;
    client.send_bytes(&Header { len: 16_000, kind: 3 }.encode()).await;
    client.send_bytes(&[0; 100]).await;
    tokio::time::timeout(TIMEOUT, rig.daemon.shut_down()).await.expect("in time");
}
