//! What every reconciliation has at hand.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::runtime::events::{Recorder, Reporter};

use super::keys::Signer;
use super::memory::Memory;
use super::metrics::Metrics;
use super::stores::Stores;
use operator_api::names;
use operator_plan::kubernetes::SidecarImage;

/// What the operator is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its own namespace: signing key and Lease are there.
    pub namespace: String,
    /// The Deployment that we are a pod of.
    pub deployment: Option<String>,
    /// Watch only this namespace's streams; all if absent.
    pub watch_namespace: Option<String>,
    /// The sidecar.
    pub sidecar: SidecarImage,
    /// How often a running sidecar is asked how it does.
    pub poll: Duration,
    /// How long a token is good; renewed at half of it.
    pub token_life: Duration,
    /// Reconciliations at once.
    pub concurrency: u16,
}

/// All of it.
pub struct Context {
    /// The apiserver.
    pub client: Client,
    /// What we were told.
    pub settings: Settings,
    /// What is there, as watches say.
    pub stores: Stores,
    /// What only we know.
    pub memory: Memory,
    /// Signs tokens.
    pub signer: Signer,
    /// Writes Events.
    pub recorder: Recorder,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

impl Context {
    /// Of these.
    pub fn new(
        client: Client,
        settings: Settings,
        stores: Stores,
        memory: Memory,
        signer: Signer,
        metrics: Arc<Metrics>,
    ) -> Self {
        let recorder = Recorder::new(client.clone(), Reporter::from(names::REPORTER));
        Self { client, settings, stores, memory, signer, recorder, metrics }
    }
}
