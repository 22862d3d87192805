//! The two Secrets of a stream.
//!
//! The operator may read and write Secrets by name but not list them. It reads each once after its start and remembers the
//! content.

use contract::names::{ENDPOINT_FILE, TOKEN_FILE};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
use operator_api::conditions::reasons;
use operator_api::{AuthKind, names};
use operator_plan::kubernetes::{HostAgentSecret, host_agent_secret, viewer_secret};
use operator_plan::pair::Pairing;
use operator_plan::status::Obstacle;
use operator_plan::validate::Validated;

use super::apply::{self, Applied, Owner};
use super::context::Context;
use super::error::Error;
use super::keys::{self, KeyError};
use super::memory::KnownSecret;

async fn read(context: &Context, namespace: &str, name: &str) -> Result<Option<Secret>, Error> {
    let api: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
    context.metrics.reads.inc();
    api.get_opt(name).await.map_err(Error::api(format!("read Secret {name}")))
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok()
}

/// Makes sure that viewers have a token, and remembers it. A Secret of the user is read again until it exists.
///
/// # Errors
/// [`apply::ApplyError`].
pub async fn ensure_viewer(context: &Context, stream: &Validated, owner: &Owner) -> Applied<()> {
    let auth = &stream.spec.viewers.auth;
    if auth.kind == AuthKind::None || context.memory.get(&stream.uid).viewer_token.is_some() {
        return Ok(());
    }
    let name = auth.secret_name.clone().unwrap_or_else(|| stream.names.viewer_secret());
    let found = read(context, &stream.namespace, &name).await?;
    let token = match (found, &auth.secret_name) {
        (Some(secret), None) if !apply::is_owned(&secret, owner) => {
            let text = format!("Secret {name} exists and does not belong to the stream");
            return Err(Obstacle { reason: reasons::NAME_TAKEN, text }.into());
        }
        (Some(secret), _) => text(&secret, TOKEN_FILE).map(|token| token.trim().to_owned()),
        (None, Some(_)) => None,
        (None, None) => {
            let token = keys::viewer_token().map_err(Error::from)?;
            apply::apply(context, owner, &viewer_secret(stream, &token), false).await?;
            Some(token)
        }
    };
    let Some(token) = token else {
        let text = format!("Secret {name} with the key {TOKEN_FILE} does not exist");
        return Err(Obstacle { reason: reasons::SECRET_MISSING, text }.into());
    };
    context.memory.update(&stream.uid, |known| known.viewer_token = Some(token));
    Ok(())
}

/// Makes sure that the sidecar has the endpoint of its host-agent and a token that stays valid for at least half of its
/// lifetime. Without a host-agent the Secret is empty: the pod waits for the choice, not for a host-agent.
///
/// # Errors
/// [`apply::ApplyError`].
pub async fn ensure_host_agent(
    context: &Context,
    stream: &Validated,
    owner: &Owner,
    pairing: &Pairing,
    now: u64,
) -> Applied<()> {
    let name = stream.names.host_agent_secret();
    let known = match context.memory.get(&stream.uid).host_agent_secret {
        KnownSecret::Unknown => match read(context, &stream.namespace, &name).await? {
            Some(secret) => content(&secret).map_or(KnownSecret::Empty, KnownSecret::With),
            None => KnownSecret::Absent,
        },
        known => known,
    };
    let next = next(context, stream, &known, pairing, now)?;
    if known != next {
        let content = if let KnownSecret::With(content) = &next { Some(content) } else { None };
        let secret = host_agent_secret(stream, content);
        apply::apply(context, owner, &secret, known != KnownSecret::Absent).await?;
    }
    context.memory.update(&stream.uid, |known| known.host_agent_secret = next);
    Ok(())
}

/// The content that the Secret should have.
fn next(
    context: &Context,
    stream: &Validated,
    known: &KnownSecret,
    pairing: &Pairing,
    now: u64,
) -> Result<KnownSecret, Error> {
    let Pairing::Paired { host_agent, endpoint: Some(endpoint) } = pairing else {
        return Ok(KnownSecret::Empty);
    };
    let wanted = HostAgentSecret {
        host_agent: host_agent.clone(),
        endpoint: endpoint.clone(),
        token: String::new(),
        issued: now,
        expires: now + context.settings.token_life.as_secs(),
    };
    if let KnownSecret::With(old) = known
        && !must_renew(old, &wanted)
    {
        return Ok(known.clone());
    }
    let lifetime = (wanted.expires - now).cast_signed();
    let token = context.signer.token(&stream.id(), host_agent, now, lifetime).map_err(KeyError::from)?;
    Ok(KnownSecret::With(HostAgentSecret { token, ..wanted }))
}

/// True for another host-agent or endpoint, or if half of the token's lifetime has passed.
fn must_renew(old: &HostAgentSecret, wanted: &HostAgentSecret) -> bool {
    let half = old.issued + old.expires.saturating_sub(old.issued) / 2;
    old.host_agent != wanted.host_agent || old.endpoint != wanted.endpoint || wanted.issued >= half
}

fn content(secret: &Secret) -> Option<HostAgentSecret> {
    let annotation = |key: &str| secret.annotations().get(key).cloned();
    Some(HostAgentSecret {
        host_agent: annotation(names::PLACED_FOR)?,
        endpoint: text(secret, ENDPOINT_FILE)?.parse().ok()?,
        token: text(secret, TOKEN_FILE)?,
        issued: annotation(names::TOKEN_ISSUED)?.parse().ok()?,
        expires: annotation(names::TOKEN_EXPIRES)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use operator_plan::testing::validated;

    fn secret(host_agent: &str, endpoint: &str, issued: u64) -> HostAgentSecret {
        HostAgentSecret {
            host_agent: host_agent.to_owned(),
            endpoint: endpoint.parse().expect("an endpoint"),
            token: "t".to_owned(),
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

    #[test]
    fn token_is_renewed_at_half_of_its_lifetime_and_for_another_host_agent() {
        let old = secret("mac", "vsock://2:1", 1000);
        assert!(!must_renew(&old, &secret("mac", "vsock://2:1", 1499)));
        assert!(must_renew(&old, &secret("mac", "vsock://2:1", 1500)));
        assert!(must_renew(&old, &secret("other", "vsock://2:1", 1000)));
        assert!(must_renew(&old, &secret("mac", "tcp://h:1", 1000)));
    }
}
