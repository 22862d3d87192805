//! The two Secrets of a stream.
//!
//! The operator may create and replace Secrets by name, but neither get nor list them: it never learns the viewers' token of
//! a user's Secret. A Secret is replaced as a whole. Its type states the stream that it was created for; the apiserver
//! refuses to change the type of a Secret, and thereby to replace one that does not belong to the stream.
//!
//! The operator remembers what it wrote, and writes it again when the Secret may have been deleted or changed since.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::PostParams;
use kube::{Api, ResourceExt as _};
use operator_api::conditions::reasons;
use operator_api::{AuthKind, names};
use operator_plan::kubernetes::{HostAgentSecret, ViewerTokens, host_agent_secret, viewer_secret};
use operator_plan::pair::Pairing;
use operator_plan::status::Obstacle;
use operator_plan::validate::Validated;

use super::apply::{self, Applied};
use super::context::Context;
use super::error::Error;
use super::keys::{self, KeyError};
use super::memory::WrittenSecret;

/// Age of a stream up to which a Secret of its name is taken for that of a deleted stream, which the garbage collector is
/// about to delete.
const COLLECTION_TIME: SignedDuration = SignedDuration::from_secs(30);

/// Age from which the memory of a Secret is stale, by what is known of the stream's sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// No pod exists: the next one starts only if the Secrets exist.
    NoPod,
    /// The sidecar refused the operator's token: the Secret may lack the key.
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
            Self::Refused | Self::Waiting => Duration::from_secs(30),
            Self::Settled => Duration::from_secs(600),
        }
    }
}

/// Result of a request to replace a Secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Replaced {
    Done,
    Absent,
}

/// The Secrets of one stream.
pub struct Secrets<'s> {
    /// Client, keys and memory.
    pub context: &'s Context,
    /// The stream.
    pub stream: &'s Validated,
    /// Time of the stream's creation.
    pub created: Option<Timestamp>,
    /// How long the memory can be relied upon.
    pub freshness: Freshness,
    /// Current time.
    pub now: Timestamp,
}

