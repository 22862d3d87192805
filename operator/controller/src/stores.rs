//! Watches: one store per kind, and a queue of the streams that a change concerns.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, TryFutureExt as _};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Node as KubeNode, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use kube::core::DeserializeGuard;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use operator_api::{DesktopStream, HostAgent, names};
use operator_plan::facts::Node;
use operator_plan::kubernetes;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::error::Error;

/// A stream, or the error if the types cannot hold it. Such a stream waits for its next change; the others continue.
pub type Guarded = DeserializeGuard<DesktopStream>;
/// Queue of streams to reconcile.
pub type Queue = UnboundedSender<ObjectRef<Guarded>>;
/// Tasks that run until they fail; each returns its name.
pub type Tasks = JoinSet<&'static str>;

/// Nodes by name.
type Nodes = Arc<Mutex<HashMap<String, Node>>>;
/// Ends when a watch has listed its objects once; an error if the watch ended before.
type Listed = BoxFuture<'static, Result<(), Error>>;

/// Objects as the watches report them.
pub struct Stores {
    /// All streams.
    pub streams: Store<Guarded>,
    /// Pods with a stream's label.
    pub pods: Store<Pod>,
    /// Services with a stream's label.
    pub services: Store<Service>,
    /// Ingresses with a stream's label.
    pub ingresses: Store<Ingress>,
    /// NetworkPolicies with a stream's label.
    pub policies: Store<NetworkPolicy>,
    /// Claims with a stream's label.
    pub claims: Store<PersistentVolumeClaim>,
    /// All HostAgents.
    pub host_agents: Store<HostAgent>,
    nodes: Nodes,
}

/// Stores whose watches may not have listed all objects yet. They cannot be read: a host-agent or a node that is missing in
/// an incomplete cache looks as if it were gone.
pub struct Filling {
    stores: Stores,
    listed: Vec<Listed>,
}

impl Filling {
    /// Waits until every kind has been listed once.
    ///
    /// # Errors
    /// If a watch ended.
    pub async fn filled(self) -> Result<Stores, Error> {
        futures_util::future::try_join_all(self.listed).await?;
        Ok(self.stores)
    }
}

impl Stores {
    /// Starts all watches as tasks that do not end by themselves.
    pub fn start(client: &Client, namespace: Option<&str>, queue: &Queue, tasks: &mut Tasks) -> Filling {
        let mut watches = Watches { client, namespace, queue, tasks, listed: Vec::new() };
        let streams = watches.streams();
        let nodes = watches.nodes(&streams);
        let stores = Self {
            pods: watches.labelled("pods"),
            services: watches.labelled("services"),
            ingresses: watches.labelled("ingresses"),
            policies: watches.labelled("networkpolicies"),
            claims: watches.labelled("persistentvolumeclaims"),
            host_agents: watches.host_agents(&streams),
            streams,
            nodes,
        };
        Filling { stores, listed: watches.listed }
    }

    /// Stores whose writers the caller has, without nodes.
    #[cfg(test)]
    pub fn of_readers(
        streams: Store<Guarded>,
        pods: Store<Pod>,
        services: Store<Service>,
        ingresses: Store<Ingress>,
        policies: Store<NetworkPolicy>,
        claims: Store<PersistentVolumeClaim>,
        host_agents: Store<HostAgent>,
    ) -> Self {
        let nodes = Nodes::default();
        Self { streams, pods, services, ingresses, policies, claims, host_agents, nodes }
    }

    /// All nodes, sorted by name.
    pub fn nodes(&self) -> Vec<Node> {
        let mut nodes: Vec<Node> = self.nodes.lock().values().cloned().collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        nodes
    }
}

/// Generation and digest of an object: changes in neither do not matter.
type Fingerprint = (Option<i64>, u64);

struct Watches<'w> {
    client: &'w Client,
    namespace: Option<&'w str>,
    queue: &'w Queue,
    tasks: &'w mut Tasks,
    /// One entry per watch.
    listed: Vec<Listed>,
}

