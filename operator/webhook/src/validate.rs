//! Admits DesktopStreams that make sense.

use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, Operation};

use operator_api::DesktopStream;
use operator_plan::validate::{Invalid, validate, validate_update};

/// The answer.
pub fn answer(request: &AdmissionRequest<DynamicObject>) -> AdmissionResponse {
    let response = AdmissionResponse::from(request);
    match judge(request) {
        Ok(()) => response,
        Err(why) => response.deny(why),
    }
}

fn judge(request: &AdmissionRequest<DynamicObject>) -> Result<(), String> {
    let Some(object) = &request.object else { return Ok(()) };
    let mut new: DesktopStream = read(object)?;
    // On its way out nothing is asked of it: else a stream from before a rule could never go.
    if new.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    // generateName has no name yet; the apiserver's rules look at the one that it makes.
    new.metadata.name.get_or_insert_with(|| "generated".to_owned());
    let say = |invalid: Invalid| invalid.to_string();
    if request.operation == Operation::Update
        && let Some(old) = request.old_object.as_ref().and_then(|old| read(old).ok())
    {
        // Labels and annotations of a stream from before a rule may change.
        if old.spec == new.spec {
            return Ok(());
        }
        validate_update(&old, &new).map_err(say)?;
    }
    validate(&new).map(|_| ()).map_err(say)
}

fn read(object: &DynamicObject) -> Result<DesktopStream, String> {
    let value = serde_json::to_value(object).map_err(|error| error.to_string())?;
    serde_json::from_value(value)
        .map_err(|error| format!("the spec can't be read: {error}; see `kubectl explain desktopstream.spec`"))
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
        answer(&serde_json::from_value(request).expect("a request"))
    }

    fn stream(spec: &Value) -> Value {
        json!({"apiVersion": "desktopstream.dev/v1alpha1", "kind": "DesktopStream", "metadata": {"name": "x"}, "spec": spec})
    }

    #[test]
    fn what_the_controller_would_refuse_is_refused() {
        let good = stream(&json!({"desktop": {"image": "a", "home": {"size": "2Gi"}}}));
        assert!(ask("CREATE", &good, None).allowed);
        let bad = stream(&json!({"desktop": {"image": "a b"}}));
        let refused = ask("CREATE", &bad, None);
        assert!(!refused.allowed && refused.result.message.contains("spec.desktop.image"));
        let unreadable =
            stream(&json!({"desktop": {"image": "a", "volumes": [{"name": "v", "emptyDir": 3}]}}));
        assert!(ask("CREATE", &unreadable, None).result.message.contains("can't be read"));
        let smaller = stream(&json!({"desktop": {"image": "a", "home": {"size": "1Gi"}}}));
        assert!(ask("UPDATE", &smaller, Some(&good)).result.message.contains("can't shrink"));
        assert!(ask("UPDATE", &bad, Some(&bad)).allowed, "one from before a rule may be labelled");
    }
}
