//! Tokens that are bound to a key.

use protocol::stream::{ClientMessage, ErrorCode, ServerMessage};
use stream_tls::Identity;
use stream_token::{LEEWAY_SECONDS, StreamKey};

use crate::client::Client;
use crate::rig::{NAME, Rig, TRUSTED, now, token};

/// A stream's key, as the operator stores it and as the sidecar presents it.
struct Key {
    stored: StreamKey,
    presented: Identity,
}

fn key(uid: &str) -> Key {
    let stored = TRUSTED.stream_key("a/b", uid).expect("a key");
    let presented = Identity::from_pem(&stored.pem().expect("PEM")).expect("an identity");
    Key { stored, presented }
}

/// A token that is bound to a key.
fn bound(stream: &str, key: &Key) -> String {
    TRUSTED.bound_token(stream, NAME, now(), 60, &key.stored.thumbprint()).expect("signed")
}

/// Opens a TLS connection with a key, or without one.
async fn connect(rig: &Rig, key: Option<&Key>) -> Client {
    let identity = key.map(|key| &key.presented);
    Client::connect_tls(rig.tls(), identity).await.expect("a TLS connection")
}

async fn assert_refused(mut client: Client, message: ClientMessage) {
    client.send(message).await;
    let (code, text) = client.error().await;
    assert_eq!(code, ErrorCode::BadToken, "{text}");
    assert!(text.contains("tls.key"), "{text}");
    client.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bound_token_is_accepted_from_its_key_only() {
    let rig = Rig::new("null").await;
    let (own, other) = (key("u-1"), key("u-2"));
    let token = bound("a/b", &own);
    let hello = || Client::hello_message(&token);
    assert_refused(connect(&rig, None).await, hello()).await;
    assert_refused(connect(&rig, Some(&other)).await, hello()).await;
    // Plaintext proves no key.
    assert_refused(rig.connect().await, hello()).await;
    assert!(rig.status().await.sessions.is_empty());
    connect(&rig, Some(&own)).await.hello(&token).await;
    // No network carries a Unix socket.
    rig.connect_by_unix_socket().await.hello(&token).await;
}

/// A session of stream a/b that is never renewed, and what its client receives after each of `renewals`.
async fn expire(mut client: Client, own: &Key, renewals: &[String]) {
    let life = 2 - LEEWAY_SECONDS.cast_signed();
    let short = TRUSTED.bound_token("a/b", NAME, now(), life, &own.stored.thumbprint()).expect("signed");
    let renewals = renewals.iter().map(|token| ClientMessage::Renew { token: token.clone() });
    let messages = std::iter::once(Client::hello_message(&short)).chain(renewals);
    client.send_bytes(&messages.flat_map(|message| message.encode().to_vec()).collect::<Vec<_>>()).await;
    loop {
        match client.next().await {
            // On a slow machine the token may have expired before it is verified.
            ServerMessage::HelloAck { .. } => {}
            ServerMessage::Error { code, .. } => break assert_eq!(code, ErrorCode::ExpiredToken),
            other => panic!("unexpected message: {other:?}"),
        }
    }
    client.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn session_is_renewed_by_a_token_of_the_same_key_only() {
    let rig = Rig::new("null").await;
    let (own, other) = (key("u-1"), key("u-2"));
    expire(connect(&rig, Some(&own)).await, &own, &[bound("a/b", &other)]).await;
    // A token without a key does not take the binding away, not even where no key is proved.
    expire(rig.connect_by_unix_socket().await, &own, &[token("a/b")]).await;
}
