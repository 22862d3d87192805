//! Connection to fake host-agents that answer HELLO and ignore all other messages.

use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

use contract::endpoint::Fingerprint;
use protocol::frame::{Decoder, Header};
use protocol::stream::{ClientMessage, ServerMessage, VERSION};
use stream_tls::{Acceptor, Identity, PublicKey, generate_key};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Timeout of one step; PINGs are 2 s apart.
const STEP_TIMEOUT: Duration = Duration::from_secs(20);

async fn answer_hello(socket: TcpStream, server: &str) -> std::io::Result<()> {
    answer(socket, server, |_| {}).await
}

/// Shows all messages to `on_message`.
async fn answer(
    mut socket: impl AsyncRead + AsyncWrite + Unpin,
    server: &str,
    on_message: impl Fn(&ClientMessage),
) -> std::io::Result<()> {
    let mut decoder = Decoder::<Header>::new();
    loop {
        if socket.read_buf(decoder.buffer()).await? == 0 {
            return Ok(());
        }
        while let Some(message) = decoder.next_message::<ClientMessage>().expect("a message") {
            on_message(&message);
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
                socket.flush().await?;
            }
        }
    }
}

/// Starts a fake host-agent and returns its endpoint.
async fn host_agent(name: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(answer_hello(socket, name));
        }
    });
    format!("tcp://127.0.0.1:{port}")
}

fn follow(path: &Path) -> (Upstream, Receiver<Event>) {
    start(EndpointSource::File(path.to_owned()), TokenSource::None)
}

fn start(endpoint: EndpointSource, token: TokenSource) -> (Upstream, Receiver<Event>) {
    let (events_in, events) = channel();
    let options = UpstreamOptions { endpoint, token, tls_key: None, client: SIDECAR };
    (Upstream::start(options, move |event| events_in.send(event).is_ok()), events)
}

/// Receives the next event on a blocking thread.
async fn next(events: Receiver<Event>) -> (Event, Receiver<Event>) {
    tokio::task::spawn_blocking(move || {
        let event = events.recv_timeout(STEP_TIMEOUT).expect("an event in time");
        (event, events)
    })
    .await
    .expect("joined")
}

#[tokio::test]
async fn connection_follows_the_endpoint_file() {
    let (first, second) = (host_agent("first").await, host_agent("second").await);
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("host-agent");
    let (_upstream, events) = follow(&file);

    let (event, mut events) = next(events).await;
    assert!(matches!(event, Event::Disconnected(UpstreamError::NotPaired { .. })), "{event:?}");

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
            Event::Disconnected(UpstreamError::NotPaired { .. }) if seen.is_empty() => {}
            Event::Disconnected(error) => seen.push(error.to_string()),
            Event::Message(_) => {}
        }
    }
    assert_eq!(seen, [format!("the stream moves from the host-agent at {first} to another")]);
}

#[tokio::test]
async fn removed_endpoint_file_keeps_the_session() {
    let endpoint = host_agent("only").await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("host-agent");
    std::fs::write(&file, &endpoint).expect("written");
    let (_upstream, events) = follow(&file);
    let (event, events) = next(events).await;
    assert!(matches!(event, Event::Connected(_)), "{event:?}");

    std::fs::remove_file(&file).expect("removed");
    let quiet = tokio::task::spawn_blocking(move || events.recv_timeout(2 * PING_INTERVAL));
    assert!(quiet.await.expect("joined").is_err(), "no event");
}

#[test]
fn invalid_endpoint_file_error_names_the_cause() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("host-agent");
    let read = || EndpointSource::File(file.clone()).read().expect_err("not an endpoint");
    assert!(matches!(read(), UpstreamError::NotPaired { .. }), "missing: {}", read());
    std::fs::write(&file, " \n").expect("written");
    assert!(matches!(read(), UpstreamError::NotPaired { .. }), "empty: {}", read());
    std::fs::write(&file, "http://example.com").expect("written");
    assert!(matches!(read(), UpstreamError::EndpointFile { .. }), "invalid: {}", read());
    assert!(read().to_string().contains("http"), "{}", read());
}

#[tokio::test]
async fn newer_token_is_presented_on_the_running_connection() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("token");
    std::fs::write(&file, "first\n").expect("written");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("tcp://{}", listener.local_addr().expect("bound")).parse().expect("an endpoint");
    let (_upstream, events) = start(EndpointSource::Fixed(endpoint), TokenSource::File(file.clone()));

    let (tokens_in, mut tokens) = tokio::sync::mpsc::unbounded_channel();
    let (socket, _) = listener.accept().await.expect("a connection");
    tokio::spawn(answer(socket, "only", move |message| {
        let _closed = match message {
            ClientMessage::Hello { token, .. } => tokens_in.send(("hello", token.clone())),
            ClientMessage::Renew { token } => tokens_in.send(("renew", token.clone())),
            _ => Ok(()),
        };
    }));
    let mut received = async || timeout(STEP_TIMEOUT, tokens.recv()).await.expect("in time");
    assert_eq!(received().await, Some(("hello", "first".to_owned())));
    let (event, events) = next(events).await;
    assert!(matches!(event, Event::Connected(_)), "{event:?}");
    // Neither a missing nor an empty file is a newer token.
    std::fs::remove_file(&file).expect("removed");
    std::fs::write(&file, "").expect("written");
    std::fs::write(&file, "second").expect("written");
    assert_eq!(received().await, Some(("renew", "second".to_owned())));
    std::fs::write(&file, "third").expect("written");
    assert_eq!(received().await, Some(("renew", "third".to_owned())), "each token is sent once");
    assert!(events.try_recv().is_err(), "the session goes on");
}

