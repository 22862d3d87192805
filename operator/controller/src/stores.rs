//! What is there, as watches say: one store per kind, and a queue of the streams that a change concerns.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Node as KubeNode, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;

use operator_api::{DesktopStream, HostAgent, names};
use operator_plan::facts::Node;
use operator_plan::kubernetes;

/// A stream whose spec may not even be of our types: such a one waits for its next edit, the rest go on.
pub type Guarded = DeserializeGuard<DesktopStream>;
/// Where a reconciliation is asked for.
pub type Queue = UnboundedSender<ObjectRef<Guarded>>;

/// The stores.
pub struct Stores {
    /// Streams.
    pub streams: Store<Guarded>,
    /// Pods that bear a stream's label.
    pub pods: Store<Pod>,
    /// Our Services.
    pub services: Store<Service>,
    /// Our Ingresses.
    pub ingresses: Store<Ingress>,
    /// Our NetworkPolicies.
    pub policies: Store<NetworkPolicy>,
    /// Our claims.
    pub claims: Store<PersistentVolumeClaim>,
    /// HostAgents.
    pub host_agents: Store<HostAgent>,
    /// Nodes, as `plan` sees them.
    nodes: Arc<Mutex<HashMap<String, Node>>>,
}

impl Stores {
    /// Starts all watches in `tasks`; none of them ends by itself.
    pub fn start(
        client: &Client,
        namespace: Option<&str>,
        queue: &Queue,
        tasks: &mut JoinSet<&'static str>,
    ) -> Self {
        let watch = Watches { client, namespace, queue };
        let streams = watch.streams(tasks);
        let nodes = Arc::default();
        watch.nodes(&streams, &nodes, tasks);
        Self {
            pods: watch.labelled("pods", tasks),
            services: watch.labelled("services", tasks),
            ingresses: watch.labelled("ingresses", tasks),
            policies: watch.labelled("networkpolicies", tasks),
            claims: watch.labelled("persistentvolumeclaims", tasks),
            host_agents: watch.host_agents(&streams, tasks),
            streams,
            nodes,
        }
    }

    /// Waits until every kind has been listed once.
    pub async fn ready(&self) -> Result<(), super::error::Error> {
        let gone = |_| super::error::Error::Watch;
        self.pods.wait_until_ready().await.map_err(gone)?;
        self.services.wait_until_ready().await.map_err(gone)?;
        self.ingresses.wait_until_ready().await.map_err(gone)?;
        self.policies.wait_until_ready().await.map_err(gone)?;
        self.claims.wait_until_ready().await.map_err(gone)?;
        self.host_agents.wait_until_ready().await.map_err(gone)?;
        self.streams.wait_until_ready().await.map_err(gone)
    }

    /// All nodes.
    pub fn nodes(&self) -> Vec<Node> {
        let all = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut nodes: Vec<Node> = all.values().cloned().collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        nodes
    }
}

