//! An apiserver in memory, as far as the controllers use one: create, get, list by name, apply, merge, replace and delete
//! with preconditions, and field ownership of what was created and applied. Watches never report anything.

use std::collections::BTreeMap;
use std::sync::Arc;

use http_body_util::BodyExt as _;
use hyper::{Method, Request, Response};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use kube::Client;
use kube::client::Body;
use kube::runtime::reflector::{self, ObjectRef, store::Writer};
use kube::runtime::watcher::Event;
use operator_api::HostAgent;
use operator_api::names::FIELD_MANAGER;
use operator_plan::kubernetes::SidecarImage;
use parking_lot::Mutex;
use serde_json::{Value, json};
use stream_token::Signer;
use tokio::sync::{mpsc, watch};

use crate::calls::Calls;
use crate::context::{Context, Settings};
use crate::keys::SigningKeys;
use crate::metrics::Metrics;
use crate::stores::{Guarded, Stores};

/// The apiserver. Clones share its objects.
#[derive(Clone)]
pub struct Apiserver {
    state: Arc<Mutex<State>>,
    /// True while no request is answered.
    hangs: Arc<watch::Sender<bool>>,
    /// Plurals of kinds whose lists wait.
    late: Arc<watch::Sender<Option<&'static str>>>,
}

#[derive(Default)]
struct State {
    /// Objects by path.
    objects: BTreeMap<String, Value>,
    /// Last applied configuration, by path.
    applied: BTreeMap<String, Value>,
    /// Method and path of each request, without the query; `WATCH` for a watch.
    requests: Vec<String>,
    /// Answers in place of the usual ones: method, end of the path, status.
    refusals: Vec<(Method, &'static str, Value)>,
    version: u64,
}

impl Default for Apiserver {
    fn default() -> Self {
        Self {
            state: Arc::default(),
            hangs: Arc::new(watch::Sender::new(false)),
            late: Arc::new(watch::Sender::new(None)),
        }
    }
}

fn failure(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message})
}

impl Apiserver {
    /// A client of this apiserver.
    pub fn client(&self) -> Client {
        let this = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let this = this.clone();
            async move { Ok::<_, tower::BoxError>(this.answer(request).await) }
        });
        Client::new(service, "default")
    }

    /// Stops answering, or answers again what waits.
    pub fn hang(&self, hangs: bool) {
        self.hangs.send_replace(hangs);
    }

    /// Delays lists of a kind; `None` answers those that wait.
    pub fn delay_lists(&self, plural: Option<&'static str>) {
        self.late.send_replace(plural);
    }

    /// Answers requests of this method to paths with this end by a failure.
    pub fn refuse(&self, method: Method, end: &'static str, code: u16, message: &str) {
        self.state.lock().refusals.push((method, end, failure(code, "InternalError", message)));
    }

    /// Stores an object as another client would; returns it with UID and version.
    pub fn add(&self, path: &str, object: Value) -> Value {
        let mut state = self.state.lock();
        state.create(path, object, "kubectl");
        state.objects[path].clone()
    }

    /// Changes an object as another client would.
    pub fn change(&self, path: &str, patch: &Value) {
        let mut state = self.state.lock();
        let version = state.next_version();
        let object = state.objects.get_mut(path).expect("it exists");
        json_patch::merge(object, patch);
        object["metadata"]["resourceVersion"] = version.into();
    }

    /// Deletes an object.
    pub fn remove(&self, path: &str) {
        self.state.lock().objects.remove(path);
    }

    /// The object at this path.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().objects.get(path).cloned()
    }

    /// Requests since the last call.
    pub fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().requests)
    }

    /// Number of requests that begin with this text.
    pub fn count(&self, begin: &str) -> usize {
        self.state.lock().requests.iter().filter(|it| it.starts_with(begin)).count()
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let mut hangs = self.hangs.subscribe();
        // The sender is in `self`.
        let _open = hangs.wait_for(|hangs| !hangs).await.is_ok();
        let (head, body) = request.into_parts();
        let bytes = body.collect().await.expect("a body in memory").to_bytes();
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let (path, query) = (head.uri.path().to_owned(), head.uri.query().unwrap_or_default().to_owned());
        let kind = head.headers.get("content-type").and_then(|it| it.to_str().ok()).unwrap_or_default();
        if query.contains("watch=") {
            self.state.lock().requests.push(format!("WATCH {path}"));
            return std::future::pending().await;
        }
        let is_late = |late: Option<&str>| late.is_some_and(|plural| path.ends_with(plural));
        let mut late = self.late.subscribe();
        let _open = late.wait_for(|late| !is_late(*late)).await.is_ok();
        let mut state = self.state.lock();
        state.requests.push(format!("{} {path}", head.method));
        let answer = state.handle(&head.method, &path, &query, kind, body);
        let code = answer["code"].as_u64().filter(|_| answer["kind"] == "Status").unwrap_or(200);
        Response::builder()
            .status(code as u16)
            .body(Body::from(answer.to_string().into_bytes()))
            .expect("a response")
    }
}

