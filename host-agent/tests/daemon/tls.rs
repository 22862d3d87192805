//! TLS listeners: real TLS on both ends.

use contract::Endpoint;
use contract::endpoint::Fingerprint;
use host_agent::config::Options;
use protocol::stream::{ClientMessage, ErrorCode, Path, ServerMessage};
use stream_tls::{Identity, generate_key, is_other_key};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::{Client, config, noise_frame};
use crate::rig::{Rig, TIMEOUT, token};

fn address(endpoint: &Endpoint) -> (&str, u16) {
    endpoint.tcp_address().expect("a TCP endpoint")
}

/// Reads until the daemon closes a plain socket.
async fn until_closed(socket: &mut TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    // The daemon may reset the connection.
    let _end = timeout(TIMEOUT, socket.read_to_end(&mut received)).await.expect("closed in time");
    received
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_by_tls_has_all_frames_in_order() {
    const SIDE: u16 = 128;
    let rig = Rig::new("x264enc").await;
    let mut client = Client::connect(rig.tls()).await;
    client.hello(&token("a/tls")).await;
    client.configure(config(Path::Pixels, SIDE, SIDE)).await;
    for seq in 1..=20 {
        client.send(ClientMessage::Pixels(noise_frame(seq, SIDE, SIDE))).await;
        assert_eq!(client.new_access_unit().await.seq, seq);
    }
    client.send(ClientMessage::Bye).await;
    client.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_reader_by_tls_receives_every_byte() {
    const SIDE: u16 = 256;
    const FRAMES: u64 = 100;
    let rig = Rig::new("x264enc").await;
    let mut client = Client::connect(rig.tls()).await;
    client.hello(&token("a/slow")).await;
    let config = protocol::stream::Config { bitrate_kbps: 200_000, ..config(Path::Pixels, SIDE, SIDE) };
    client.configure(config).await;
    for seq in 1..=FRAMES {
        client.send(ClientMessage::Pixels(noise_frame(seq, SIDE, SIDE))).await;
    }
    rig.until("all frames received", |status| status.sessions[0].captured == FRAMES).await;
    while client.access_unit().await.seq < FRAMES {}
}

#[tokio::test(flavor = "multi_thread")]
async fn client_that_pins_another_key_does_not_connect() {
    let rig = Rig::new("null").await;
    let (host, port) = address(rig.tls());
    let fingerprint = Some(Fingerprint([7; 32]));
    let other = Endpoint::Tls { host: host.to_owned(), port, fingerprint };
    let error = Client::connect_tls(&other, None).await.err().expect("refused");
    assert!(is_other_key(&error), "{error:?}");
    Client::connect(rig.tls()).await.hello(&token("a/b")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plaintext_client_of_a_tls_listener_is_refused() {
    let rig = Rig::new("null").await;
    let mut socket = TcpStream::connect(address(rig.tls())).await.expect("connected");
    let hello = Client::hello_message(&token("a/plain")).encode().to_vec();
    socket.write_all(&hello).await.expect("written");
    let answer = until_closed(&mut socket).await;
    // An alert (RFC 8446, section 6), if anything.
    assert!(answer.first().is_none_or(|kind| *kind == 21), "{answer:?}");
    assert!(rig.status().await.sessions.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_client_of_a_plaintext_listener_does_not_connect() {
    let rig = Rig::new("null").await;
    let (host, port) = address(&rig.daemon.listeners[0]);
    let Endpoint::Tls { fingerprint, .. } = rig.tls() else { panic!("not TLS") };
    let plain = Endpoint::Tls { host: host.to_owned(), port, fingerprint: *fingerprint };
    assert!(Client::connect_tls(&plain, None).await.is_err());
}

/// The handshake and `Hello` share one time limit.
#[tokio::test(flavor = "multi_thread")]
async fn client_that_stalls_in_or_after_the_handshake_is_closed() {
    let rig = Rig::new("null").await;
    let mut before = TcpStream::connect(address(rig.tls())).await.expect("connected");
    let mut within = TcpStream::connect(address(rig.tls())).await.expect("connected");
    // A handshake record (RFC 8446, section 5.1) whose 512 bytes do not follow.
    within.write_all(&[22, 3, 1, 2, 0, 1]).await.expect("written");
    let mut after = Client::connect(rig.tls()).await;
    until_closed(&mut before).await;
    until_closed(&mut within).await;
    assert_eq!(after.error().await.0, ErrorCode::Protocol);
    after.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_connection_closes_one_that_stalls_in_the_handshake() {
    let encoder = Some("null".to_owned());
    let rig = Rig::with(Options { encoder, max_pending_per_peer: Some(1), ..Options::default() }).await;
    let mut stalled = TcpStream::connect(address(rig.tls())).await.expect("connected");
    stalled.write_all(&[22, 3, 1]).await.expect("written");
    let mut newer = Client::connect(rig.tls()).await;
    assert!(until_closed(&mut stalled).await.is_empty());
    newer.hello(&token("a/newer")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fingerprint_outlives_a_restart() {
    let rig = Rig::new("null").await;
    let before = rig.tls().clone();
    let rig = rig.restart().await;
    assert_eq!(*rig.tls(), before);
    assert!(rig.status().await.listeners.contains(&before), "sidecars copy it from the status");
    Client::connect(&before).await.hello(&token("a/b")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_with_a_key_and_an_unbound_token_has_a_session() {
    let rig = Rig::new("null").await;
    let key = Identity::from_pem(&generate_key().expect("a key")).expect("an identity");
    let mut client = Client::connect_tls(rig.tls(), Some(&key)).await.expect("connected");
    client.hello(&token("a/b")).await;
    client.send(ClientMessage::Ping(1)).await;
    assert_eq!(client.next().await, ServerMessage::Pong(1));
}
