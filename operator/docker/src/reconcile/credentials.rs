//! Gives the sidecar its files: the viewers' tokens, the host-agent's endpoint and a token for it.

use std::collections::BTreeMap;

use contract::Endpoint;
use contract::names::{ENDPOINT_FILE, TLS_KEY_FILE, TOKEN_FILE, VIEW_ONLY_TOKEN_FILE};
use operator_api::names::SECRETS_DIR;
use operator_plan::kubernetes::ViewerTokens;
use operator_plan::pair::Pairing;
use operator_plan::workload::Workload;
use stream_token::Credentials;

use super::Pass;
use super::apply::ApplyError;
use super::memory::{IssuedToken, Upload};
use crate::archive;
use crate::names::Role;
use crate::render;

impl Pass<'_> {
    /// Uploads the files unless the container has them already. `created`: the container was created in this pass.
    pub(super) async fn upload_credentials(
        &self,
        workload: &Workload,
        pairing: &Pairing,
        created: bool,
    ) -> Result<(), ApplyError> {
        let mut files = BTreeMap::new();
        if workload.uses_viewer_token {
            let tokens = self.context.folder.ensure_viewer_tokens(&self.key.stream);
            let ViewerTokens { control, view_only } = tokens.map_err(ApplyError::Internal)?;
            files.insert(format!("viewer/{TOKEN_FILE}"), control);
            files.insert(format!("viewer/{VIEW_ONLY_TOKEN_FILE}"), view_only);
        }
        if workload.uses_host_agent {
            // Empty files replace those of a former pairing.
            let credentials = self.host_agent_credentials(pairing).await?.unwrap_or_default();
            files.insert(format!("host-agent/{ENDPOINT_FILE}"), credentials.endpoint);
            files.insert(format!("host-agent/{TOKEN_FILE}"), credentials.token);
            files.insert(format!("host-agent/{TLS_KEY_FILE}"), credentials.key);
        }
        let existing = self.world.view.container(&self.key, Role::Sidecar).filter(|_| !created);
        let upload =
            existing.map(|container| Upload { container_id: container.id.clone(), files: files.clone() });
        if upload.is_some() && self.memory().upload == upload {
            return Ok(());
        }
        let archive = archive::files(&files).map_err(|error| ApplyError::Internal(error.into()))?;
        self.context.engine.upload(&self.key.object(Role::Sidecar), SECRETS_DIR, archive).await?;
        // The ID of a container that was created in this pass is unknown; the next pass uploads again.
        self.update_memory(|memory| memory.upload = upload);
        Ok(())
    }

    /// Endpoint, token and key of the paired host-agent; `None` if there is none. Renews the token at half of its lifetime.
    async fn host_agent_credentials(
        &self,
        pairing: &Pairing,
    ) -> Result<Option<HostAgentCredentials>, ApplyError> {
        let Pairing::Paired { host_agent, endpoint: Some(endpoint) } = pairing else { return Ok(None) };
        let now = self.now.as_second().max(0).cast_unsigned();
        let issued = self
            .memory()
            .token
            .filter(|it| it.host_agent == *host_agent && it.endpoint == *endpoint && now < it.renew_at);
        let (token, key) = match issued {
            Some(issued) => (issued.token, issued.key),
            None => self.issue_token(host_agent, endpoint, now)?,
        };
        let network = self.world.network.lock().await.clone();
        let gateway = network.and_then(|network| network.gateway);
        let endpoint = render::endpoint_in_container(endpoint, gateway.as_deref()).to_string();
        Ok(Some(HostAgentCredentials { endpoint, token, key }))
    }

    /// Signs a token, and returns it with the key that it is bound to. The key is empty for a plaintext endpoint.
    fn issue_token(
        &self,
        host_agent: &str,
        endpoint: &Endpoint,
        now: u64,
    ) -> Result<(String, String), ApplyError> {
        let life = self.context.token_life.as_secs();
        let (id, uid) = (self.valid.id(), &self.valid.uid);
        let made =
            self.context.signer.credentials((&id, uid), (host_agent, endpoint), now, life.cast_signed());
        let Credentials { token, key } = made.map_err(|error| ApplyError::Internal(error.into()))?;
        let key = key.unwrap_or_default();
        let issued = IssuedToken {
            host_agent: host_agent.to_owned(),
            endpoint: endpoint.clone(),
            token: token.clone(),
            key: key.clone(),
            renew_at: now + life / 2,
        };
        self.update_memory(|memory| memory.token = Some(issued));
        Ok((token, key))
    }
}

/// Content of the files for the host-agent.
#[derive(Default)]
struct HostAgentCredentials {
    endpoint: String,
    token: String,
    key: String,
}
