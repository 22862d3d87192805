//! The two Secrets of a stream.
//!
//! The operator may read and write Secrets by name but not list them. It remembers what it read, and reads a Secret again
//! when what it remembers may be stale.

use std::time::{Duration, Instant};

use contract::Endpoint;
use contract::names::{ENDPOINT_FILE, TLS_KEY_FILE, TOKEN_FILE};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt as _};
use operator_api::conditions::reasons;
use operator_api::{AuthKind, names};
use operator_plan::kubernetes::{HostAgentSecret, host_agent_secret, viewer_secret};
use operator_plan::pair::Pairing;
use operator_plan::status::Obstacle;
use operator_plan::validate::Validated;
use stream_token::StreamKey;

use super::apply::{self, Applied, Owner};
use super::context::Context;
use super::error::Error;
use super::keys::{self, KeyError};
use super::memory::{KnownSecret, ViewerToken};

async fn read(context: &Context, namespace: &str, name: &str) -> Result<Option<Secret>, Error> {
    let api: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
    context.metrics.reads.inc();
    api.get_opt(name).await.map_err(Error::api(format!("read Secret {name}")))
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok()
}

/// Age from which the memory of a Secret is stale, by what is known of the stream's sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// No pod exists: the next one starts only if the Secrets exist.
    NoPod,
    /// The sidecar refused the token that is remembered.
    Refused,
    /// The kubelet has not started the sidecar, perhaps because a Secret is missing.
    Waiting,
    /// The sidecar runs, or the pod waits for the scheduler.
    Settled,
}

impl Freshness {
    const fn limit(self) -> Duration {
        match self {
            Self::NoPod => Duration::from_secs(2),
            Self::Refused => Duration::from_secs(5),
            Self::Waiting => Duration::from_secs(30),
            Self::Settled => Duration::from_secs(600),
        }
    }
}

/// Makes sure that viewers have a token, and remembers it. A Secret of the user is read again until it exists. The
/// stream's own Secret is created again if it was deleted, with the same token if that is remembered.
///
/// # Errors
/// [`apply::ApplyError`].
pub async fn ensure_viewer(
    context: &Context,
    stream: &Validated,
    owner: &Owner,
    freshness: Freshness,
) -> Applied<()> {
    let auth = &stream.spec.viewers.auth;
    if auth.kind == AuthKind::None {
        context.memory.update(&stream.uid, |known| known.viewer = None);
        return Ok(());
    }
    let name = auth.secret_name.clone().unwrap_or_else(|| stream.names.viewer_secret());
    let known = context.memory.get(&stream.uid).viewer.filter(|known| known.secret == name);
    if known.as_ref().is_some_and(|known| known.at.elapsed() < freshness.limit()) {
        return Ok(());
    }
    let found = read(context, &stream.namespace, &name).await?;
    let is_own = auth.secret_name.is_none();
    if let Some(secret) = found.as_ref().filter(|_| is_own) {
        apply::check_own(secret, owner)?;
    }
    let in_found = found.as_ref().and_then(token);
    let (token, version) = match in_found {
        Some(token) => (token, found.as_ref().and_then(kube::ResourceExt::resource_version)),
        None if is_own => {
            let remembered = known.as_ref().map(|known| known.token.clone());
            let token = remembered.map_or_else(keys::viewer_token, Ok).map_err(Error::from)?;
            let applied = apply::put(context, owner, &viewer_secret(stream, &token)).await?;
            (token, applied.resource_version())
        }
        None => {
            let text = format!("Secret {name} with the key {TOKEN_FILE} does not exist");
            return Err(Obstacle { reason: reasons::SECRET_MISSING, text }.into());
        }
    };
    let former = known.and_then(|known| {
        if known.token == token {
            known.former.filter(|_| known.version == version)
        } else {
            Some(known.token)
        }
    });
    let known = ViewerToken { secret: name, version, token, former, at: Instant::now() };
    context.memory.update(&stream.uid, |memory| memory.viewer = Some(known));
    Ok(())
}

