use contract::names::{ENDPOINT_FILE, STATUS_KEYS_FILE, TLS_KEY_FILE, TOKEN_FILE, VIEW_ONLY_TOKEN_FILE};
use operator_plan::testing::validated;
use serde_json::{Value, json};

use super::*;
use crate::apply::ApplyError;
use crate::testing::{Apiserver, World};

const VIEWER: &str = "/api/v1/namespaces/team/secrets/desk-viewer";
const HOST_AGENT: &str = "/api/v1/namespaces/team/secrets/desk-host-agent";
const NOW: i64 = 1_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).expect("a time")
}

fn secrets<'s>(world: &'s World, stream: &'s Validated, freshness: Freshness) -> Secrets<'s> {
    let created = Some(at(NOW - 3600));
    Secrets { context: &world.context, stream, created, freshness, now: at(NOW) }
}

/// Lets what is remembered be as old as `freshness` allows.
fn age(world: &World, freshness: Freshness) {
    world.context.memory.update("u-1", |known| {
        let past = Instant::now().checked_sub(freshness.limit()).expect("the machine is up for longer");
        known.viewer_secret_at = known.viewer_secret_at.map(|_| past);
        if let Some(written) = &mut known.host_agent_secret {
            written.at = past;
        }
    });
}

fn data(apiserver: &Apiserver, path: &str, key: &str) -> Option<String> {
    let secret: Secret = serde_json::from_value(apiserver.get(path)?).expect("a Secret");
    let bytes = secret.data?.remove(key)?;
    Some(String::from_utf8(bytes.0).expect("text"))
}

fn foreign(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "team"}, "type": "Opaque", "data": {"token": "dGhlaXJz"}})
}

fn reason(applied: Applied<()>) -> &'static str {
    match applied {
        Ok(()) => "none",
        Err(ApplyError::Obstacle(obstacle)) => obstacle.reason.name,
        Err(ApplyError::Failed(error)) => error.category(),
    }
}

fn paired() -> Pairing {
    let endpoint = Some("vsock://2:1".parse().expect("an endpoint"));
    Pairing::Paired { host_agent: "mac".to_owned(), endpoint }
}

#[tokio::test]
async fn secrets_are_never_read() {
    let apiserver = Apiserver::default();
    for spec in [json!({}), json!({"viewers": {"auth": {"secretName": "mine"}}})] {
        let stream = validated(&json!({"spec": spec}));
        apiserver.remove(VIEWER);
        // Another process of the operator finds the Secrets of the first one.
        for _ in 0..2 {
            let world = World::new(&apiserver);
            for freshness in [Freshness::NoPod, Freshness::Refused, Freshness::Waiting, Freshness::Settled] {
                let secrets = secrets(&world, &stream, freshness);
                secrets.ensure_viewer().await.expect("ensured");
                secrets.ensure_host_agent(&paired()).await.expect("ensured");
                age(&world, freshness);
            }
        }
        let requests = apiserver.take_requests();
        let reads = |it: &&String| !it.starts_with("POST ") && !it.starts_with("PUT ");
        assert_eq!(requests.iter().find(reads), None);
        let named = requests.iter().any(|it| it.contains("mine"));
        assert!(!named, "a request about the user's Secret: {requests:?}");
        let is_created = apiserver.get(VIEWER).is_some();
        assert_eq!(is_created, stream.spec.viewers.auth.secret_name.is_none());
    }
}

#[tokio::test]
async fn viewer_secret_keeps_its_content_and_is_created_again_when_deleted() {
    let apiserver = Apiserver::default();
    let (world, stream) = (World::new(&apiserver), validated(&json!({})));
    let ensure =
        async |freshness| secrets(&world, &stream, freshness).ensure_viewer().await.expect("ensured");
    ensure(Freshness::NoPod).await;
    let tokens =
        || [TOKEN_FILE, VIEW_ONLY_TOKEN_FILE].map(|file| data(&apiserver, VIEWER, file).expect("a token"));
    let first = tokens();
    assert_ne!(first[0], first[1]);
    // Its user changes one token, and has no other, as in Secrets of earlier versions.
    apiserver.change(VIEWER, &json!({"data": {"token": "Y2hhbmdlZA==", "view-only-token": null}}));
    let changed = apiserver.get(VIEWER);
    for freshness in [Freshness::Waiting, Freshness::Settled, Freshness::NoPod] {
        age(&world, freshness);
        apiserver.take_requests();
        ensure(freshness).await;
        assert_eq!(apiserver.get(VIEWER), changed, "a changed token is the user's");
        assert_eq!(apiserver.take_requests().len(), 1);
        ensure(freshness).await;
        assert_eq!(apiserver.take_requests(), [""; 0], "it is remembered");
    }
    apiserver.remove(VIEWER);
    age(&world, Freshness::Waiting);
    ensure(Freshness::Waiting).await;
    let again = tokens();
    assert!(again[0] != again[1] && !first.contains(&again[0]) && !first.contains(&again[1]));
}

