//! Admission of connections to sessions.

use std::time::Duration;

use contract::Endpoint;
use host_agent::config::Options;
use protocol::stream::{ClientMessage, ErrorCode, Path, ServerMessage};
use stream_token::Signer;

use crate::client::{Client, config};
use crate::rig::{NAME, Rig, TRUSTED, sign, token};

fn null_encoder() -> Options {
    Options { encoder: Some("null".to_owned()), ..Options::default() }
}

/// Sends `Hello` and expects an error and the end of the connection.
async fn rejection(rig: &Rig, hello: ClientMessage) -> (ErrorCode, String) {
    let mut client = rig.connect().await;
    client.send(hello).await;
    let error = client.error().await;
    client.closed().await;
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_token_is_rejected_with_a_remedy() {
    let rig = Rig::new("null").await;
    let untrusted = Signer::generate().expect("generated");
    let cases = [
        (String::new(), ErrorCode::BadToken, "host-agent token"),
        ("nonsense".to_owned(), ErrorCode::BadToken, "mint a new one"),
        (sign(&TRUSTED, "a/b", NAME, -100), ErrorCode::ExpiredToken, "expired"),
        (sign(&TRUSTED, "a/b", "another", 60), ErrorCode::BadToken, "--name"),
        (sign(&untrusted, "a/b", NAME, 60), ErrorCode::BadToken, "--public-key"),
        (sign(&TRUSTED, "no slash", NAME, 60), ErrorCode::BadToken, "mint a new one"),
    ];
    for (token, code, remedy) in cases {
        let (got, message) = rejection(&rig, Client::hello_message(&token)).await;
        assert_eq!(got, code, "{message}");
        assert!(message.contains(remedy), "{message}");
    }
    assert!(rig.status().await.sessions.is_empty());
    rig.session("a/b").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unsupported_version_is_rejected() {
    let rig = Rig::new("null").await;
    let (token, client) = (token("a/b"), "test".to_owned());
    let hello = ClientMessage::Hello { min: 7, max: 9, token, client };
    assert_eq!(rejection(&rig, hello).await.0, ErrorCode::Version);
}

#[tokio::test(flavor = "multi_thread")]
async fn message_before_hello_and_second_hello_are_protocol_errors() {
    let rig = Rig::new("null").await;
    assert_eq!(rejection(&rig, ClientMessage::Ping(1)).await.0, ErrorCode::Protocol);
    let mut client = rig.session("a/b").await;
    client.send(Client::hello_message("")).await;
    assert_eq!(client.error().await.0, ErrorCode::Protocol);
    client.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_session_of_a_stream_replaces_the_older() {
    let rig = Rig::new("null").await;
    let mut old = rig.session("a/b").await;
    let mut new = rig.session("a/b").await;
    assert_eq!(old.error().await.0, ErrorCode::Replaced);
    old.closed().await;
    new.configure(config(Path::Pixels, 16, 16)).await;
    assert_eq!(rig.status().await.sessions.len(), 1);
    assert!(rig.get("/metrics").await.1.contains("sessions_replaced_total 1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn session_over_the_limit_is_rejected() {
    let rig = Rig::with(Options { max_sessions: Some(2), ..null_encoder() }).await;
    let _keep = (rig.session("a/one").await, rig.session("a/two").await);
    let (code, message) = rejection(&rig, Client::hello_message(&token("a/three"))).await;
    assert_eq!(code, ErrorCode::Capacity);
    assert!(message.contains("--max-sessions"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connection_and_idle_session_time_out_and_ping_keeps_a_session() {
    const IDLE: Duration = Duration::from_secs(4);
    let rig = Rig::with(Options { idle_timeout_seconds: Some(IDLE.as_secs()), ..null_encoder() }).await;
    let mut silent = rig.connect().await;
    let mut idle = rig.session("a/idle").await;
    let mut pinging = rig.session("a/pinging").await;
    let others = tokio::spawn(async move {
        let (code, message) = idle.error().await;
        assert_eq!(code, ErrorCode::Protocol);
        assert!(message.contains("Ping"), "{message}");
        idle.closed().await;
        assert_eq!(silent.error().await.0, ErrorCode::Protocol);
        silent.closed().await;
    });
    // The session outlives those that began before it.
    for token in 0.. {
        pinging.send(ClientMessage::Ping(token)).await;
        assert_eq!(pinging.next().await, ServerMessage::Pong(token));
        if others.is_finished() {
            break;
        }
        tokio::time::sleep(IDLE / 40).await;
    }
    others.await.expect("both connections ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn insecure_session_is_named_by_its_token() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let listen = vec![Endpoint::Unix(folder.path().join("stream.sock"))];
    let rig = Rig::with(Options { insecure_no_auth: true, listen, ..null_encoder() }).await;
    let (mut named, mut anonymous) = (rig.connect().await, rig.connect().await);
    named.hello("team/desk").await;
    anonymous.hello("").await;
    named.send(ClientMessage::Renew { token: "nonsense".to_owned() }).await;
    named.send(ClientMessage::Ping(1)).await;
    assert_eq!(named.next().await, ServerMessage::Pong(1), "a renewed token is ignored");
    let streams: Vec<_> = rig.status().await.sessions.into_iter().map(|session| session.stream).collect();
    assert_eq!(streams[0], "team/desk");
    assert!(streams[1].starts_with("anonymous/"), "{streams:?}");
}