/// Token of viewers in a Secret; `None` without one.
fn token(secret: &Secret) -> Option<String> {
    text(secret, TOKEN_FILE).map(|token| token.trim().to_owned()).filter(|token| !token.is_empty())
}

/// Makes sure that the sidecar has the endpoint of its host-agent and a token that stays valid for at least half of its
/// lifetime. Without a host-agent the Secret is empty: the pod waits for the choice, not for a host-agent. While the pod's
/// node is not known, the Secret stays as it is.
///
/// # Errors
/// [`apply::ApplyError`].
pub async fn ensure_host_agent(
    context: &Context,
    stream: &Validated,
    owner: &Owner,
    pairing: &Pairing,
    freshness: Freshness,
    now: u64,
) -> Applied<()> {
    let memory = context.memory.get(&stream.uid);
    let is_fresh = memory.host_agent_secret_at.is_some_and(|at| at.elapsed() < freshness.limit());
    let known = match memory.host_agent_secret {
        KnownSecret::Unknown => read_host_agent(context, stream, owner).await?,
        _ if !is_fresh => read_host_agent(context, stream, owner).await?,
        known => known,
    };
    let next = next(context, stream, &known, pairing, now)?;
    if known != next {
        let content = if let KnownSecret::With(content) = &next { Some(content) } else { None };
        let secret = host_agent_secret(stream, content);
        // It is read again if the request fails.
        context.memory.update(&stream.uid, |known| known.host_agent_secret = KnownSecret::Unknown);
        if known == KnownSecret::Absent {
            apply::put(context, owner, &secret).await?;
        } else {
            apply::update(context, owner, &secret).await?;
        }
    }
    let is_written = known != next;
    context.memory.update(&stream.uid, |known| {
        known.host_agent_secret = next;
        if is_written || !is_fresh {
            known.host_agent_secret_at = Some(Instant::now());
        }
    });
    Ok(())
}

async fn read_host_agent(context: &Context, stream: &Validated, owner: &Owner) -> Applied<KnownSecret> {
    let found = read(context, &stream.namespace, &stream.names.host_agent_secret()).await?;
    let Some(secret) = found else { return Ok(KnownSecret::Absent) };
    apply::check_own(&secret, owner)?;
    Ok(content(&secret).map_or(KnownSecret::Empty, KnownSecret::With))
}

/// The content that the Secret should have.
fn next(
    context: &Context,
    stream: &Validated,
    known: &KnownSecret,
    pairing: &Pairing,
    now: u64,
) -> Result<KnownSecret, Error> {
    let (host_agent, endpoint) = match (pairing, known) {
        (Pairing::Paired { host_agent, endpoint: Some(endpoint) }, _) => (host_agent, endpoint),
        (Pairing::Unknown { .. }, KnownSecret::With(_)) => return Ok(known.clone()),
        _ => return Ok(KnownSecret::Empty),
    };
    let wanted = HostAgentSecret {
        host_agent: host_agent.clone(),
        endpoint: endpoint.clone(),
        token: String::new(),
        key: None,
        issued: now,
        expires: now + context.settings.token_life.as_secs(),
    };
    if let KnownSecret::With(old) = known
        && !must_renew(old, &wanted)
    {
        return Ok(known.clone());
    }
    let lifetime = (wanted.expires - now).cast_signed();
    if !binds(endpoint) {
        let token = context.signer.token(&stream.id(), host_agent, now, lifetime).map_err(KeyError::from)?;
        return Ok(KnownSecret::With(HostAgentSecret { token, ..wanted }));
    }
    // The key stays the same, so that a renewed token continues the session.
    let old = if let KnownSecret::With(old) = known { old.key.as_deref() } else { None };
    let key = match old.and_then(|pem| StreamKey::from_pem(pem).ok()) {
        Some(key) => key,
        None => StreamKey::generate().map_err(KeyError::from)?,
    };
    let (id, thumbprint) = (stream.id(), key.thumbprint());
    let token = context.signer.bound_token(&id, host_agent, now, lifetime, &thumbprint);
    let (token, key) = (token.map_err(KeyError::from)?, key.pem().map_err(KeyError::from)?);
    Ok(KnownSecret::With(HostAgentSecret { token, key: Some(key), ..wanted }))
}