fn pem() -> String {
    generate_key().expect("a key")
}

/// Starts a fake host-agent with TLS. Returns its port, its fingerprint, and the keys of its clients.
async fn tls_host_agent() -> (u16, Fingerprint, tokio::sync::mpsc::UnboundedReceiver<Option<PublicKey>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let acceptor = Acceptor::new(&Identity::from_pem(&pem()).expect("an identity")).expect("an acceptor");
    let (keys_in, keys) = tokio::sync::mpsc::unbounded_channel();
    let fingerprint = acceptor.fingerprint();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            if let Ok((socket, key)) = acceptor.accept(socket).await {
                let _closed = keys_in.send(key);
                tokio::spawn(answer(socket, "tls", |_| {}));
            }
        }
    });
    (port, fingerprint, keys)
}

fn start_tls(
    port: u16,
    fingerprint: Option<Fingerprint>,
    tls_key: Option<PathBuf>,
) -> (Upstream, Receiver<Event>) {
    let (events_in, events) = channel();
    let endpoint = Endpoint::Tls { host: "127.0.0.1".to_owned(), port, fingerprint };
    let (endpoint, token) = (EndpointSource::Fixed(endpoint), TokenSource::None);
    let options = UpstreamOptions { endpoint, token, tls_key, client: SIDECAR };
    (Upstream::start(options, move |event| events_in.send(event).is_ok()), events)
}

#[tokio::test]
async fn session_by_tls_presents_the_key_in_its_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("tls.key");
    std::fs::write(&file, pem()).expect("written");
    let (port, fingerprint, mut keys) = tls_host_agent().await;
    for (tls_key, has_key) in
        [(Some(file), true), (Some(directory.path().join("missing")), false), (None, false)]
    {
        let (event, _events) = next(start_tls(port, Some(fingerprint), tls_key).1).await;
        assert!(matches!(event, Event::Connected(_)), "{event:?}");
        let key = timeout(STEP_TIMEOUT, keys.recv()).await.expect("in time").expect("a connection");
        assert_eq!(key.is_some(), has_key);
    }
}

#[tokio::test]
async fn session_is_replaced_when_its_key_is() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("tls.key");
    std::fs::write(&file, pem()).expect("written");
    let (port, fingerprint, mut keys) = tls_host_agent().await;
    let (_upstream, events) = start_tls(port, Some(fingerprint), Some(file.clone()));
    let (event, events) = next(events).await;
    assert!(matches!(event, Event::Connected(_)), "{event:?}");
    std::fs::write(&file, pem()).expect("written");
    let (event, events) = next(events).await;
    assert!(matches!(event, Event::Disconnected(UpstreamError::KeyChanged)), "{event:?}");
    let (event, _events) = next(events).await;
    assert!(matches!(event, Event::Connected(_)), "{event:?}");
    let mut received = async || timeout(STEP_TIMEOUT, keys.recv()).await.expect("in time").flatten();
    let (first, second) = (received().await, received().await);
    assert!(first.is_some() && second.is_some());
    assert_ne!(first, second);
}

#[tokio::test]
async fn host_agent_with_another_key_is_not_used() {
    let (port, _, _keys) = tls_host_agent().await;
    let (event, _events) = next(start_tls(port, Some(Fingerprint([7; 32])), None).1).await;
    let Event::Disconnected(error @ UpstreamError::OtherKey { .. }) = event else {
        unreachable!("{event:?}")
    };
    assert!(error.to_string().contains("host-agent fingerprint"), "{error}");
    assert!(matches!(error.connection(), contract::HostAgentConnection::Untrusted { .. }));
}

#[tokio::test]
async fn tls_endpoint_without_fingerprint_and_file_without_key_are_refused() {
    let (port, fingerprint, _keys) = tls_host_agent().await;
    let (event, _events) = next(start_tls(port, None, None).1).await;
    let Event::Disconnected(error @ UpstreamError::Connect { .. }) = event else { unreachable!("{event:?}") };
    assert!(error.to_string().contains("#sha256="), "{error}");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("tls.key");
    std::fs::write(&file, "no key").expect("written");
    let (event, _events) = next(start_tls(port, Some(fingerprint), Some(file)).1).await;
    assert!(matches!(event, Event::Disconnected(UpstreamError::TlsKey { .. })), "{event:?}");
}
