//! Validates DesktopStreams.

use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, Operation};

use operator_api::DesktopStream;
use operator_plan::validate::{Invalid, validate, validate_update};

/// Reviews a DesktopStream.
pub fn review(request: &AdmissionRequest<DynamicObject>) -> AdmissionResponse {
    let response = AdmissionResponse::from(request);
    match check(request) {
        Ok(()) => response,
        Err(why) => response.deny(why),
    }
}

fn check(request: &AdmissionRequest<DynamicObject>) -> Result<(), String> {
    let Some(object) = &request.object else { return Ok(()) };
    let mut new: DesktopStream = read(object)?;
    // A stream that is being deleted is not validated: one from before a rule could never be deleted.
    if new.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    // With generateName there is no name yet; the rules of the schema check the generated one.
    new.metadata.name.get_or_insert_with(|| "generated".to_owned());
    let message = |invalid: Invalid| invalid.to_string();
    if request.operation == Operation::Update
        && let Some(old) = request.old_object.as_ref().and_then(|old| read(old).ok())
    {
        // The metadata of a stream from before a rule can change.
        if old.spec == new.spec {
            return Ok(());
        }
        validate_update(&old, &new).map_err(message)?;
    }
    validate(&new).map(|_| ()).map_err(message)
}

fn read(object: &DynamicObject) -> Result<DesktopStream, String> {
    let value = serde_json::to_value(object).map_err(|error| error.to_string())?;
    serde_json::from_value(value)
        .map_err(|error| format!("the spec is not readable: {error}; see kubectl explain desktopstream.spec"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn ask(operation: &str, object: &Value, old: Option<&Value>) -> AdmissionResponse {
        let request = json!({
            "uid": "u", "operation": operation, "userInfo": {},
            "kind": {"group": "desktopstream.dev", "version": "v1alpha1", "kind": "DesktopStream"},
            "resource": {"group": "desktopstream.dev", "version": "v1alpha1", "resource": "desktopstreams"},
            "object": object, "oldObject": old,
        });
        review(&serde_json::from_value(request).expect("a request"))
    }

    fn stream(spec: &Value) -> Value {
        json!({"apiVersion": "desktopstream.dev/v1alpha1", "kind": "DesktopStream", "metadata": {"name": "x"}, "spec": spec})
    }

    #[test]
    fn stream_that_the_controller_cannot_reconcile_is_refused() {
        let good = stream(&json!({"desktop": {"image": "a", "home": {"size": "2Gi"}}}));
        assert!(ask("CREATE", &good, None).allowed);
        let bad = stream(&json!({"desktop": {"image": "a b"}}));
        let refused = ask("CREATE", &bad, None);
        assert!(!refused.allowed && refused.result.message.contains("spec.desktop.image"));
        let unreadable =
            stream(&json!({"desktop": {"image": "a", "volumes": [{"name": "v", "emptyDir": 3}]}}));
        assert!(ask("CREATE", &unreadable, None).result.message.contains("not readable"));
        let smaller = stream(&json!({"desktop": {"image": "a", "home": {"size": "1Gi"}}}));
        assert!(ask("UPDATE", &smaller, Some(&good)).result.message.contains("cannot shrink"));
        assert!(ask("UPDATE", &bad, Some(&bad)).allowed, "an unchanged spec from before a rule");
    }
}
