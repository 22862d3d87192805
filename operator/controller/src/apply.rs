//! Creates, repairs and deletes objects.
//!
//! Server-side apply with one field manager. An object that is not in the watch cache is applied without force: if another
//! owner has an object of that name, the fields conflict and the user is told. A cached object of the stream is applied
//! with force.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::Status;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Resource, ResourceExt};
use operator_api::conditions::reasons;
use operator_api::names;
use operator_plan::drift;
use operator_plan::status::Obstacle;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::context::Context;
use super::error::Error;

/// Cause of a conflict between field managers (`metav1.CauseTypeFieldManagerConflict`).
const FIELD_MANAGER_CONFLICT: &str = "FieldManagerConflict";
/// Cause of a refusal in a namespace that is being deleted (`v1.NamespaceTerminatingCause`).
const NAMESPACE_TERMINATING: &str = "NamespaceTerminating";

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
    /// Somebody has to act first.
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
}
impl<K> Kind for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// The object of this name, as the watch reports it.
pub fn find<K: Kind>(store: &Store<K>, namespace: &str, name: &str) -> Option<Arc<K>> {
    store.get(&ObjectRef::new(name).within(namespace))
}

/// True if `owner` owns the object, or if it was kept for a stream of that name.
pub fn is_owned<K: Kind>(object: &K, owner: &Owner) -> bool {
    if let Some(controller) = object.owner_references().iter().find(|it| it.controller == Some(true)) {
        return controller.uid == owner.uid;
    }
    let label = |key: &str| object.labels().get(key).map(String::as_str);
    label(names::MANAGED_BY) == Some(names::MANAGER) && label(names::STREAM) == Some(&owner.name)
}

/// Applies `desired` unless the live object already matches it.
///
/// # Errors
/// [`ApplyError::Obstacle`] if user action is needed, [`ApplyError::Failed`] otherwise.
pub async fn ensure<K: Kind>(context: &Context, owner: &Owner, store: &Store<K>, desired: &K) -> Applied<()> {
    let name = desired.name_any();
    let live = find(store, &owner.namespace, &name);
    match &live {
        Some(live) if !is_owned(live.as_ref(), owner) => return Err(name_taken::<K>(&name).into()),
        Some(live) if drift::covers(live.as_ref(), desired) && !must_release(live.as_ref(), desired) => {
            return Ok(());
        }
        _ => {}
    }
    apply(context, owner, desired, live.is_some()).await.map(drop)
}

/// True if the live object has an owner and the desired one has none: a home volume that is to be kept from now on.
/// Applying an object without the field removes it.
fn must_release<K: Kind>(live: &K, desired: &K) -> bool {
    desired.owner_references().is_empty() && !live.owner_references().is_empty()
}

/// Applies `desired` without comparing it first.
///
/// # Errors
/// [`ApplyError::Obstacle`] if user action is needed, [`ApplyError::Failed`] otherwise.
pub async fn apply<K: Kind>(context: &Context, owner: &Owner, desired: &K, force: bool) -> Applied<K> {
    let name = desired.name_any();
    let api: Api<K> = Api::namespaced(context.client.clone(), &owner.namespace);
    let params = PatchParams { force, ..PatchParams::apply(names::FIELD_MANAGER) };
    context.metrics.writes.inc();
    let mut outcome = api.patch(&name, &params, &Patch::Apply(desired)).await;
    if force && matches!(&outcome, Err(kube::Error::Api(status)) if status.code == 422) {
        // An element of another field manager in the same list, such as a Service's port of the same name, makes it
        // invalid. A merge patch replaces the whole list.
        context.metrics.writes.inc();
        let merge = PatchParams { field_manager: params.field_manager, ..PatchParams::default() };
        outcome = api.patch(&name, &merge, &Patch::Merge(desired)).await;
    }
    outcome.map_err(|error| match obstacle::<K>(&name, &error) {
        Some(obstacle) => ApplyError::Obstacle(obstacle),
        None => ApplyError::Failed(Error::api(format!("apply {} {name}", K::kind(&())))(error)),
    })
}

fn name_taken<K: Kind>(name: &str) -> Obstacle {
    let text = format!("{} {name} exists and does not belong to the stream", K::kind(&()));
    Obstacle { reason: reasons::NAME_TAKEN, text }
}

