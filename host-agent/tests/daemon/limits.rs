//! Peers that are slow, fast or mad.

use std::time::Duration;

use protocol::frame::Header;
use protocol::stream::{ClientMessage, ErrorCode, Path, ServerMessage};

use crate::client::{config, noise, picture};
use crate::rig::{PATIENCE, Rig};

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_loses_pictures_not_order_nor_memory() {
    const SIDE: u16 = 256;
    const PICTURES: u64 = 400;
    let rig = Rig::new("x264enc").await;
    let mut client = rig.session("a/slow").await;
    let config =
        protocol::stream::Config { max_fps: 240, bitrate_kbps: 400_000, ..config(Path::Pixels, SIDE, SIDE) };
    client.configure(config).await;
    // Nothing is read meanwhile: sockets fill, then the outbox, then the encoder gets no more pictures.
    for seq in 1..=PICTURES {
        client.send(ClientMessage::Pixels(noise(seq, SIDE, SIDE))).await;
    }
    let status = rig.until("all taken in", |status| status.sessions[0].captured == PICTURES).await;
    let session = &status.sessions[0];
    assert!(session.encoded < PICTURES / 2, "held back: {} of {PICTURES} encoded", session.encoded);
    assert_eq!(session.lost, 0, "held back in time, nothing was lost");
    // It reads again: what comes is in order, a decodable chain, and ends with the newest picture.
    let mut last = 0;
    let mut count = 0;
    while last < PICTURES {
        let unit = client.access_unit().await;
        assert!(unit.seq > last || unit.repeat && unit.seq == last, "{} after {last}", unit.seq);
        assert_eq!(unit.idr, count == 0, "no unit was lost, so that no IDR is needed");
        last = unit.seq;
        count += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_does_not_slow_others() {
    let rig = Rig::new("x264enc").await;
    let (mut slow, mut quick) = (rig.session("a/slow").await, rig.session("a/quick").await);
    for client in [&mut slow, &mut quick] {
        client.configure(config(Path::Pixels, 128, 128)).await;
    }
    for seq in 1..=50 {
        slow.send(ClientMessage::Pixels(noise(seq, 128, 128))).await;
        quick.send(ClientMessage::Pixels(noise(seq, 128, 128))).await;
        let unit = quick.until("its own picture", |message| match message {
            ServerMessage::AccessUnit(unit) if unit.seq == seq => Some(unit),
            _ => None,
        });
        unit.await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_slowed_down_told_and_survived() {
    const FLOOD: u64 = 2500;
    let rig = Rig::new("null").await;
    let mut client = rig.session("a/flood").await;
    let start = std::time::Instant::now();
    let burst: Vec<u8> = (0..FLOOD).flat_map(|_| ClientMessage::RequestKeyframe.encode().to_vec()).collect();
    client.send_bytes(&burst).await;
    assert_eq!(client.error().await.0, ErrorCode::RateLimited);
    client.send(ClientMessage::Ping(1)).await;
    client.until("an answer", |message| (message == ServerMessage::Pong(1)).then_some(())).await;
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(1400), "{FLOOD} messages at 1000 a second took {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_bytes_end_only_their_own_connection() {
    let rig = Rig::new("null").await;
    let mut witness = rig.session("a/witness").await;
    witness.configure(config(Path::Pixels, 16, 16)).await;
    let huge = Header { len: u32::MAX, kind: 3 }.encode();
    let unknown = Header { len: 0, kind: 0x77 }.encode();
    let servers = Header { len: 8, kind: 0x88 }.encode();
    let short = [Header { len: 2, kind: 2 }.encode().to_vec(), vec![1, 2]].concat();
    let reserved = [0, 0, 0, 0, 4, 1, 2, 3];
    for bytes in [&huge[..], &unknown, &servers, &short, &reserved] {
        let mut client = rig.session("a/mad").await;
        client.send_bytes(bytes).await;
        assert_eq!(client.error().await.0, ErrorCode::Protocol, "{bytes:?}");
        client.closed().await;
    }
    // Before Hello, random bytes: no session, no crash.
    let mut state = 1u64;
    for round in 0..200 {
        let mut client = rig.connect().await;
        let garbage: Vec<u8> = (0..round)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        // The daemon may hang up before it has read all of it.
        let _ = client.try_send_bytes(&garbage).await;
    }
    witness.send(ClientMessage::Pixels(picture(1, 16, 16, 1))).await;
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
    assert!(message.contains("limit"), "{message}");
    client.closed().await;
    // A client that begins a message and stalls is not waited for at shutdown.
    let mut stalled = rig.session("a/stalled").await;
    stalled.configure(config(Path::Pixels, 64, 64)).await;
    stalled.send_bytes(&Header { len: 16_000, kind: 3 }.encode()).await;
    stalled.send_bytes(&[0; 100]).await;
    tokio::time::timeout(PATIENCE, rig.running.shut_down()).await.expect("ends in time");
}