impl Secrets<'_> {
    /// Makes sure that viewers have tokens, unless they use a Secret of the user. The stream's own Secret gets new tokens when
    /// it was deleted. One of an earlier version has no view-only token, and stays without.
    ///
    /// # Errors
    /// [`apply::ApplyError`].
    pub async fn ensure_viewer(&self) -> Applied<()> {
        let auth = &self.stream.spec.viewers.auth;
        if auth.kind == AuthKind::None || auth.secret_name.is_some() {
            return Ok(());
        }
        let (context, uid) = (self.context, &self.stream.uid);
        if context.memory.get(uid).viewer_secret_at.is_some_and(|at| self.is_fresh(at)) {
            return Ok(());
        }
        let token = || keys::viewer_token().map_err(Error::from);
        let secret = viewer_secret(self.stream, ViewerTokens { control: token()?, view_only: token()? });
        // Its user may have changed the tokens, so it is replaced for a trial only.
        if self.replace(&secret, true).await? == Replaced::Absent {
            self.create(&secret).await?;
        }
        context.memory.update(uid, |known| known.viewer_secret_at = Some(Instant::now()));
        Ok(())
    }

    /// Makes sure that the sidecar has the operator's public keys, the endpoint of its host-agent, and a token that stays
    /// valid for at least half of its lifetime, with its key. Without a host-agent the Secret has the keys only: the pod
    /// waits for the choice, not for a host-agent. While the pod's node is not known, endpoint and token stay as they are.
    ///
    /// # Errors
    /// [`apply::ApplyError`].
    pub async fn ensure_host_agent(&self, pairing: &Pairing) -> Applied<()> {
        let (context, uid) = (self.context, &self.stream.uid);
        let known = context.memory.get(uid).host_agent_secret;
        let keys = &context.status_keys;
        if known.is_none() && matches!(pairing, Pairing::Unknown { .. }) {
            // What an earlier operator wrote is not known and stays.
            return self.create(&host_agent_secret(self.stream, None, keys)).await;
        }
        let content = self.content(known.as_ref(), pairing)?;
        if known.is_some_and(|known| known.content == content && self.is_fresh(known.at)) {
            return Ok(());
        }
        // It is written again if a request fails.
        context.memory.update(uid, |known| known.host_agent_secret = None);
        let secret = host_agent_secret(self.stream, content.as_ref(), keys);
        if self.replace(&secret, false).await? == Replaced::Absent {
            self.create(&secret).await?;
        }
        let written = WrittenSecret { content, at: Instant::now() };
        context.memory.update(uid, |known| known.host_agent_secret = Some(written));
        Ok(())
    }

    fn is_fresh(&self, at: Instant) -> bool {
        at.elapsed() < self.freshness.limit()
    }

    /// The content that the host-agent Secret should have.
    fn content(
        &self,
        known: Option<&WrittenSecret>,
        pairing: &Pairing,
    ) -> Result<Option<HostAgentSecret>, Error> {
        let known = known.and_then(|known| known.content.clone());
        let (host_agent, endpoint) = match pairing {
            Pairing::Paired { host_agent, endpoint: Some(endpoint) } => (host_agent, endpoint),
            Pairing::Unknown { .. } => return Ok(known),
            _ => return Ok(None),
        };
        let now = self.now.as_second().max(0).cast_unsigned();
        let life = self.context.settings.token_life.as_secs();
        let wanted = HostAgentSecret {
            host_agent: host_agent.clone(),
            endpoint: endpoint.clone(),
            token: String::new(),
            key: None,
            issued: now,
            expires: now + life,
        };
        if let Some(old) = known
            && !must_renew(&old, &wanted)
        {
            return Ok(Some(old));
        }
        let (id, signer) = (self.stream.id(), &self.context.signer);
        let stream = (id.as_str(), self.stream.uid.as_str());
        let made = signer.credentials(stream, (host_agent, endpoint), now, life.cast_signed());
        let made = made.map_err(KeyError::from)?;
        Ok(Some(HostAgentSecret { token: made.token, key: made.key, ..wanted }))
    }

    fn api(&self) -> Api<Secret> {
        Api::namespaced(self.context.client.clone(), &self.stream.namespace)
    }

    fn params(dry_run: bool) -> PostParams {
        PostParams { dry_run, field_manager: Some(names::FIELD_MANAGER.to_owned()) }
    }

    /// Creates a Secret; leaves one of that name as it is.
    async fn create(&self, secret: &Secret) -> Applied<()> {
        self.context.metrics.writes.inc();
        match self.api().create(&Self::params(false), secret).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            Err(error) => Err(apply::failure::<Secret>("create", &secret.name_any(), error)),
        }
    }

    /// Replaces the stream's own Secret. With `is_trial` it stays as it is.
    async fn replace(&self, secret: &Secret, is_trial: bool) -> Applied<Replaced> {
        let name = secret.name_any();
        self.context.metrics.writes.inc();
        match self.api().replace(&name, &Self::params(is_trial), secret).await {
            Ok(_) => Ok(Replaced::Done),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Replaced::Absent),
            Err(kube::Error::Api(status)) if status.code == 422 => {
                let mut causes = status.details.iter().flat_map(|details| &details.causes);
                if causes.any(|cause| cause.field == "type") {
                    return Err(self.taken(&name).into());
                }
                if is_trial {
                    // An immutable Secret of the stream.
                    return Ok(Replaced::Done);
                }
                Err(apply::failure::<Secret>("replace", &name, kube::Error::Api(status)))
            }
            Err(error) => Err(apply::failure::<Secret>("replace", &name, error)),
        }
    }

    /// The obstacle of a Secret that was not created for the stream.
    fn taken(&self, name: &str) -> Obstacle {
        let is_new = self.created.is_some_and(|created| self.now.duration_since(created) < COLLECTION_TIME);
        if is_new {
            let text = format!("waiting until Secret {name} of a deleted stream of this name is deleted");
            return Obstacle { reason: reasons::WAITING, text };
        }
        let text = format!("Secret {name} exists and was not created for the stream");
        Obstacle { reason: reasons::NAME_TAKEN, text }
    }
}

/// True for another host-agent or endpoint, or if half of the token's lifetime has passed.
fn must_renew(old: &HostAgentSecret, wanted: &HostAgentSecret) -> bool {
    let half = old.issued + old.expires.saturating_sub(old.issued) / 2;
    old.host_agent != wanted.host_agent || old.endpoint != wanted.endpoint || wanted.issued >= half
}

#[cfg(test)]
mod tests;