impl Watches<'_> {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    /// A store that [`Filling::filled`] waits for.
    fn store<K>(&mut self) -> (Store<K>, Writer<K>)
    where
        K: reflector::Lookup<DynamicType = ()> + Clone + Send + Sync + 'static,
    {
        let (store, writer) = reflector::store();
        let reader = store.clone();
        self.listed.push(async move { reader.wait_until_ready().await.map_err(|_| Error::Watch) }.boxed());
        (store, writer)
    }

    /// Queues a stream when its spec or annotations change. Changes of its status come from the operator itself.
    fn streams(&mut self) -> Store<Guarded> {
        let (store, writer) = self.store();
        let queue = self.queue.clone();
        let api: Api<Guarded> = self.api();
        let changes =
            watcher(api, watcher::Config::default()).default_backoff().reflect(writer).applied_objects();
        self.tasks.spawn(async move {
            let mut seen: HashMap<String, Fingerprint> = HashMap::new();
            let mut changes = std::pin::pin!(changes);
            while let Some(change) = changes.next().await {
                let Some(stream) = received(change, "desktopstreams") else { continue };
                let reference = ObjectRef::from_obj(&stream);
                let uid = stream.uid().unwrap_or_default();
                let fingerprint = (stream.meta().generation, digest(stream.annotations()));
                let is_changed = seen.insert(uid, fingerprint) != Some(fingerprint);
                if is_changed && queue.send(reference).is_err() {
                    break;
                }
            }
            "desktopstreams"
        });
        store
    }

    /// Queues the stream that an object's label names.
    fn labelled<K>(&mut self, kind: &'static str) -> Store<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        let (store, writer) = self.store();
        let queue = self.queue.clone();
        let config = watcher::Config::default().labels(names::STREAM);
        let changes = watcher(self.api::<K>(), config)
            .default_backoff()
            .modify(|object| object.managed_fields_mut().clear())
            .reflect(writer)
            .touched_objects();
        self.tasks.spawn(async move {
            let mut changes = std::pin::pin!(changes);
            while let Some(change) = changes.next().await {
                let Some(object) = received(change, kind) else { continue };
                let (Some(stream), Some(namespace)) =
                    (object.labels().get(names::STREAM), object.namespace())
                else {
                    continue;
                };
                if queue.send(ObjectRef::new(stream).within(&namespace)).is_err() {
                    break;
                }
            }
            kind
        });
        store
    }

    /// Queues all streams when a node gains or loses a device or a host-agent.
    fn nodes(&mut self, streams: &Store<Guarded>) -> Nodes {
        let all = Nodes::default();
        let (queue, streams, nodes) = (self.queue.clone(), streams.clone(), Arc::clone(&all));
        let (listed, first_list) = oneshot::channel();
        self.listed.push(first_list.map_err(|_| Error::Watch).boxed());
        let api: Api<KubeNode> = Api::all(self.client.clone());
        let changes = watcher(api, watcher::Config::default()).default_backoff().modify(kubernetes::slim);
        self.tasks.spawn(async move {
            let mut listed = Some(listed);
            let mut changes = std::pin::pin!(changes);
            let mut listing: HashMap<String, Node> = HashMap::new();
            while let Some(change) = changes.next().await {
                let Some(event) = received(change, "nodes") else { continue };
                let is_complete = matches!(event, watcher::Event::InitDone);
                if apply_node_event(&mut nodes.lock(), &mut listing, event) {
                    queue_all(&streams, &queue);
                }
                if let Some(listed) = listed.take_if(|_| is_complete) {
                    // The receiver is dropped only when the operator stops.
                    let _stopped = listed.send(());
                }
            }
            "nodes"
        });
        all
    }

    /// Queues all streams when the spec or the labels of a HostAgent change. Changes of its status come from the operator
    /// itself.
    fn host_agents(&mut self, streams: &Store<Guarded>) -> Store<HostAgent> {
        let (store, writer) = self.store();
        let (queue, streams) = (self.queue.clone(), streams.clone());
        let api: Api<HostAgent> = Api::all(self.client.clone());
        let changes = watcher(api, watcher::Config::default()).default_backoff().reflect(writer);
        self.tasks.spawn(async move {
            let mut changes = std::pin::pin!(changes);
            let mut seen: HashMap<String, Fingerprint> = HashMap::new();
            while let Some(change) = changes.next().await {
                let Some(event) = received(change, "hostagents") else { continue };
                let is_changed = match event {
                    watcher::Event::Apply(agent) | watcher::Event::InitApply(agent) => {
                        let fingerprint = (agent.meta().generation, digest(agent.labels()));
                        seen.insert(agent.name_any(), fingerprint) != Some(fingerprint)
                    }
                    watcher::Event::Delete(agent) => seen.remove(&agent.name_any()).is_some(),
                    watcher::Event::Init | watcher::Event::InitDone => true,
                };
                if is_changed {
                    queue_all(&streams, &queue);
                }
            }
            "hostagents"
        });
        store
    }
}

