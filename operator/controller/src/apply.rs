//! Creates, repairs and deletes objects.
//!
//! Objects are created by `POST`, which never changes an existing one. An object that exists is changed by server-side apply
//! if it belongs to the stream ([`provenance`]); any other object is left alone, and the user is told.
//!
//! An annotation holds the digest of what was applied. An object is applied again if the digest differs, which also finds
//! fields that are no longer wanted, or if the live object lacks a wanted field.

mod fields;
pub mod provenance;
mod refusal;

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Resource, ResourceExt};
use operator_api::conditions::reasons;
use operator_api::names;
use operator_plan::status::Obstacle;
use operator_plan::{drift, kubernetes};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use self::provenance::{Provenance, provenance};
use super::context::Context;
use super::error::Error;

/// Identity of the stream that owns an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Namespace of the stream.
    pub namespace: String,
    /// Name of the stream.
    pub name: String,
    /// UID of the stream.
    pub uid: String,
}

/// Error while an object is applied.
#[derive(Debug)]
pub enum ApplyError {
    /// Somebody has to act first, or a deleted object is not gone yet.
    Obstacle(Obstacle),
    /// The request failed; it can succeed later.
    Failed(Error),
}

impl From<Error> for ApplyError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Obstacle> for ApplyError {
    fn from(obstacle: Obstacle) -> Self {
        Self::Obstacle(obstacle)
    }
}

/// Result of applying an object.
pub type Applied<T> = Result<T, ApplyError>;

/// Kinds that the operator applies.
pub trait Kind:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// `desired` with the values of `live` that cannot or need not be changed back.
    fn fit(desired: Self, _live: &Self) -> Self {
        desired
    }
}

impl Kind for Pod {}
impl Kind for Service {}
impl Kind for Ingress {}
impl Kind for NetworkPolicy {}
impl Kind for PersistentVolumeClaim {
    fn fit(desired: Self, live: &Self) -> Self {
        kubernetes::fit_claim(desired, live)
    }
}

/// The object of this name, as the watch reports it.
pub fn find<K: Kind>(store: &Store<K>, namespace: &str, name: &str) -> Option<Arc<K>> {
    store.get(&ObjectRef::new(name).within(namespace))
}

/// Brings an object to its desired state, unless the live one already has it.
///
/// # Errors
/// [`ApplyError::Obstacle`] if the name is taken or the apiserver refuses, [`ApplyError::Failed`] otherwise.
pub async fn ensure<K: Kind>(context: &Context, owner: &Owner, store: &Store<K>, desired: &K) -> Applied<()> {
    match find(store, &owner.namespace, &desired.name_any()) {
        Some(live) if wanted(live.as_ref(), owner, desired)?.is_none() => Ok(()),
        Some(_) => update(context, owner, desired).await.map(drop),
        None => put(context, owner, desired).await.map(drop),
    }
}

/// Creates an object; brings an own one of that name to the desired state.
///
/// # Errors
/// Those of [`ensure`].
async fn put<K: Kind>(context: &Context, owner: &Owner, desired: &K) -> Applied<K> {
    match create(context, owner, desired).await? {
        Some(created) => Ok(created),
        None => update(context, owner, desired).await,
    }
}

/// Creates a pod; returns an own one of that name, which the watch has not reported yet, as it is.
///
/// # Errors
/// Those of [`ensure`].
pub async fn create_pod(context: &Context, owner: &Owner, desired: &Pod) -> Applied<Pod> {
    if let Some(created) = create(context, owner, desired).await? {
        return Ok(created);
    }
    let live = existing(context, owner, &desired.name_any()).await?;
    wanted(&live, owner, desired)?;
    Ok(live)
}

fn api<K: Kind>(context: &Context, owner: &Owner) -> Api<K> {
    Api::namespaced(context.client.clone(), &owner.namespace)
}

/// Creates an object; `None` if one of that name exists.
async fn create<K: Kind>(context: &Context, owner: &Owner, desired: &K) -> Applied<Option<K>> {
    let desired = annotated(desired);
    let name = desired.name_any();
    let params = PostParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..PostParams::default() };
    context.metrics.writes.inc();
    let error = match api::<K>(context, owner).create(&params, &desired).await {
        Ok(created) => return Ok(Some(created)),
        Err(error) => error,
    };
    let (exists, is_refused) = match &error {
        kube::Error::Api(status) => (status.is_already_exists(), status.code == 403),
        _ => (false, false),
    };
    // Admission plugins, such as that of quotas, refuse before the name is compared with those that exist.
    if exists || (is_refused && read::<K>(context, owner, &name).await?.is_some()) {
        return Ok(None);
    }
    Err(failure::<K>("create", &name, error))
}

/// Changes an existing object.
///
/// # Errors
/// Those of [`ensure`].
async fn update<K: Kind>(context: &Context, owner: &Owner, desired: &K) -> Applied<K> {
    let name = desired.name_any();
    // The cache has no managed fields, and may be older than another operator's change.
    let live: K = existing(context, owner, &name).await?;
    let Some(mut wanted) = wanted(&live, owner, desired)? else { return Ok(live) };
    // The apiserver refuses the change if another object has replaced the one that was read.
    wanted.meta_mut().uid = live.uid();
    let api = api::<K>(context, owner);
    if let Some(entries) = fields::applied(live.managed_fields()) {
        // The entries are those of this version.
        let metadata = json!({
            "uid": live.uid(), "resourceVersion": live.resource_version(), "managedFields": entries,
        });
        context.metrics.writes.inc();
        api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(json!({"metadata": metadata})))
            .await
            .map_err(|error| failure::<K>("change", &name, error))?;
    }
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    context.metrics.writes.inc();
    let mut outcome = api.patch(&name, &params, &Patch::Apply(&wanted)).await;
    if matches!(&outcome, Err(kube::Error::Api(status)) if status.code == 422) {
        // An element of another field manager in the same list, such as a Service's port of the same name, makes it
        // invalid. A merge patch replaces the whole list.
        context.metrics.writes.inc();
        let merge = PatchParams { field_manager: params.field_manager, ..PatchParams::default() };
        outcome = api.patch(&name, &merge, &Patch::Merge(&wanted)).await;
    }
    outcome.map_err(|error| failure::<K>("change", &name, error))
}

