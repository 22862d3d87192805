//! Who gets a session.

use std::time::{Duration, Instant};

use host_agent::config::Options;
use protocol::stream::{ClientMessage, ErrorCode, Path, ServerMessage};

use crate::client::{Client, config};
use crate::rig::{NAME, Rig, key, sign, token};

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_judged_and_refusals_name_the_remedy() {
    let rig = Rig::new("null").await;
    let cases = [
        (String::new(), ErrorCode::BadToken, "host-agent token"),
        ("nonsense".to_owned(), ErrorCode::BadToken, "mint a new one"),
        (sign(&key(1), "a/b", NAME, -100), ErrorCode::ExpiredToken, "read its token file again"),
        (sign(&key(1), "a/b", "another", 60), ErrorCode::BadToken, "--name"),
        (sign(&key(2), "a/b", NAME, 60), ErrorCode::BadToken, "--public-key"),
        (sign(&key(1), "no slash", NAME, 60), ErrorCode::BadToken, "mint a new one"),
    ];
    for (token, code, remedy) in cases {
        let mut client = rig.connect().await;
        client.send(Client::hello_message(&token)).await;
        let (got, message) = client.error().await;
        assert_eq!(got, code, "{message}");
        assert!(message.contains(remedy), "{message}");
        client.closed().await;
    }
    assert!(rig.status().await.sessions.is_empty());
    rig.session("a/b").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_and_first_messages_are_judged() {
    let rig = Rig::new("null").await;
    let mut client = rig.connect().await;
    let (token, client_name) = (token("a/b"), "test".to_owned());
    client.send(ClientMessage::Hello { min: 7, max: 9, token, client: client_name }).await;
    assert_eq!(client.error().await.0, ErrorCode::Version);
    let mut client = rig.connect().await;
    client.send(ClientMessage::Ping(1)).await;
    assert_eq!(client.error().await.0, ErrorCode::Protocol);
    client.closed().await;
    let mut client = rig.session("a/b").await;
    client.send(Client::hello_message("")).await;
    assert_eq!(client.error().await.0, ErrorCode::Protocol, "a second Hello");
    client.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_session_replaces_the_older() {
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
async fn sessions_are_bounded() {
    let rig =
        Rig::with(Options { max_sessions: Some(2), encoder: Some("null".to_owned()), ..Options::default() })
            .await;
    let _keep = (rig.session("a/one").await, rig.session("a/two").await);
    let mut third = rig.connect().await;
    third.send(Client::hello_message(&token("a/three"))).await;
    let (code, message) = third.error().await;
    assert_eq!(code, ErrorCode::Capacity);
    assert!(message.contains("--max-sessions"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_from_one_address_are_bounded() {
    let rig = Rig::with(Options {
        max_connections_per_peer: Some(2),
        encoder: Some("null".to_owned()),
        ..Options::default()
    })
    .await;
    let _keep = (rig.connect().await, rig.connect().await);
    let mut third = rig.connect().await;
    assert_eq!(third.error().await.0, ErrorCode::Capacity);
    third.closed().await;
    let mut by_unix = Client::connect(&rig.running.listeners[1]).await;
    by_unix.hello(&token("a/b")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_is_shown_the_door() {
    const IDLE: Duration = Duration::from_secs(2);
    let idle_timeout = Some(IDLE.as_secs());
    let rig =
        Rig::with(Options { idle_timeout, encoder: Some("null".to_owned()), ..Options::default() }).await;
    let mut mute = rig.connect().await;
    let mut idle = rig.session("a/idle").await;
    let mut pinging = rig.session("a/pinging").await;
    let start = Instant::now();
    for token in 0.. {
        pinging.send(ClientMessage::Ping(token)).await;
        assert_eq!(pinging.next().await, ServerMessage::Pong(token));
        if start.elapsed() > 2 * IDLE {
            break;
        }
        tokio::time::sleep(IDLE / 20).await;
    }
    let (code, message) = idle.error().await;
    assert_eq!(code, ErrorCode::Protocol);
    assert!(message.contains("Ping"), "{message}");
    idle.closed().await;
    assert_eq!(mute.error().await.0, ErrorCode::Protocol, "the handshake has a time, too");
    mute.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_gate_names_streams_by_what_they_say() {
    let options = Options { insecure_no_auth: true, encoder: Some("null".to_owned()), ..Options::default() };
    let rig = Rig::with(options).await;
    let (mut named, mut anonymous) = (rig.connect().await, rig.connect().await);
    named.hello("team/desk").await;
    anonymous.hello("").await;
    let streams: Vec<_> = rig.status().await.sessions.into_iter().map(|session| session.stream).collect();
    assert_eq!(streams[0], "team/desk");
    assert!(streams[1].starts_with("anonymous/"), "{streams:?}");
}
