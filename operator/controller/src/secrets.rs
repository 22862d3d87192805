//! The two Secrets of a stream. The operator may read and write Secrets by name and not list them: it looks
//! once per life and stream, and remembers.

use std::sync::atomic::Ordering::Relaxed;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};

use super::apply;
use super::context::Context;
use super::error::Error;
use super::keys;
use super::memory::Written;
use operator_api::conditions::reasons;
use operator_api::{AuthKind, names};
use operator_plan::kubernetes::{HostAgentSecret, host_agent_secret, viewer_secret};
use operator_plan::pair::Pairing;
use operator_plan::status::Obstacle;
use operator_plan::validate::Validated;
use operator_plan::workload::{ENDPOINT_FILE, TOKEN_FILE};

async fn read(context: &Context, namespace: &str, name: &str) -> Result<Option<Secret>, Error> {
    let api: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
    context.metrics.reads.fetch_add(1, Relaxed);
    api.get_opt(name).await.map_err(Error::api(format!("read Secret {name}")))
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok()
}

/// Sees to it that viewers have a token, and remembers it. The user's own is read anew until it is there.
pub async fn ensure_viewer(context: &Context, stream: &Validated) -> Result<Result<(), Obstacle>, Error> {
    let auth = &stream.spec.viewers.auth;
    if auth.kind == AuthKind::None || context.memory.get(&stream.uid).viewer_token.is_some() {
        return Ok(Ok(()));
    }
    let name = auth.secret_name.clone().unwrap_or_else(|| stream.names.viewer_secret());
    let found = read(context, &stream.namespace, &name).await?;
    let token = match (found, &auth.secret_name) {
        (Some(secret), None) if !apply::is_ours(&secret, stream) => {
            return Ok(Err(Obstacle {
                reason: reasons::NAME_TAKEN,
                text: format!("a Secret {name} of somebody else is there"),
            }));
        }
        (Some(secret), _) => text(&secret, TOKEN_FILE).map(|token| token.trim().to_owned()),
        (None, Some(_)) => None,
        (None, None) => {
            let token = keys::viewer_token()?;
            if let Err(obstacle) =
                apply::apply(context, stream, &viewer_secret(stream, &token), false).await?
            {
                return Ok(Err(obstacle));
            }
            Some(token)
        }
    };
    let Some(token) = token else {
        let text = format!("Secret {name} with the key `{TOKEN_FILE}` is missing");
        return Ok(Err(Obstacle { reason: reasons::SECRET_MISSING, text }));
    };
    context.memory.update(&stream.uid, |known| known.viewer_token = Some(token));
    Ok(Ok(()))
}

/// Sees to it that the sidecar has what it needs for its host-agent: a token that is good for a while yet, and
/// the endpoint. Without a host-agent the Secret is empty: the pod waits for the choice, not for a host-agent.
pub async fn ensure_host_agent(
    context: &Context,
    stream: &Validated,
    pairing: &Pairing,
    now: u64,
) -> Result<Result<(), Obstacle>, Error> {
    let name = stream.names.host_agent_secret();
    let known = match context.memory.get(&stream.uid).host_agent_secret {
        Written::Unknown => match read(context, &stream.namespace, &name).await? {
            Some(secret) => content(&secret).map_or(Written::Empty, Written::With),
            None => Written::Absent,
        },
        known => known,
    };
    let life = context.settings.token_life.as_secs();
    let next = match pairing {
        Pairing::Paired { host_agent, endpoint: Some(endpoint) } => match &known {
            Written::With(old) if !is_due(old, host_agent, endpoint, now) => known.clone(),
            _ => Written::With(HostAgentSecret {
                host_agent: host_agent.clone(),
                endpoint: endpoint.clone(),
                token: context.signer.token(&stream.id(), host_agent, now, life)?,
                issued: now,
                expires: now + life,
            }),
        },
        _ => Written::Empty,
    };
    if known != next {
        let content = if let Written::With(content) = &next { Some(content) } else { None };
        let secret = host_agent_secret(stream, content);
        if let Err(obstacle) = apply::apply(context, stream, &secret, known != Written::Absent).await? {
            return Ok(Err(obstacle));
        }
    }
    context.memory.update(&stream.uid, |known| known.host_agent_secret = next);
    Ok(Ok(()))
}

/// Another host-agent, another way to it, or half its life is over.
fn is_due(old: &HostAgentSecret, host_agent: &str, endpoint: &str, now: u64) -> bool {
    let half = old.issued + old.expires.saturating_sub(old.issued) / 2;
    old.host_agent != host_agent || old.endpoint != endpoint || now >= half
}

fn content(secret: &Secret) -> Option<HostAgentSecret> {
    let annotation = |key: &str| secret.annotations().get(key).cloned();
    Some(HostAgentSecret {
        host_agent: annotation(names::PLACED_FOR)?,
        endpoint: text(secret, ENDPOINT_FILE)?,
        token: text(secret, TOKEN_FILE)?,
        issued: annotation(names::TOKEN_ISSUED)?.parse().ok()?,
        expires: annotation(names::TOKEN_EXPIRES)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use operator_plan::testing::validated;

    #[test]
    fn what_was_written_is_read_back_and_renewed_in_time() {
        let stream = validated(&serde_json::json!({}));
        let written = HostAgentSecret {
            host_agent: "mac".to_owned(),
            endpoint: "vsock://2:1".to_owned(),
            token: "t".to_owned(),
            issued: 1000,
            expires: 2000,
        };
        assert_eq!(content(&host_agent_secret(&stream, Some(&written))), Some(written.clone()));
        assert_eq!(content(&host_agent_secret(&stream, None)), None);
        assert!(!is_due(&written, "mac", "vsock://2:1", 1499));
        assert!(is_due(&written, "mac", "vsock://2:1", 1500));
        assert!(is_due(&written, "other", "vsock://2:1", 1000));
        assert!(is_due(&written, "mac", "tcp://h:1", 1000));
    }
}
