//! Sessions and the expiry of their tokens.

use protocol::stream::{ClientMessage, ErrorCode, ServerMessage};
use stream_token::LEEWAY_SECONDS;

use crate::client::Client;
use crate::rig::{NAME, Rig, TRUSTED, sign, token};

/// Token of a stream that is accepted for these seconds.
fn expiring(stream: &str, seconds: i64) -> String {
    sign(&TRUSTED, stream, NAME, seconds - LEEWAY_SECONDS.cast_signed())
}

/// Opens a session that its token ends soon, and sends `more` with the `Hello`. On a slow machine the token may have
/// expired before it is verified.
async fn short_session(rig: &Rig, stream: &str, more: &[ClientMessage]) -> Client {
    loop {
        let mut client = rig.connect().await;
        let hello = Client::hello_message(&expiring(stream, 2));
        let all = std::iter::once(&hello).chain(more).flat_map(|message| message.encode().to_vec());
        client.send_bytes(&all.collect::<Vec<_>>()).await;
        match client.next().await {
            ServerMessage::HelloAck { .. } => return client,
            ServerMessage::Error { code: ErrorCode::ExpiredToken, .. } => {}
            other => panic!("unexpected answer to Hello: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn session_ends_with_its_token_and_a_renewed_one_goes_on() {
    let rig = Rig::new("null").await;
    let renew = ClientMessage::Renew { token: token("a/renewed") };
    let mut renewed = short_session(&rig, "a/renewed", &[renew]).await;
    let mut expired = short_session(&rig, "a/expired", &[]).await;
    let (code, message) = expired.error().await;
    assert_eq!(code, ErrorCode::ExpiredToken, "{message}");
    expired.closed().await;
    // The session that began first, with a token of the same lifetime.
    renewed.send(ClientMessage::Ping(1)).await;
    assert_eq!(renewed.next().await, ServerMessage::Pong(1));
    assert_eq!(rig.status().await.sessions.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn token_that_does_not_renew_leaves_the_session_until_its_own_token_ends() {
    let rig = Rig::new("null").await;
    let refused = [
        token("a/other"),
        sign(&TRUSTED, "a/session", "another", 60),
        "nonsense".to_owned(),
        expiring("a/session", -100),
    ];
    let mut messages: Vec<_> = refused.map(|token| ClientMessage::Renew { token }).into();
    messages.push(ClientMessage::Ping(1));
    let mut client = short_session(&rig, "a/session", &messages).await;
    assert_eq!(client.next().await, ServerMessage::Pong(1));
    let (code, message) = client.error().await;
    assert_eq!(code, ErrorCode::ExpiredToken, "{message}");
    client.closed().await;
}