/// True if tokens for an endpoint are bound to the stream's key. A plaintext connection cannot prove a key.
fn binds(endpoint: &Endpoint) -> bool {
    !matches!(endpoint, Endpoint::Tcp { .. })
}

/// True for another host-agent or endpoint, if half of the token's lifetime has passed, or if the token is not bound as the
/// endpoint allows.
fn must_renew(old: &HostAgentSecret, wanted: &HostAgentSecret) -> bool {
    let half = old.issued + old.expires.saturating_sub(old.issued) / 2;
    old.host_agent != wanted.host_agent
        || old.endpoint != wanted.endpoint
        || wanted.issued >= half
        || old.key.is_some() != binds(&wanted.endpoint)
}

fn content(secret: &Secret) -> Option<HostAgentSecret> {
    let annotation = |key: &str| secret.annotations().get(key).cloned();
    Some(HostAgentSecret {
        host_agent: annotation(names::PLACED_FOR)?,
        endpoint: text(secret, ENDPOINT_FILE)?.parse().ok()?,
        token: text(secret, TOKEN_FILE)?,
        key: text(secret, TLS_KEY_FILE),
        issued: annotation(names::TOKEN_ISSUED)?.parse().ok()?,
        expires: annotation(names::TOKEN_EXPIRES)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Apiserver, World};
    use operator_plan::testing::validated;

    fn secret(host_agent: &str, endpoint: &str, issued: u64) -> HostAgentSecret {
        HostAgentSecret {
            host_agent: host_agent.to_owned(),
            endpoint: endpoint.parse().expect("an endpoint"),
            token: "t".to_owned(),
            key: Some("k".to_owned()),
            issued,
            expires: issued + 1000,
        }
    }

    #[test]
    fn host_agent_secret_is_read_as_it_was_written() {
        let stream = validated(&serde_json::json!({}));
        let written = secret("mac", "vsock://2:1", 1000);
        assert_eq!(content(&host_agent_secret(&stream, Some(&written))), Some(written));
        assert_eq!(content(&host_agent_secret(&stream, None)), None);
    }

    const SECRETS: &str = "/api/v1/namespaces/team/secrets";

    fn owner() -> Owner {
        Owner { namespace: "team".to_owned(), name: "desk".to_owned(), uid: "u-1".to_owned() }
    }

    fn user_secret(name: &str, token: &str) -> serde_json::Value {
        let data: Secret = Secret {
            data: Some([(TOKEN_FILE.to_owned(), k8s_openapi::ByteString(token.as_bytes().to_vec()))].into()),
            ..Secret::default()
        };
        let mut secret = serde_json::to_value(data).expect("JSON");
        secret["metadata"] = serde_json::json!({"name": name, "namespace": "team"});
        secret
    }

    fn with_secret(name: &str) -> Validated {
        validated(&serde_json::json!({"spec": {"viewers": {"auth": {"secretName": name}}}}))
    }

    fn tokens(world: &World) -> Vec<String> {
        world.context.memory.get("u-1").viewer.map(|known| known.all()).unwrap_or_default()
    }

    async fn ensure(world: &World, stream: &Validated, freshness: Freshness) {
        ensure_viewer(&world.context, stream, &owner(), freshness).await.expect("a token");
    }

    /// Lets what is remembered be as old as `freshness` allows.
    fn age(world: &World, freshness: Freshness) {
        world.context.memory.update("u-1", |known| {
            let past = Instant::now().checked_sub(freshness.limit()).expect("the machine is up for longer");
            if let Some(viewer) = &mut known.viewer {
                viewer.at = past;
            }
            known.host_agent_secret_at = known.host_agent_secret_at.map(|_| past);
        });
    }

    #[tokio::test]
    async fn viewer_token_is_that_of_the_secret_that_the_spec_names_now() {
        let apiserver = Apiserver::default();
        let world = World::new(&apiserver);
        for name in ["one", "two"] {
            apiserver.add(&format!("{SECRETS}/{name}"), user_secret(name, name));
            ensure(&world, &with_secret(name), Freshness::Settled).await;
            assert_eq!(tokens(&world), [name]);
        }
        apiserver.take_requests();
        ensure(&world, &with_secret("two"), Freshness::Settled).await;
        assert_eq!(apiserver.take_requests(), [""; 0], "it is remembered");
    }

    #[tokio::test]
    async fn rotated_token_is_read_once_the_sidecar_refuses_the_former_one() {
        let apiserver = Apiserver::default();
        let (world, stream) = (World::new(&apiserver), with_secret("one"));
        let path = format!("{SECRETS}/one");
        apiserver.add(&path, user_secret("one", "old"));
        ensure(&world, &stream, Freshness::Settled).await;
        apiserver.change(&path, &user_secret("one", "new"));
        age(&world, Freshness::Refused);
        ensure(&world, &stream, Freshness::Settled).await;
        assert_eq!(tokens(&world), ["old"], "the sidecar has not read the file yet");
        ensure(&world, &stream, Freshness::Refused).await;
        assert_eq!(tokens(&world), ["new", "old"], "the former one may still be in the sidecar's file");
    }

    #[tokio::test]
    async fn deleted_viewer_secret_is_created_again_with_its_token() {
        let apiserver = Apiserver::default();
        let (world, stream) = (World::new(&apiserver), validated(&serde_json::json!({})));
        let path = format!("{SECRETS}/desk-viewer");
        ensure(&world, &stream, Freshness::NoPod).await;
        let created = tokens(&world);
        for freshness in [Freshness::Waiting, Freshness::Settled, Freshness::NoPod] {
            apiserver.remove(&path);
            age(&world, freshness);
            ensure(&world, &stream, freshness).await;
            let secret: Secret =
                serde_json::from_value(apiserver.get(&path).expect("created again")).expect("a Secret");
            assert_eq!(token(&secret).as_ref(), created.first(), "{freshness:?}");
            assert_eq!(tokens(&world), created);
        }
    }

    #[tokio::test]
    async fn deleted_host_agent_secret_is_created_again() {
        let apiserver = Apiserver::default();
        let (world, stream) = (World::new(&apiserver), validated(&serde_json::json!({})));
        let path = format!("{SECRETS}/desk-host-agent");
        let pairing = Pairing::Paired {
            host_agent: "mac".to_owned(),
            endpoint: Some("vsock://2:1".parse().expect("an endpoint")),
        };
        for _ in 0..2 {
            ensure_host_agent(&world.context, &stream, &owner(), &pairing, Freshness::Waiting, 1000)
                .await
                .expect("applied");
            let secret: Secret =
                serde_json::from_value(apiserver.get(&path).expect("it exists")).expect("a Secret");
            assert!(content(&secret).is_some_and(|it| it.host_agent == "mac"));
            apiserver.remove(&path);
            age(&world, Freshness::Waiting);
        }
    }

    /// The Secret's content and the thumbprint in its token, after a pass at `now`.
    async fn bound_content(world: &World, endpoint: &str, now: u64) -> (HostAgentSecret, Option<String>) {
        let stream = validated(&serde_json::json!({}));
        let endpoint = Some(endpoint.parse().expect("an endpoint"));
        let pairing = Pairing::Paired { host_agent: "mac".to_owned(), endpoint };
        ensure_host_agent(&world.context, &stream, &owner(), &pairing, Freshness::Settled, now)
            .await
            .expect("applied");
        let KnownSecret::With(content) = world.context.memory.get("u-1").host_agent_secret else {
            unreachable!("it was written")
        };
        let claims = stream_token::unverified_claims(&content.token).expect("claims");
        (content, claims.cnf.map(|confirmation| confirmation.jkt))
    }

    #[tokio::test]
    async fn token_is_bound_to_the_key_beside_it_which_stays_the_same() {
        let apiserver = Apiserver::default();
        let world = World::new(&apiserver);
        let pinned = format!("tls://10.0.0.1:1#sha256={}", "ab".repeat(32));
        let thumbprint = |content: &HostAgentSecret| {
            StreamKey::from_pem(content.key.as_deref().expect("a key")).expect("a key").thumbprint()
        };
        let (first, bound_to) = bound_content(&world, &pinned, 1000).await;
        assert_eq!(bound_to, Some(thumbprint(&first)));
        // Renewed after the operator was restarted, which reads the Secret again.
        world.context.memory.update("u-1", |known| known.host_agent_secret = KnownSecret::Unknown);
        let (renewed, bound_to) = bound_content(&world, &pinned, 1_000_000).await;
        assert_ne!(renewed.token, first.token);
        assert_eq!((renewed.key.as_ref(), bound_to), (first.key.as_ref(), Some(thumbprint(&first))));
        let (by_vsock, bound_to) = bound_content(&world, "vsock://2:1", 1_000_000).await;
        assert_eq!((by_vsock.key, bound_to), (first.key.clone(), Some(thumbprint(&first))));
    }

    #[tokio::test]
    async fn token_for_a_plaintext_endpoint_is_bound_to_no_key() {
        let apiserver = Apiserver::default();
        let world = World::new(&apiserver);
        bound_content(&world, "vsock://2:1", 1000).await;
        let (content, bound_to) = bound_content(&world, "tcp://10.0.0.1:1", 1000).await;
        assert_eq!((content.key, bound_to), (None, None));
    }

    #[tokio::test]
    async fn host_agent_secret_stays_while_the_node_is_unknown_and_is_emptied_when_unpaired() {
        let apiserver = Apiserver::default();
        let (world, stream) = (World::new(&apiserver), validated(&serde_json::json!({})));
        let path = format!("{SECRETS}/desk-host-agent");
        let paired = Pairing::Paired {
            host_agent: "mac".to_owned(),
            endpoint: Some("vsock://2:1".parse().expect("an endpoint")),
        };
        let unknown = Pairing::Unknown { host_agent: Some("mac".to_owned()), node: "n1".to_owned() };
        let gone = Pairing::None { reason: reasons::HOST_AGENT_GONE, text: String::new() };
        for (pairing, is_paired) in [(&paired, true), (&unknown, true), (&gone, false), (&unknown, false)] {
            ensure_host_agent(&world.context, &stream, &owner(), pairing, Freshness::Settled, 1000)
                .await
                .expect("applied");
            let secret: Secret =
                serde_json::from_value(apiserver.get(&path).expect("it exists")).expect("a Secret");
            assert_eq!(content(&secret).is_some(), is_paired, "{pairing:?}");
        }
    }

    #[tokio::test]
    async fn host_agent_secret_of_somebody_else_is_left_alone() {
        let apiserver = Apiserver::default();
        let (world, stream) = (World::new(&apiserver), validated(&serde_json::json!({})));
        let path = format!("{SECRETS}/desk-host-agent");
        let before = apiserver.add(&path, user_secret("desk-host-agent", "theirs"));
        let none = Pairing::None { reason: reasons::NO_HOST_AGENT, text: String::new() };
        let applied =
            ensure_host_agent(&world.context, &stream, &owner(), &none, Freshness::NoPod, 1000).await;
        let is_taken =
            matches!(applied, Err(apply::ApplyError::Obstacle(it)) if it.reason == reasons::NAME_TAKEN);
        assert!(is_taken);
        assert_eq!(apiserver.get(&path), Some(before));
    }

    #[test]
    fn token_is_renewed_at_half_of_its_lifetime_and_for_another_host_agent() {
        let old = secret("mac", "vsock://2:1", 1000);
        assert!(!must_renew(&old, &secret("mac", "vsock://2:1", 1499)));
        assert!(must_renew(&old, &secret("mac", "vsock://2:1", 1500)));
        assert!(must_renew(&old, &secret("other", "vsock://2:1", 1000)));
        assert!(must_renew(&old, &secret("mac", "tcp://h:1", 1000)));
    }
}
