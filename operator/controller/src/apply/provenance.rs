//! Whose an object is. The operator changes and deletes only its own objects.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{Resource, ResourceExt as _};
use operator_api::names;

use super::Owner;

/// Relation of an object to a stream that wants an object of its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provenance {
    /// The stream is its controller, or it was created for the stream without an owner.
    Own,
    /// An earlier stream of that name kept it for later ones. It may be used and changed, but never gets an owner, with
    /// which it would be deleted.
    Kept,
    /// It belongs to a deleted stream of that name, and is about to be deleted.
    Remainder,
    /// It belongs to somebody else.
    Foreign,
}

/// Provenance of `object`.
pub fn provenance<K: Resource<DynamicType = ()>>(object: &K, owner: &Owner) -> Provenance {
    if let Some(controller) = object.owner_references().iter().find(|it| it.controller == Some(true)) {
        let group = controller.api_version.split('/').next();
        let is_stream = controller.kind == "DesktopStream" && group == Some(operator_api::GROUP);
        return if controller.uid == owner.uid {
            Provenance::Own
        } else if is_stream && controller.name == owner.name {
            Provenance::Remainder
        } else {
            Provenance::Foreign
        };
    }
    let label = |key: &str| object.labels().get(key).map(String::as_str);
    let is_labelled =
        label(names::MANAGED_BY) == Some(names::MANAGER) && label(names::STREAM) == Some(&owner.name);
    match object.annotations().get(names::CREATED_FOR) {
        Some(uid) if is_labelled && *uid == owner.uid => Provenance::Own,
        Some(_) if is_labelled => Provenance::Kept,
        // Earlier versions kept claims without the annotation. Their other objects have an owner.
        None if is_labelled && K::kind(&()) == PersistentVolumeClaim::kind(&()) => Provenance::Kept,
        _ => Provenance::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;

    fn of_kind<K: Resource<DynamicType = ()> + DeserializeOwned>(metadata: &Value) -> Provenance {
        let desk = Owner { namespace: "team".to_owned(), name: "desk".to_owned(), uid: "u-1".to_owned() };
        let object: K = serde_json::from_value(json!({"metadata": metadata})).expect("an object");
        provenance(&object, &desk)
    }

    fn of(metadata: &Value) -> Provenance {
        of_kind::<PersistentVolumeClaim>(metadata)
    }

    fn controller(version: &str, name: &str, uid: &str) -> Value {
        json!([{"apiVersion": version, "kind": "DesktopStream", "name": name, "uid": uid, "controller": true}])
    }

    #[test]
    fn object_with_a_controller_belongs_to_it_whatever_its_labels_say() {
        let labels = json!({names::MANAGED_BY: names::MANAGER, names::STREAM: "desk"});
        for (version, name, uid, expected) in [
            ("desktopstream.dev/v1alpha1", "desk", "u-1", Provenance::Own),
            ("desktopstream.dev/v1alpha1", "desk", "u-0", Provenance::Remainder),
            ("desktopstream.dev/v1alpha1", "other", "u-2", Provenance::Foreign),
            ("example.com/v1", "desk", "u-2", Provenance::Foreign),
        ] {
            let owner = controller(version, name, uid);
            assert_eq!(
                of(&json!({"ownerReferences": owner, "labels": labels})),
                expected,
                "{version} {name} {uid}"
            );
        }
    }

    #[test]
    fn object_without_a_controller_belongs_to_the_stream_that_it_was_created_for() {
        let labels = json!({names::MANAGED_BY: names::MANAGER, names::STREAM: "desk"});
        let created_for = |uid: &str| json!({names::CREATED_FOR: uid});
        assert_eq!(of(&json!({"labels": labels, "annotations": created_for("u-1")})), Provenance::Own);
        assert_eq!(of(&json!({"labels": labels, "annotations": created_for("u-0")})), Provenance::Kept);
        assert_eq!(
            of_kind::<Service>(&json!({"labels": labels})),
            Provenance::Foreign,
            "labels can be copied"
        );
        assert_eq!(of(&json!({"annotations": created_for("u-1")})), Provenance::Foreign);
        assert_eq!(of(&json!({})), Provenance::Foreign);
    }

    #[test]
    fn claim_that_an_earlier_version_kept_is_kept() {
        let labels = json!({names::MANAGED_BY: names::MANAGER, names::STREAM: "desk"});
        assert_eq!(of(&json!({"labels": labels})), Provenance::Kept);
        let other = json!({names::MANAGED_BY: names::MANAGER, names::STREAM: "other"});
        assert_eq!(of(&json!({"labels": other})), Provenance::Foreign);
        let owner = controller("apps/v1", "db", "u-2");
        assert_eq!(of(&json!({"labels": labels, "ownerReferences": owner})), Provenance::Foreign);
    }
}
