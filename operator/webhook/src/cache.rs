//! Streams and nodes as watches report them, for injection. A review causes no list.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Node as KubeNode;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use operator_api::{DesktopStream, names};
use operator_plan::facts::Node;
use operator_plan::kubernetes;
use tokio::task::JoinSet;

use super::inject::{self, Request};

/// A stream, or the error if the types cannot hold it.
type Guarded = DeserializeGuard<DesktopStream>;

/// Time that a review waits for the first lists after a start.
const FIRST_LIST_TIMEOUT: Duration = Duration::from_secs(2);

/// Streams, and nodes with a GPU.
pub struct Cache {
    client: Client,
    streams: Store<Guarded>,
    nodes: Store<KubeNode>,
}

impl Cache {
    /// Starts the watches, in `namespace` or in all namespaces. The tasks run until they fail; each returns its kind.
    pub fn start(client: &Client, namespace: Option<&str>) -> (Self, JoinSet<&'static str>) {
        let mut tasks = JoinSet::new();
        let api: Api<Guarded> = match namespace {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        };
        let (streams, writer) = reflector::store();
        let changes = watcher(api, watcher::Config::default())
            .default_backoff()
            .modify(|guarded| {
                guarded.managed_fields_mut().clear();
                if let Ok(stream) = &mut guarded.0 {
                    // Injection needs the spec only.
                    stream.status = None;
                }
            })
            .reflect(writer);
        tasks.spawn(async move {
            changes.for_each(|_| std::future::ready(())).await;
            "desktopstreams"
        });
        let (nodes, writer) = reflector::store();
        let with_gpu = watcher::Config::default().labels(names::NODE_RENDER_GID);
        let changes = watcher(Api::<KubeNode>::all(client.clone()), with_gpu)
            .default_backoff()
            .modify(kubernetes::slim)
            .reflect(writer);
        tasks.spawn(async move {
            changes.for_each(|_| std::future::ready(())).await;
            "nodes"
        });
        (Self { client: client.clone(), streams, nodes }, tasks)
    }

    /// The stream of `namespace` that a pod requests.
    ///
    /// # Errors
    /// If the first lists take too long after a start, or the apiserver refuses.
    pub async fn stream(&self, namespace: &str, wanted: &Request) -> anyhow::Result<Option<DesktopStream>> {
        let ready =
            async { tokio::try_join!(self.streams.wait_until_ready(), self.nodes.wait_until_ready()) };
        let ready = tokio::time::timeout(FIRST_LIST_TIMEOUT, ready).await;
        ready.context("DesktopStreams and Nodes are not listed yet; create the pod again")??;
        let known = self.streams.state();
        let known = known.iter().filter(|it| it.namespace().as_deref() == Some(namespace));
        let known = known.filter_map(|guarded: &Arc<Guarded>| guarded.0.as_ref().ok());
        if let Some(stream) = inject::choose(wanted, known) {
            return Ok(Some(stream.clone()));
        }
        // The watch may not have reported a stream that was created just before its pod.
        let Request::Named(name) = wanted else { return Ok(None) };
        let api: Api<DesktopStream> = Api::namespaced(self.client.clone(), namespace);
        let found = api.list(&ListParams::default().fields(&format!("metadata.name={name}"))).await;
        let found = found.with_context(|| format!("cannot read DesktopStream {name}"))?.items;
        Ok(inject::choose(wanted, &found).cloned())
    }

    /// Nodes with a GPU.
    pub fn nodes(&self) -> Vec<Node> {
        self.nodes.state().iter().map(|node| kubernetes::node(node)).collect()
    }
}