/// Applies a watch event to `nodes`; `listing` collects the nodes of a list until it is complete. True if the event
/// changed a node.
fn apply_node_event(
    nodes: &mut HashMap<String, Node>,
    listing: &mut HashMap<String, Node>,
    event: watcher::Event<KubeNode>,
) -> bool {
    match event {
        watcher::Event::Init => {
            listing.clear();
            false
        }
        watcher::Event::InitApply(node) => {
            let node = read_node(&node);
            listing.insert(node.name.clone(), node);
            false
        }
        watcher::Event::InitDone => {
            let listed = std::mem::take(listing);
            let is_changed = *nodes != listed;
            *nodes = listed;
            is_changed
        }
        watcher::Event::Apply(node) => {
            let node = read_node(&node);
            nodes.insert(node.name.clone(), node.clone()) != Some(node)
        }
        watcher::Event::Delete(node) => nodes.remove(&node.name_any()).is_some(),
    }
}

fn read_node(node: &KubeNode) -> Node {
    if let Err(error) = kubernetes::facts(node) {
        tracing::warn!(node = node.name_any(), %error, "node facts not readable; update the node-agent");
    }
    kubernetes::node(node)
}

/// Item of a watch, or `None` after an interruption, which the watcher retries.
fn received<T>(change: Result<T, watcher::Error>, kind: &str) -> Option<T> {
    change.map_err(|error| tracing::warn!(%error, kind, "watch interrupted; retrying")).ok()
}

fn queue_all(streams: &Store<Guarded>, queue: &Queue) {
    for stream in streams.state() {
        // The queue is closed only when the operator stops.
        let _closed = queue.send(ObjectRef::from_obj(&*stream));
    }
}

fn digest<T: Hash>(value: &T) -> u64 {
    use std::hash::Hasher;
    let mut hasher = std::hash::DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Apiserver;

    fn node(name: &str, ready: bool) -> KubeNode {
        let status = if ready { "True" } else { "False" };
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": status}]},
        }))
        .expect("a node")
    }

    /// Kinds that are watched.
    const KINDS: [&str; 8] = [
        "desktopstreams",
        "nodes",
        "pods",
        "services",
        "ingresses",
        "networkpolicies",
        "persistentvolumeclaims",
        "hostagents",
    ];

    /// A kind is watched once its list is in the cache.
    async fn await_watches(apiserver: &Apiserver, count: usize) {
        let all = async {
            while apiserver.count("WATCH") < count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), all)
            .await
            .expect("the other kinds are listed");
    }

    #[tokio::test]
    async fn stores_are_not_filled_until_every_kind_was_listed() {
        for late in KINDS {
            let apiserver = Apiserver::default();
            apiserver.delay_lists(Some(late));
            let mut tasks = Tasks::new();
            let (queue, _queued) = tokio::sync::mpsc::unbounded_channel();
            let filling = Stores::start(&apiserver.client(), None, &queue, &mut tasks);
            let mut filled = std::pin::pin!(filling.filled());
            await_watches(&apiserver, KINDS.len() - 1).await;
            assert!((&mut filled).now_or_never().is_none(), "filled without {late}");
            apiserver.delay_lists(None);
            let filled = tokio::time::timeout(std::time::Duration::from_secs(60), filled).await;
            assert!(filled.is_ok_and(|it| it.is_ok()), "{late} was listed");
        }
    }

    #[test]
    fn node_event_counts_as_a_change_only_if_the_node_differs() {
        let (mut nodes, mut listing) = (HashMap::new(), HashMap::new());
        let mut apply = |event| apply_node_event(&mut nodes, &mut listing, event);
        assert!(!apply(watcher::Event::Init));
        assert!(!apply(watcher::Event::InitApply(node("n1", true))), "the list is not complete");
        assert!(apply(watcher::Event::InitDone));
        assert!(!apply(watcher::Event::Apply(node("n1", true))));
        assert!(apply(watcher::Event::Apply(node("n1", false))));
        assert!(!apply(watcher::Event::Init));
        assert!(!apply(watcher::Event::InitApply(node("n1", false))));
        assert!(!apply(watcher::Event::InitDone), "the same nodes again");
        assert!(apply(watcher::Event::Delete(node("n1", false))));
        assert!(!apply(watcher::Event::Delete(node("n1", false))));
    }
}