impl State {
    fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    fn handle(&mut self, method: &Method, path: &str, query: &str, kind: &str, body: Value) -> Value {
        let refusal = self.refusals.iter().find(|(it, end, _)| it == method && path.ends_with(end));
        if let Some((_, _, answer)) = refusal {
            return answer.clone();
        }
        if path.ends_with("/events") {
            return body;
        }
        let path = path.trim_end_matches("/status");
        match *method {
            Method::GET => self.read(path, query),
            Method::POST => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap_or_default());
                if self.objects.contains_key(&path) {
                    return failure(409, "AlreadyExists", &format!("{path} already exists"));
                }
                self.create(&path, body, FIELD_MANAGER);
                self.objects[&path].clone()
            }
            Method::PUT => self.replace(path, body, query.contains("dryRun=All")),
            Method::PATCH if kind.contains("apply-patch") => self.apply(path, body),
            Method::PATCH => self.merge(path, &body),
            Method::DELETE => {
                let wanted = json!({"metadata": body["preconditions"]});
                if let Some(failure) = self.precondition(path, &wanted) {
                    return failure;
                }
                self.objects.remove(path).unwrap_or_default()
            }
            _ => failure(405, "MethodNotAllowed", path),
        }
    }

    fn read(&self, path: &str, query: &str) -> Value {
        if let Some(object) = self.objects.get(path) {
            return object.clone();
        }
        if path.rsplit('/').next().is_some_and(|plural| plural.ends_with('s') && !plural.contains('-')) {
            let name = query.split("metadata.name%3D").nth(1).and_then(|it| it.split('&').next());
            let begin = format!("{path}/");
            let is_listed = |(at, _): &(&String, &Value)| {
                at.strip_prefix(&begin)
                    .is_some_and(|it| !it.contains('/') && name.is_none_or(|name| it == name))
            };
            let items: Vec<&Value> =
                self.objects.iter().filter(is_listed).map(|(_, object)| object).collect();
            return json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items});
        }
        failure(404, "NotFound", &format!("{path} not found"))
    }

    fn create(&mut self, path: &str, mut object: Value, manager: &str) {
        let version = self.next_version();
        object["metadata"]["uid"] = format!("uid-{version}").into();
        object["metadata"]["resourceVersion"] = version.into();
        object["metadata"]["managedFields"] =
            json!([{"manager": manager, "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": {}}]);
        if manager == FIELD_MANAGER {
            self.applied.insert(path.to_owned(), object.clone());
        }
        self.objects.insert(path.to_owned(), object);
    }

    /// The failure of a request whose UID or version is not that of the object, or whose object does not exist.
    fn precondition(&self, path: &str, body: &Value) -> Option<Value> {
        let Some(object) = self.objects.get(path) else { return Some(failure(404, "NotFound", path)) };
        let differs = |key: &str| {
            let wanted = &body["metadata"][key];
            !wanted.is_null() && *wanted != object["metadata"][key]
        };
        (differs("uid") || differs("resourceVersion")).then(|| failure(409, "Conflict", path))
    }

    fn replace(&mut self, path: &str, mut body: Value, is_trial: bool) -> Value {
        if let Some(failure) = self.precondition(path, &body) {
            return failure;
        }
        let old = &self.objects[path];
        if path.contains("/secrets/") && old["type"] != body["type"] {
            let mut failure = failure(422, "Invalid", "type: field is immutable");
            failure["details"] =
                json!({"causes": [{"reason": "FieldValueInvalid", "message": "", "field": "type"}]});
            return failure;
        }
        body["metadata"]["uid"] = old["metadata"]["uid"].clone();
        if is_trial {
            return body;
        }
        body["metadata"]["resourceVersion"] = self.next_version().into();
        self.objects.insert(path.to_owned(), body.clone());
        body
    }

    fn merge(&mut self, path: &str, body: &Value) -> Value {
        if let Some(failure) = self.precondition(path, body) {
            return failure;
        }
        let mut object = self.objects[path].clone();
        json_patch::merge(&mut object, body);
        object["metadata"]["resourceVersion"] = self.next_version().into();
        self.objects.insert(path.to_owned(), object.clone());
        object
    }

    /// Server-side apply: fields that the former apply set and this one does not are removed, unless an entry of the
    /// operation `Update` owns them.
    fn apply(&mut self, path: &str, mut body: Value) -> Value {
        if !self.objects.contains_key(path) {
            self.create(path, json!({"metadata": {}}), "apply");
            self.objects.get_mut(path).expect("created")["metadata"]["managedFields"] = json!([]);
        } else if let Some(failure) = self.precondition(path, &body) {
            return failure;
        }
        let mut object = self.objects[path].clone();
        let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        let is_created = |it: &Value| it["manager"] == FIELD_MANAGER && it["operation"] == "Update";
        if let Some(former) = self.applied.get(path)
            && !entries.iter().any(is_created)
        {
            remove_dropped(&mut object, former, &body);
        }
        if let Some(metadata) = body["metadata"].as_object_mut() {
            metadata.remove("uid");
        }
        json_patch::merge(&mut object, &body);
        object["metadata"]["resourceVersion"] = self.next_version().into();
        self.applied.insert(path.to_owned(), body);
        self.objects.insert(path.to_owned(), object.clone());
        object
    }
}