struct Watches<'w> {
    client: &'w Client,
    namespace: Option<&'w str>,
    queue: &'w Queue,
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

    /// A spec or an annotation that changed concerns the stream itself; a status is our own doing.
    fn streams(&self, tasks: &mut JoinSet<&'static str>) -> Store<Guarded> {
        let (store, writer) = reflector::store();
        let queue = self.queue.clone();
        let api: Api<Guarded> = self.api();
        let changes =
            watcher(api, watcher::Config::default()).default_backoff().reflect(writer).applied_objects();
        tasks.spawn(async move {
            let mut seen: HashMap<String, (Option<i64>, u64)> = HashMap::new();
            let mut changes = std::pin::pin!(changes);
            while let Some(change) = changes.next().await {
                let Some(stream) = heard(change, "desktopstreams") else { continue };
                let reference = ObjectRef::from_obj(&stream);
                let uid = stream.uid().unwrap_or_default();
                let now = (stream.meta().generation, digest(stream.annotations()));
                if seen.insert(uid, now) != Some(now) && queue.send(reference).is_err() {
                    break;
                }
            }
            "desktopstreams"
        });
        store
    }

    /// Kinds whose objects bear the stream's label.
    fn labelled<K>(&self, what: &'static str, tasks: &mut JoinSet<&'static str>) -> Store<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        let (store, writer) = reflector::store();
        let queue = self.queue.clone();
        let config = watcher::Config::default().labels(names::STREAM);
        let changes = watcher(self.api::<K>(), config)
            .default_backoff()
            .modify(|object| object.managed_fields_mut().clear())
            .reflect(writer)
            .touched_objects();
        tasks.spawn(async move {
            let mut changes = std::pin::pin!(changes);
            while let Some(change) = changes.next().await {
                let Some(object) = heard(change, what) else { continue };
                let (Some(stream), Some(namespace)) =
                    (object.labels().get(names::STREAM), object.namespace())
                else {
                    continue;
                };
                if queue.send(ObjectRef::new(stream).within(&namespace)).is_err() {
                    break;
                }
            }
            what
        });
        store
    }

    /// A node that gains or loses a device or a host-agent concerns all streams.
    fn nodes(
        &self,
        streams: &Store<Guarded>,
        nodes: &Arc<Mutex<HashMap<String, Node>>>,
        tasks: &mut JoinSet<&'static str>,
    ) {
        let (queue, streams, nodes) = (self.queue.clone(), streams.clone(), Arc::clone(nodes));
        let api: Api<KubeNode> = Api::all(self.client.clone());
        let changes = watcher(api, watcher::Config::default()).default_backoff().modify(kubernetes::slim);
        tasks.spawn(async move {
            let mut changes = std::pin::pin!(changes);
            let mut fresh: HashMap<String, Node> = HashMap::new();
            while let Some(change) = changes.next().await {
                let Some(event) = heard(change, "nodes") else { continue };
                let mut all = nodes.lock().unwrap_or_else(PoisonError::into_inner);
                let changed = match event {
                    watcher::Event::Init => {
                        fresh.clear();
                        false
                    }
                    watcher::Event::InitApply(node) => {
                        let node = read_node(&node);
                        fresh.insert(node.name.clone(), node);
                        false
                    }
                    watcher::Event::InitDone => {
                        let fresh = std::mem::take(&mut fresh);
                        std::mem::replace(&mut *all, fresh.clone()) != fresh
                    }
                    watcher::Event::Apply(node) => {
                        let node = read_node(&node);
                        all.insert(node.name.clone(), node.clone()) != Some(node)
                    }
                    watcher::Event::Delete(node) => all.remove(&node.name_any()).is_some(),
                };
                drop(all);
                if changed {
                    concern_all(&streams, &queue);
                }
            }
            "nodes"
        });
    }

    /// A HostAgent whose spec or labels change concerns all streams; its status is our own doing.
    fn host_agents(&self, streams: &Store<Guarded>, tasks: &mut JoinSet<&'static str>) -> Store<HostAgent> {
        let (store, writer) = reflector::store();
        let (queue, streams) = (self.queue.clone(), streams.clone());
        let api: Api<HostAgent> = Api::all(self.client.clone());
        let changes = watcher(api, watcher::Config::default()).default_backoff().reflect(writer);
        tasks.spawn(async move {
            let mut changes = std::pin::pin!(changes);
            let mut seen: HashMap<String, (Option<i64>, u64)> = HashMap::new();
            while let Some(change) = changes.next().await {
                let Some(event) = heard(change, "hostagents") else { continue };
                let changed = match event {
                    watcher::Event::Apply(agent) | watcher::Event::InitApply(agent) => {
                        let now = (agent.meta().generation, digest(agent.labels()));
                        seen.insert(agent.name_any(), now) != Some(now)
                    }
                    watcher::Event::Delete(agent) => seen.remove(&agent.name_any()).is_some(),
                    watcher::Event::Init | watcher::Event::InitDone => true,
                };
                if changed {
                    concern_all(&streams, &queue);
                }
            }
            "hostagents"
        });
        store
    }
}

fn read_node(node: &KubeNode) -> Node {
    if let Err(error) = kubernetes::facts(node) {
        tracing::warn!(node = node.name_any(), %error, "node facts are not readable; update the node-agent");
    }
    kubernetes::node(node)
}

/// What a watch said; its troubles pass, and are said once each.
fn heard<T>(change: Result<T, watcher::Error>, what: &str) -> Option<T> {
    change.map_err(|error| tracing::warn!(%error, what, "a watch was interrupted; it goes on")).ok()
}

fn concern_all(streams: &Store<Guarded>, queue: &Queue) {
    for stream in streams.state() {
        // Nobody listens any more when the process ends.
        let _closed = queue.send(ObjectRef::from_obj(&*stream));
    }
}

fn digest<T: Hash>(value: &T) -> u64 {
    use std::hash::Hasher;
    let mut hasher = std::hash::DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
