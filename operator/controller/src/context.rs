//! Client, settings, stores and memory of all reconciliations.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::runtime::events::{Recorder, Reporter};
use operator_api::names;
use operator_plan::kubernetes::SidecarImage;
use operator_plan::validate::security::Policy;
use stream_token::Signer;

use super::keys::SigningKeys;
use super::memory::Memory;
use super::metrics::Metrics;
use super::poller::Poller;
use super::stores::{Queue, Stores};

/// Settings of the controllers.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The operator's own namespace, with signing key and Lease.
    pub namespace: String,
    /// The operator's own Deployment.
    pub deployment: Option<String>,
    /// Namespace whose streams are reconciled; all namespaces if `None`.
    pub watch_namespace: Option<String>,
    /// Image and resources of the sidecar.
    pub sidecar: SidecarImage,
    /// The administrator's limits on streams.
    pub policy: Policy,
    /// Interval between status requests to a sidecar that streams.
    pub poll: Duration,
    /// Lifetime of tokens for host-agents. A token is renewed at half of it.
    pub token_life: Duration,
    /// Number of concurrent reconciliations.
    pub concurrency: u16,
}

/// Client, settings, stores and memory of all reconciliations.
pub struct Context {
    /// Client of the apiserver.
    pub client: Client,
    /// Settings from the command line.
    pub settings: Settings,
    /// Objects as the watches report them.
    pub stores: Stores,
    /// State that no object holds.
    pub memory: Memory,
    /// Polls sidecars.
    pub poller: Poller,
    /// Signs tokens for host-agents, and for the status of sidecars.
    pub signer: Arc<Signer>,
    /// Public keys in PEM, by which sidecars verify tokens for their status.
    pub status_keys: String,
    /// Writes Events.
    pub recorder: Recorder,
    /// Metrics of this process.
    pub metrics: Arc<Metrics>,
}

impl Context {
    /// Makes a context with an empty memory. Streams with news are sent to `queue`.
    pub fn new(
        client: Client,
        settings: Settings,
        stores: Stores,
        keys: SigningKeys,
        metrics: Arc<Metrics>,
        queue: Queue,
    ) -> Self {
        let recorder = Recorder::new(client.clone(), Reporter::from(names::REPORTER));
        let SigningKeys { signer, public_pem } = keys;
        let signer = Arc::new(signer);
        let poller = Poller::new(queue, settings.poll, Arc::clone(&signer));
        Self {
            client,
            settings,
            stores,
            memory: Memory::default(),
            poller,
            signer,
            status_keys: public_pem,
            recorder,
            metrics,
        }
    }
}
