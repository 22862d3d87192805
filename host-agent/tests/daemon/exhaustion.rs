//! Peers without a token that hold connections open: to sidecars' listeners, and to the admin server.

use std::time::{Duration, Instant};

use contract::Endpoint;
use host_agent::config::Options;
use protocol::stream::{ClientMessage, Path, ServerMessage};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::client::{Client, config};
use crate::program::Process;
use crate::rig::{Rig, TIMEOUT, get, token};

fn null_encoder() -> Options {
    Options { encoder: Some("null".to_owned()), ..Options::default() }
}

/// More connections than the daemon has places for.
const FLOOD: usize = 300;

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_do_not_exclude_sidecars_nor_end_sessions() {
    let rig = Rig::with(null_encoder()).await;
    let mut earlier = rig.session("a/earlier").await;
    let mut silent = Vec::new();
    for _ in 0..FLOOD {
        silent.push(rig.connect().await);
    }
    rig.connect_by_unix_socket().await.hello(&token("a/other-address")).await;
    rig.session("a/same-address").await;
    earlier.send(ClientMessage::Ping(1)).await;
    assert_eq!(earlier.next().await, ServerMessage::Pong(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_over_the_limit_of_its_address_closes_the_oldest() {
    let rig = Rig::with(Options { max_pending_per_peer: Some(2), ..null_encoder() }).await;
    let mut first = rig.connect().await;
    let (mut second, mut third) = (rig.connect().await, rig.connect().await);
    first.closed().await;
    second.hello(&token("a/second")).await;
    third.hello(&token("a/third")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_with_a_session_frees_its_place() {
    let rig = Rig::with(Options { max_pending_per_peer: Some(1), ..null_encoder() }).await;
    let mut sessions = Vec::new();
    for number in 0..5 {
        sessions.push(rig.session(&format!("a/{number}")).await);
    }
    for session in &mut sessions {
        session.send(ClientMessage::Ping(1)).await;
        assert_eq!(session.next().await, ServerMessage::Pong(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reconnecting_sidecar_waits_for_the_limit_of_its_stream() {
    /// Sessions that a stream may start at once, and per second.
    const BURST: u32 = 16;
    const PER_SECOND: u32 = 2;
    let rig = Rig::with(null_encoder()).await;
    let begin = Instant::now();
    for _ in 0..BURST + 3 {
        rig.session("a/reconnecting").await;
    }
    // However slow the machine is, the last three wait for each other.
    assert!(begin.elapsed() >= Duration::from_secs(1) * 3 / PER_SECOND, "{:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn encoders_over_the_limit_of_their_stream_wait_also_in_another_session() {
    /// Encoders that a stream may open at once, and per second.
    const BURST: u16 = 8;
    const PER_SECOND: u32 = 2;
    let rig = Rig::with(null_encoder()).await;
    let begin = Instant::now();
    for _ in 0..2 {
        let mut session = rig.session("a/greedy").await;
        for number in 0..=BURST / 2 {
            session.send(ClientMessage::Configure(config(Path::Pixels, 64 + 2 * number, 64))).await;
            let configured = |message| matches!(message, ServerMessage::Configured { .. }).then_some(());
            session.until("an encoder", configured).await;
        }
    }
    // However slow the machine is, the last two wait for each other.
    assert!(begin.elapsed() >= Duration::from_secs(1) * 2 / PER_SECOND, "{:?}", begin.elapsed());
}

/// Whether the daemon closes the connection.
async fn is_closed(stream: &mut (impl AsyncRead + Unpin)) -> bool {
    let mut rest = Vec::new();
    timeout(TIMEOUT, stream.read_to_end(&mut rest)).await.is_ok()
}

async fn admin_socket(rig: &Rig) -> UnixStream {
    let Endpoint::Unix(path) = &rig.daemon.admin else { panic!("not a Unix socket") };
    UnixStream::connect(path).await.expect("connected")
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_connection_without_a_complete_header_is_closed() {
    let rig = Rig::with(null_encoder()).await;
    let (mut silent, mut partial) = (admin_socket(&rig).await, admin_socket(&rig).await);
    partial.write_all(b"GET /status HTTP/1.1\r\nX: ").await.expect("written");
    assert!(is_closed(&mut silent).await, "open without a request");
    assert!(is_closed(&mut partial).await, "open with half a header");
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_request_with_a_large_header_is_refused() {
    let rig = Rig::with(null_encoder()).await;
    let mut large = admin_socket(&rig).await;
    let header = format!("GET /status HTTP/1.1\r\nX: {}", "x".repeat(1 << 20));
    // Fails once the daemon closes the connection.
    let _written = large.write_all(header.as_bytes()).await;
    let mut answer = Vec::new();
    let _closed = timeout(TIMEOUT, large.read_to_end(&mut answer)).await.expect("closed");
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_admin_connections_do_not_exclude_a_request() {
    let admin = Some("tcp://127.0.0.1:0".parse().expect("an endpoint"));
    let rig = Rig::with(Options { admin, ..null_encoder() }).await;
    let Endpoint::Tcp { host, port } = &rig.daemon.admin else { panic!("not TCP") };
    let mut silent = Vec::new();
    for _ in 0..FLOOD {
        silent.push(TcpStream::connect((host.as_str(), *port)).await.expect("connected"));
    }
    assert_eq!(get(&rig.daemon.admin, "/healthz").await, (200, "ok\n".to_owned()));
    assert_eq!(get(&rig.daemon.admin, "/other").await.0, 404);
    assert!(is_closed(&mut silent[0]).await, "the oldest connection is closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn daemon_raises_its_limit_of_descriptors() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let process = Process::start_with_descriptors(folder.path(), 64, &["--encoder", "null"]).await;
    let mut sessions = Vec::new();
    for number in 0..60 {
        let mut client = Client::connect(&process.listen).await;
        timeout(TIMEOUT, client.hello(&format!("a/{number}"))).await.expect("a session");
        sessions.push(client);
    }
}