/// The obstacle that an API error reports; `None` if the request can succeed later.
fn obstacle<K: Kind>(name: &str, error: &kube::Error) -> Option<Obstacle> {
    let kube::Error::Api(status) = error else { return None };
    let reason = match status.code {
        409 if has_cause(status, FIELD_MANAGER_CONFLICT) => return Some(name_taken::<K>(name)),
        // The stream is deleted with its namespace.
        403 if has_cause(status, NAMESPACE_TERMINATING) => return None,
        // The quota admission plugin names itself only in the message.
        403 if status.message.contains("exceeded quota") || status.message.contains("failed quota") => {
            reasons::QUOTA
        }
        400 | 403 | 422 => reasons::REFUSED,
        _ => return None,
    };
    Some(Obstacle { reason, text: format!("{} {name}: {}", K::kind(&()), status.message) })
}

fn has_cause(status: &Status, reason: &str) -> bool {
    status.details.iter().flat_map(|details| &details.causes).any(|cause| cause.reason == reason)
}

/// Deletes exactly this object: an object that has replaced it stays.
///
/// # Errors
/// If the apiserver does not delete it.
pub async fn delete<K: Kind>(context: &Context, object: &K) -> Result<(), Error> {
    let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
    let api: Api<K> = Api::namespaced(context.client.clone(), &namespace);
    let preconditions = Preconditions { uid: object.uid(), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    context.metrics.writes.inc();
    match api.delete(&name, &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(Error::api(format!("delete {} {name}", K::kind(&())))(error)),
    }
}

/// Deletes the objects of this kind that belong to the stream, except the one named `wanted`.
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
            && is_owned(object, owner)
    });
    for object in unwanted {
        delete(context, object.as_ref()).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
    use operator_plan::testing::validated;
    use serde_json::{Value, json};

    use super::*;

    /// Reason of the obstacle that an API error with this body reports.
    fn reason(status: &Value) -> Option<&'static str> {
        let status: Status = serde_json::from_value(status.clone()).expect("a status");
        obstacle::<Pod>("p", &kube::Error::Api(status.boxed())).map(|obstacle| obstacle.reason.name)
    }

    #[test]
    fn api_error_that_needs_user_action_is_an_obstacle() {
        let quota = "pods \"p\" is forbidden: exceeded quota: q, requested: pods=1";
        assert_eq!(reason(&json!({"code": 403, "message": quota})), Some("QuotaExceeded"));
        let security = "pods \"p\" is forbidden: violates PodSecurity \"restricted:latest\"";
        assert_eq!(reason(&json!({"code": 403, "message": security})), Some("ObjectRefused"));
        assert_eq!(reason(&json!({"code": 422, "message": "Pod \"p\" is invalid"})), Some("ObjectRefused"));
        let causes = json!([{"reason": "FieldManagerConflict", "message": "conflict with \"kubectl\""}]);
        let conflict =
            json!({"code": 409, "message": "m", "reason": "Conflict", "details": {"causes": causes}});
        assert_eq!(reason(&conflict), Some("NameTaken"));
    }

    #[test]
    fn api_error_that_passes_by_itself_is_not_an_obstacle() {
        for code in [409, 500, 503, 404] {
            assert_eq!(reason(&json!({"code": code, "message": "the object has been modified"})), None);
        }
        let terminating = json!({"causes": [{"reason": "NamespaceTerminating", "message": "m"}]});
        assert_eq!(reason(&json!({"code": 403, "message": "m", "details": terminating})), None);
    }

    #[test]
    fn home_claim_that_is_to_be_kept_is_applied_to_remove_its_owner() {
        let claim = |on_delete: &str| {
            let changes = json!({"spec": {"desktop": {"home": {"size": "1Gi", "onDelete": on_delete}}}});
            operator_plan::kubernetes::objects(&validated(&changes)).home.expect("a claim")
        };
        let (owned, kept) = (claim("Delete"), claim("Keep"));
        assert!(drift::covers(&owned, &kept), "no field is missing");
        assert!(must_release(&owned, &kept));
        assert!(!must_release(&kept, &kept) && !must_release(&kept, &owned));
    }

    #[test]
    fn object_is_owned_by_uid_or_kept_by_label() {
        let desk = Owner { namespace: "team".to_owned(), name: "desk".to_owned(), uid: "u-1".to_owned() };
        let object = |metadata| -> PersistentVolumeClaim {
            serde_json::from_value(json!({"metadata": metadata})).expect("a claim")
        };
        let owner =
            |uid| json!([{"apiVersion": "v", "kind": "k", "name": "n", "uid": uid, "controller": true}]);
        let labels = json!({names::MANAGED_BY: names::MANAGER, names::STREAM: "desk"});
        assert!(is_owned(&object(json!({"ownerReferences": owner("u-1")})), &desk));
        assert!(!is_owned(&object(json!({"ownerReferences": owner("u-0"), "labels": labels})), &desk));
        assert!(is_owned(&object(json!({"labels": labels})), &desk), "kept from an earlier stream");
        assert!(!is_owned(&object(json!({})), &desk));
    }
}