/// Removes the fields of `former` that `next` does not have, apart from what the apiserver sets.
fn remove_dropped(object: &mut Value, former: &Value, next: &Value) {
    let (Some(object), Some(former)) = (object.as_object_mut(), former.as_object()) else { return };
    for (key, old) in former {
        let is_kept = ["uid", "resourceVersion", "managedFields"].contains(&key.as_str());
        match next.get(key) {
            None if !is_kept => drop(object.remove(key)),
            Some(new) => {
                if let Some(value) = object.get_mut(key) {
                    remove_dropped(value, old, new);
                }
            }
            None => {}
        }
    }
}

/// A context of this apiserver, and the writers of its stores.
pub struct World {
    /// The context.
    pub context: Arc<Context>,
    /// Writers of the stores that tests fill.
    pub stores: Writers,
    _queued: mpsc::UnboundedReceiver<ObjectRef<Guarded>>,
}

/// Writers of a context's stores.
pub struct Writers {
    /// Writer of the cache of pods.
    pub pods: Writer<Pod>,
    /// Writer of the cache of Services.
    pub services: Writer<Service>,
    /// Writer of the cache of Ingresses.
    pub ingresses: Writer<Ingress>,
    /// Writer of the cache of claims.
    pub claims: Writer<PersistentVolumeClaim>,
    /// Stores that stay empty.
    _others: (Writer<Guarded>, Writer<NetworkPolicy>, Writer<HostAgent>),
}

/// Reports an object to a store, as a watch would.
pub fn report<K>(writer: &mut Writer<K>, object: &Value)
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + 'static,
{
    let object: K = serde_json::from_value(object.clone()).expect("an object of the kind");
    writer.apply_watcher_event(&Event::Apply(object));
}

impl World {
    /// A context of `apiserver` with empty stores.
    pub fn new(apiserver: &Apiserver) -> Self {
        Self::with_signer(apiserver, Signer::generate().expect("a key"))
    }

    /// The same, with this signing key.
    pub fn with_signer(apiserver: &Apiserver, signer: Signer) -> Self {
        let (streams, streams_writer) = reflector::store();
        let (pods, pods_writer) = reflector::store();
        let (services, services_writer) = reflector::store();
        let (ingresses, ingresses_writer) = reflector::store();
        let (policies, policies_writer) = reflector::store();
        let (claims, claims_writer) = reflector::store();
        let (host_agents, host_agents_writer) = reflector::store();
        let stores = Stores::of_readers(streams, pods, services, ingresses, policies, claims, host_agents);
        let settings = Settings {
            namespace: "system".to_owned(),
            deployment: None,
            watch_namespace: None,
            sidecar: SidecarImage::default(),
            policy: operator_plan::validate::security::Policy::unlimited(),
            poll: std::time::Duration::from_secs(15),
            token_life: std::time::Duration::from_secs(3600),
            concurrency: 1,
        };
        let public_pem = signer.public_pem().expect("PEM");
        let keys = SigningKeys { signer, public_pem };
        let metrics = Arc::new(Metrics::new(&Calls::default()));
        let (queue, queued) = mpsc::unbounded_channel();
        let context = Context::new(apiserver.client(), settings, stores, keys, metrics, queue);
        Self {
            context: Arc::new(context),
            stores: Writers {
                pods: pods_writer,
                services: services_writer,
                ingresses: ingresses_writer,
                claims: claims_writer,
                _others: (streams_writer, policies_writer, host_agents_writer),
            },
            _queued: queued,
        }
    }
}
