//! The upstream against host-agents that answer HELLO, see PINGs and do nothing else: fakes, for where the stream goes.

use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

use bytes::BytesMut;
use protocol::frame::Message as _;
use protocol::stream::{ClientMessage, ServerMessage, VERSION};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Longest that a step of a test may take; pings are two seconds apart.
const SOON: Duration = Duration::from_secs(20);

async fn greet(mut socket: TcpStream, server: &str) -> std::io::Result<()> {
    let mut bytes = BytesMut::new();
    loop {
        if socket.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
        while let Some(message) = ClientMessage::take(&mut bytes).expect("a message") {
            if let ClientMessage::Hello { .. } = message {
                let answer = ServerMessage::HelloAck {
                    version: VERSION,
                    session: 1,
                    nonce: [0; 16],
                    taps: 0,
                    max_pixels: 1,
                    server: server.to_owned(),
                };
                socket.write_all(&answer.encode().to_vec()).await?;
            }
        }
    }
}

/// A fake host-agent; returns its endpoint.
async fn host_agent(name: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(greet(socket, name));
        }
    });
    format!("tcp://127.0.0.1:{port}")
}

fn follow(path: &Path) -> (Upstream, Receiver<Event>) {
    let (events_in, events) = channel();
    let options = UpstreamOptions {
        endpoint: EndpointSource::File(path.to_owned()),
        token: TokenSource::None,
        client: SIDECAR,
    };
    (Upstream::start(options, move |event| events_in.send(event).is_ok()), events)
}

/// The next event that is not a PONG, waited for beside the runtime.
async fn next(events: Receiver<Event>) -> (Event, Receiver<Event>) {
    tokio::task::spawn_blocking(move || {
        let event = events.recv_timeout(SOON).expect("an event in time");
        (event, events)
    })
    .await
    .expect("joined")
}

#[tokio::test]
async fn the_stream_follows_the_file() {
    let (first, second) = (host_agent("first").await, host_agent("second").await);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("host-agent");
    let (_upstream, events) = follow(&file);

    let (event, mut events) = next(events).await;
    assert!(matches!(event, Event::Disconnected(UpstreamError::Unnamed { .. })), "{event:?}");

    std::fs::write(&file, format!("{first}\n")).expect("written");
    let mut seen = Vec::new();
    loop {
        let (event, rest) = next(events).await;
        events = rest;
        match event {
            Event::Connected(session) if session.server == "first" => {
                std::fs::write(&file, &second).expect("written");
            }
            Event::Connected(session) => {
                assert_eq!(session.server, "second");
                break;
            }
            Event::Disconnected(UpstreamError::Unnamed { .. }) if seen.is_empty() => {}
            Event::Disconnected(error) => seen.push(error.to_string()),
            Event::Message(_) => {}
        }
    }
    assert_eq!(seen, [format!("the stream moves from the host-agent at {first} to another")]);
}

#[tokio::test]
async fn a_file_that_goes_away_moves_nobody() {
    let endpoint = host_agent("only").await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("host-agent");
    std::fs::write(&file, &endpoint).expect("written");
    let (_upstream, events) = follow(&file);
    let (event, events) = next(events).await;
    assert!(matches!(event, Event::Connected(_)), "{event:?}");

    std::fs::remove_file(&file).expect("removed");
    let quiet = tokio::task::spawn_blocking(move || events.recv_timeout(2 * PING_EVERY));
    assert!(quiet.await.expect("joined").is_err(), "nothing happens");
}

#[test]
fn what_is_wrong_in_the_file_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("host-agent");
    let read = || EndpointSource::File(file.clone()).read().expect_err("no endpoint").to_string();
    assert!(read().contains("No such file"), "{}", read());
    std::fs::write(&file, " \n").expect("written");
    assert!(read().contains("it is empty"), "{}", read());
    std::fs::write(&file, "http://example.com").expect("written");
    assert!(read().contains("http"), "{}", read());
}