#[tokio::test]
async fn secret_of_somebody_else_is_reported_and_left_alone() {
    let apiserver = Apiserver::default();
    let (world, stream) = (World::new(&apiserver), validated(&json!({})));
    let before = (
        apiserver.add(VIEWER, foreign("desk-viewer")),
        apiserver.add(HOST_AGENT, foreign("desk-host-agent")),
    );
    let old = secrets(&world, &stream, Freshness::NoPod);
    let new = Secrets { created: Some(at(NOW - 1)), ..secrets(&world, &stream, Freshness::NoPod) };
    // The garbage collector needs a moment for the Secrets of a deleted stream of the same name.
    for (secrets, expected) in [(&old, "NameTaken"), (&new, "Waiting")] {
        assert_eq!(reason(secrets.ensure_viewer().await), expected);
        assert_eq!(reason(secrets.ensure_host_agent(&paired()).await), expected);
    }
    assert_eq!((apiserver.get(VIEWER), apiserver.get(HOST_AGENT)), (Some(before.0), Some(before.1)));
}

#[tokio::test]
async fn host_agent_secret_is_repaired_and_created_again() {
    let apiserver = Apiserver::default();
    let (world, stream) = (World::new(&apiserver), validated(&json!({})));
    let ensure = async || {
        secrets(&world, &stream, Freshness::Waiting).ensure_host_agent(&paired()).await.expect("ensured");
        age(&world, Freshness::Waiting);
        apiserver.get(HOST_AGENT).map(|it| it["data"].clone())
    };
    let written = ensure().await;
    let token = data(&apiserver, HOST_AGENT, TOKEN_FILE).expect("a token");
    let verifier = stream_token::Verifier::new(&[world.context.signer.verifying_key()], "mac");
    // It was issued in the past.
    assert_eq!(verifier.verify(&token), Err(stream_token::TokenError::Expired));
    assert_eq!(data(&apiserver, HOST_AGENT, STATUS_KEYS_FILE).as_ref(), Some(&world.context.status_keys));
    assert_eq!(data(&apiserver, HOST_AGENT, ENDPOINT_FILE).as_deref(), Some("vsock://2:1"));
    apiserver.change(HOST_AGENT, &json!({"data": {"status.pub": null, "endpoint": "eA=="}}));
    assert_eq!(ensure().await, written);
    apiserver.remove(HOST_AGENT);
    assert_eq!(ensure().await, written);
}

#[tokio::test]
async fn host_agent_secret_stays_while_the_node_is_unknown_and_is_emptied_when_unpaired() {
    let apiserver = Apiserver::default();
    let stream = validated(&json!({}));
    let unknown = Pairing::Unknown { host_agent: Some("mac".to_owned()), node: "n1".to_owned() };
    let gone = Pairing::None { reason: reasons::HOST_AGENT_GONE, text: String::new() };
    let paired = paired();
    let mut world = World::new(&apiserver);
    for (pairing, is_restarted, is_paired) in [
        (&unknown, false, false),
        (&paired, false, true),
        (&unknown, false, true),
        (&unknown, true, true),
        (&gone, false, false),
        (&unknown, true, false),
    ] {
        if is_restarted {
            world = World::new(&apiserver);
        }
        secrets(&world, &stream, Freshness::Settled).ensure_host_agent(pairing).await.expect("ensured");
        assert!(apiserver.get(HOST_AGENT).is_some());
        let endpoint = data(&apiserver, HOST_AGENT, ENDPOINT_FILE);
        assert_eq!(endpoint.is_some(), is_paired, "{pairing:?}, restarted: {is_restarted}");
    }
}

#[tokio::test]
async fn key_of_the_token_stays_the_same_across_renewals_and_restarts() {
    let apiserver = Apiserver::default();
    let stream = validated(&json!({}));
    let mut world = World::new(&apiserver);
    let mut written = Vec::new();
    for (is_restarted, now) in [(false, NOW), (false, 2 * NOW), (true, 3 * NOW)] {
        if is_restarted {
            let pem = world.context.signer.private_pem().expect("PEM");
            world = World::with_signer(&apiserver, stream_token::Signer::from_pem(&pem).expect("a key"));
        }
        let secrets = Secrets { now: at(now), ..secrets(&world, &stream, Freshness::Settled) };
        secrets.ensure_host_agent(&paired()).await.expect("ensured");
        let [token, key] = [TOKEN_FILE, TLS_KEY_FILE].map(|file| data(&apiserver, HOST_AGENT, file));
        written.push((token.expect("a token"), key.expect("a key")));
    }
    let (tokens, keys): (Vec<_>, Vec<_>) = written.iter().cloned().unzip();
    assert_ne!(tokens[0], tokens[1]);
    assert_ne!(tokens[1], tokens[2]);
    assert!(keys.iter().all(|key| *key == keys[0]));
}

#[test]
fn token_is_renewed_at_half_of_its_lifetime_and_for_another_host_agent() {
    let secret = |host_agent: &str, endpoint: &str, issued: u64| HostAgentSecret {
        host_agent: host_agent.to_owned(),
        endpoint: endpoint.parse().expect("an endpoint"),
        token: "t".to_owned(),
        key: None,
        issued,
        expires: issued + 1000,
    };
    let old = secret("mac", "vsock://2:1", 1000);
    assert!(!must_renew(&old, &secret("mac", "vsock://2:1", 1499)));
    assert!(must_renew(&old, &secret("mac", "vsock://2:1", 1500)));
    assert!(must_renew(&old, &secret("other", "vsock://2:1", 1000)));
    assert!(must_renew(&old, &secret("mac", "tcp://h:1", 1000)));
}
