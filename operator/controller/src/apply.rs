//! Makes objects as we want them, and takes away what we don't.
//!
//! Server-side apply with one field manager. An object that isn't in the store is applied without force: if
//! somebody else's object has the name, the fields conflict and the user hears of it. One that is there and
//! ours is forced back to what we want.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::context::Context;
use super::error::Error;
use operator_api::conditions::reasons;
use operator_api::names;
use operator_plan::drift;
use operator_plan::status::Obstacle;
use operator_plan::validate::Validated;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// It was so already.
    Unchanged,
    /// It is new.
    Made,
    /// It had drifted.
    Repaired,
}

/// Kinds that we apply.
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

/// The object of this name, as the watch says.
pub fn find<K: Kind>(store: &Store<K>, namespace: &str, name: &str) -> Option<Arc<K>> {
    store.get(&ObjectRef::new(name).within(namespace))
}

/// Whether it is this stream's: owned by it, or kept for it from an earlier life.
pub fn is_ours<K: Kind>(object: &K, stream: &Validated) -> bool {
    if let Some(owner) = object.owner_references().iter().find(|owner| owner.controller == Some(true)) {
        return owner.uid == stream.uid;
    }
    let label = |key: &str| object.labels().get(key).map(String::as_str);
    label(names::MANAGED_BY) == Some(names::MANAGER) && label(names::STREAM) == Some(&stream.names.stream)
}

/// Sees to it that `desired` is there. What somebody has to change is an obstacle, what passes is an error.
pub async fn ensure<K: Kind>(
    context: &Context,
    stream: &Validated,
    store: &Store<K>,
    desired: &K,
) -> Result<Result<Applied, Obstacle>, Error> {
    let name = desired.name_any();
    let live = find(store, &stream.namespace, &name);
    let force = match &live {
        Some(live) if !is_ours(live.as_ref(), stream) => return Ok(Err(taken::<K>(&name))),
        Some(live) if drift::covers(live.as_ref(), desired) && !should_be_free(live.as_ref(), desired) => {
            return Ok(Ok(Applied::Unchanged));
        }
        live => live.is_some(),
    };
    let outcome = if force { Applied::Repaired } else { Applied::Made };
    Ok(apply(context, stream, desired, force).await?.map(|_| outcome))
}

/// It is owned and shouldn't be: a home folder that is to be kept from now on. What we no longer say, applying
/// takes away.
fn should_be_free<K: Kind>(live: &K, desired: &K) -> bool {
    desired.owner_references().is_empty() && !live.owner_references().is_empty()
}

/// Applies without looking.
pub async fn apply<K: Kind>(
    context: &Context,
    stream: &Validated,
    desired: &K,
    force: bool,
) -> Result<Result<K, Obstacle>, Error> {
    let name = desired.name_any();
    let kind = K::kind(&());
    let api: Api<K> = Api::namespaced(context.client.clone(), &stream.namespace);
    let params = PatchParams { force, ..PatchParams::apply(names::FIELD_MANAGER) };
    context.metrics.writes.fetch_add(1, Relaxed);
    let mut outcome = api.patch(&name, &params, &Patch::Apply(desired)).await;
    if force && matches!(&outcome, Err(kube::Error::Api(status)) if status.code == 422) {
        // Somebody else's entry of a list beside ours, such as a Service's port of the same name: a merge puts our list
        // in the place of theirs.
        context.metrics.writes.fetch_add(1, Relaxed);
        let ours = PatchParams { field_manager: params.field_manager, ..PatchParams::default() };
        outcome = api.patch(&name, &ours, &Patch::Merge(desired)).await;
    }
    match outcome {
        Ok(applied) => Ok(Ok(applied)),
        Err(error) => match obstacle::<K>(&name, &error) {
            Some(obstacle) => Ok(Err(obstacle)),
            None => Err(Error::api(format!("apply {kind} {name}"))(error)),
        },
    }
}

fn taken<K: Kind>(name: &str) -> Obstacle {
    Obstacle {
        reason: reasons::NAME_TAKEN,
        text: format!("a {} {name} of somebody else is there", K::kind(&())),
    }
}

