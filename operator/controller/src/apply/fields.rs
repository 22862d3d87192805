//! Field ownership of objects that were created by `POST`.
//!
//! The apiserver keeps what a manager created apart from what it applies: fields of the operation `Update` stay when a later
//! apply no longer sets them. Before the first apply, the entry of the creation therefore becomes one of the operation
//! `Apply`, as client-go's `csaupgrade` does.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry};
use operator_api::names;
use serde_json::Value;

/// The entries in which this operator's are joined into one of the operation `Apply`; `None` if they are already.
pub fn applied(entries: &[ManagedFieldsEntry]) -> Option<Vec<ManagedFieldsEntry>> {
    let is_own = |it: &ManagedFieldsEntry| {
        it.manager.as_deref() == Some(names::FIELD_MANAGER) && it.subresource.is_none()
    };
    let created = entries.iter().find(|it| is_own(it) && it.operation.as_deref() == Some("Update"))?;
    let mut fields = Value::Null;
    for entry in entries.iter().filter(|it| is_own(it)) {
        if let Some(FieldsV1(own)) = &entry.fields_v1 {
            join(&mut fields, own);
        }
    }
    let joined = ManagedFieldsEntry {
        operation: Some("Apply".to_owned()),
        fields_v1: Some(FieldsV1(fields)),
        ..created.clone()
    };
    Some(entries.iter().filter(|it| !is_own(it)).cloned().chain([joined]).collect())
}

/// Adds the fields of one set to another.
fn join(into: &mut Value, fields: &Value) {
    match (into, fields) {
        (Value::Object(into), Value::Object(fields)) => {
            for (key, value) in fields {
                join(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, fields) if into.is_null() => into.clone_from(fields),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(manager: &str, operation: &str, fields: &Value) -> Value {
        json!({"manager": manager, "operation": operation, "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": fields})
    }

    fn entries(all: &[Value]) -> Vec<ManagedFieldsEntry> {
        all.iter().map(|it| serde_json::from_value(it.clone()).expect("an entry")).collect()
    }

    #[test]
    fn own_entries_are_joined_into_one_applied_entry() {
        let other = entry("kubectl", "Update", &json!({"f:spec": {"f:x": {}}}));
        let mut status = entry(names::FIELD_MANAGER, "Update", &json!({"f:status": {}}));
        status["subresource"] = "status".into();
        let created = entry(names::FIELD_MANAGER, "Update", &json!({"f:spec": {"f:a": {}, "f:b": {}}}));
        let patched = entry(names::FIELD_MANAGER, "Apply", &json!({"f:spec": {"f:b": {}, "f:c": {}}}));
        let joined = applied(&entries(&[other.clone(), created, patched, status.clone()])).expect("a change");
        let fields = json!({"f:spec": {"f:a": {}, "f:b": {}, "f:c": {}}});
        let expected = [other, status, entry(names::FIELD_MANAGER, "Apply", &fields)];
        assert_eq!(joined, entries(&expected));
        assert_eq!(applied(&joined), None, "once");
    }
}