/// The object of this name from the apiserver, with its managed fields.
async fn existing<K: Kind>(context: &Context, owner: &Owner, name: &str) -> Result<K, Error> {
    let found = read(context, owner, name).await?;
    found.ok_or_else(|| Error::Vanished { kind: K::kind(&()).into_owned(), name: name.to_owned() })
}

async fn read<K: Kind>(context: &Context, owner: &Owner, name: &str) -> Result<Option<K>, Error> {
    let api = api::<K>(context, owner);
    context.metrics.reads.inc();
    let one = ListParams::default().fields(&format!("metadata.name={name}"));
    let found = api.list(&one).await.map(|all| all.items.into_iter().next());
    found.map_err(Error::api(format!("read {} {name}", K::kind(&()))))
}

/// Configuration to apply to an object of the stream; `None` if the object is as desired.
///
/// # Errors
/// If the object does not belong to the stream.
fn wanted<K: Kind>(live: &K, owner: &Owner, desired: &K) -> Result<Option<K>, Obstacle> {
    let mut desired = desired.clone();
    if check_own(live, owner)? == Provenance::Kept {
        desired.meta_mut().owner_references = None;
        let created_for = live.annotations().get(names::CREATED_FOR).cloned().unwrap_or_default();
        desired.annotations_mut().insert(names::CREATED_FOR.to_owned(), created_for);
    }
    let desired = annotated(&desired);
    let is_applied = live.annotations().get(names::APPLIED) == desired.annotations().get(names::APPLIED);
    let desired = K::fit(desired, live);
    let must_change = !is_applied || !drift::covers(live, &desired);
    Ok(must_change.then_some(desired))
}

/// Provenance of an object that the stream may use.
///
/// # Errors
/// If the object does not belong to the stream.
pub fn check_own<K: Kind>(object: &K, owner: &Owner) -> Result<Provenance, Obstacle> {
    let (kind, name) = (K::kind(&()), object.name_any());
    match provenance(object, owner) {
        found @ (Provenance::Own | Provenance::Kept) => Ok(found),
        Provenance::Remainder => {
            let text = format!("{kind} {name} of the deleted stream of this name is being deleted");
            Err(Obstacle { reason: reasons::WAITING, text })
        }
        Provenance::Foreign => {
            let text = format!("{kind} {name} exists and does not belong to the stream");
            Err(Obstacle { reason: reasons::NAME_TAKEN, text })
        }
    }
}

/// `desired` with the annotation of its digest.
fn annotated<K: Kind>(desired: &K) -> K {
    let digest = drift::digest(desired);
    let mut desired = desired.clone();
    desired.annotations_mut().insert(names::APPLIED.to_owned(), digest);
    desired
}

/// The obstacle, or the error, of a failed request.
pub fn failure<K: Resource<DynamicType = ()>>(action: &str, name: &str, error: kube::Error) -> ApplyError {
    match refusal::obstacle::<K>(name, &error) {
        Some(obstacle) => ApplyError::Obstacle(obstacle),
        None => ApplyError::Failed(Error::api(format!("{action} {} {name}", K::kind(&())))(error)),
    }
}

/// Deletes exactly this object: an object that has replaced it stays.
///
/// # Errors
/// If the apiserver does not delete it.
pub async fn delete<K: Kind>(context: &Context, object: &K) -> Result<(), Error> {
    delete_if(context, object, Preconditions { uid: object.uid(), resource_version: None }).await
}

async fn delete_if<K: Kind>(
    context: &Context,
    object: &K,
    preconditions: Preconditions,
) -> Result<(), Error> {
    let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
    let api: Api<K> = Api::namespaced(context.client.clone(), &namespace);
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    context.metrics.writes.inc();
    match api.delete(&name, &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(Error::api(format!("delete {} {name}", K::kind(&())))(error)),
    }
}

/// Deletes the objects of this kind that the stream owns, except the one named `wanted`. An object that has changed since
/// the watch reported it stays until the watch reports the change.
///
/// # Errors
/// If the apiserver does not delete one.
pub async fn sweep<K: Kind>(
    context: &Context,
    owner: &Owner,
    store: &Store<K>,
    wanted: Option<&str>,
) -> Result<(), Error> {
    let unwanted = store.state_filter(|object| {
        object.namespace().as_deref() == Some(&owner.namespace)
            && object.labels().get(names::STREAM) == Some(&owner.name)
            && object.meta().deletion_timestamp.is_none()
            && wanted != object.meta().name.as_deref()
            && provenance(object, owner) == Provenance::Own
    });
    for object in unwanted {
        let preconditions = Preconditions { uid: object.uid(), resource_version: object.resource_version() };
        delete_if(context, object.as_ref(), preconditions).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