/// What an API error means to the user; `None` if it passes by itself.
fn obstacle<K: Kind>(name: &str, error: &kube::Error) -> Option<Obstacle> {
    let kube::Error::Api(status) = error else { return None };
    let text = || format!("{} {name}: {}", K::kind(&()), status.message);
    let reason = match status.code {
        409 if status.message.starts_with("Apply failed with") => return Some(taken::<K>(name)),
        403 if status.message.contains("exceeded quota") || status.message.contains("failed quota") => {
            reasons::QUOTA
        }
        // A namespace that goes away takes us along.
        403 if status.message.contains("being terminated") => return None,
        400 | 403 | 422 => reasons::REFUSED,
        _ => return None,
    };
    Some(Obstacle { reason, text: text() })
}

/// Deletes this very object, if it is still that one.
pub async fn delete<K: Kind>(context: &Context, object: &K) -> Result<(), Error> {
    let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
    let api: Api<K> = Api::namespaced(context.client.clone(), &namespace);
    let preconditions = Preconditions { uid: object.uid(), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    context.metrics.writes.fetch_add(1, Relaxed);
    match api.delete(&name, &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(Error::api(format!("delete {} {name}", K::kind(&())))(error)),
    }
}

/// Deletes what bears the stream's label, is its own, and is not wanted.
pub async fn sweep<K: Kind>(
    context: &Context,
    stream: &Validated,
    store: &Store<K>,
    wanted: Option<&str>,
) -> Result<(), Error> {
    let ours = store.state_filter(|object| {
        object.namespace().as_deref() == Some(&stream.namespace)
            && object.labels().get(names::STREAM) == Some(&stream.names.stream)
            && object.meta().deletion_timestamp.is_none()
            && wanted != object.meta().name.as_deref()
            && is_ours(object, stream)
    });
    for object in ours {
        delete(context, object.as_ref()).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
    use kube::core::Status;
    use serde_json::json;

    use super::*;
    use operator_plan::testing::validated;

    fn says(code: u16, message: &str) -> Option<&'static str> {
        let error = kube::Error::Api(Status::failure(message, "r").with_code(code).boxed());
        obstacle::<Pod>("p", &error).map(|obstacle| obstacle.reason.name)
    }

    #[test]
    fn errors_that_a_user_can_change_become_obstacles() {
        assert_eq!(
            says(403, "pods \"p\" is forbidden: exceeded quota: q, requested: pods=1"),
            Some("QuotaExceeded")
        );
        assert_eq!(
            says(403, "pods \"p\" is forbidden: violates PodSecurity \"restricted:latest\""),
            Some("ObjectRefused")
        );
        assert_eq!(says(422, "Pod \"p\" is invalid"), Some("ObjectRefused"));
        for conflicts in ["1 conflict: conflict with \"kubectl\"", "2 conflicts: conflicts with \"kubectl\""]
        {
            assert_eq!(says(409, &format!("Apply failed with {conflicts}")), Some("NameTaken"));
        }
        for (code, message) in [(409, "the object has been modified"), (500, "x"), (503, "x"), (404, "x")] {
            assert_eq!(says(code, message), None);
        }
        assert_eq!(
            says(403, "unable to create new content in namespace n because it is being terminated"),
            None
        );
    }

    #[test]
    fn a_home_that_is_to_be_kept_loses_its_owner() {
        let claim = |on_delete: &str| {
            let changes = json!({"spec": {"desktop": {"home": {"size": "1Gi", "onDelete": on_delete}}}});
            operator_plan::kubernetes::objects(&validated(&changes)).home.expect("a claim")
        };
        let (owned, kept) = (claim("Delete"), claim("Keep"));
        assert!(drift::covers(&owned, &kept), "nothing is missing");
        assert!(should_be_free(&owned, &kept));
        assert!(!should_be_free(&kept, &kept) && !should_be_free(&kept, &owned));
    }

    #[test]
    fn whose_it_is() {
        let stream = validated(&json!({}));
        let object = |metadata| -> PersistentVolumeClaim {
            serde_json::from_value(json!({"metadata": metadata})).expect("a claim")
        };
        let owner =
            |uid| json!([{"apiVersion": "v", "kind": "k", "name": "n", "uid": uid, "controller": true}]);
        let labels = json!({names::MANAGED_BY: names::MANAGER, names::STREAM: "desk"});
        assert!(is_ours(&object(json!({"ownerReferences": owner("u-1")})), &stream));
        assert!(!is_ours(&object(json!({"ownerReferences": owner("u-0"), "labels": labels})), &stream));
        assert!(is_ours(&object(json!({"labels": labels})), &stream), "kept from an earlier life");
        assert!(!is_ours(&object(json!({})), &stream));
    }
}
