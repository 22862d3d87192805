//! Whether what is there still is what we want.
//!
//! The apiserver adds defaults to what we apply, so "is it equal?" is the wrong question. This asks whether
//! all that we want is there with the value that we want; what else is there is not ours.

use serde::Serialize;
use serde_json::Value;

/// Whether `live` has all that `desired` says. `null` and empty values in `desired` say nothing.
pub fn covers<T: Serialize>(live: &T, desired: &T) -> bool {
    match (serde_json::to_value(live), serde_json::to_value(desired)) {
        (Ok(live), Ok(desired)) => has(&live, &desired),
        _ => false,
    }
}

fn has(live: &Value, desired: &Value) -> bool {
    match (live, desired) {
        (_, Value::Null) => true,
        (Value::Object(live), Value::Object(desired)) => {
            desired.iter().all(|(key, value)| match live.get(key) {
                Some(live) => has(live, value),
                None => is_empty(value),
            })
        }
        (Value::Array(live), Value::Array(desired)) => {
            live.len() == desired.len() && live.iter().zip(desired).all(|(live, desired)| has(live, desired))
        }
        (live, desired) => live == desired,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.values().all(is_empty),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_of_others_are_no_drift_and_changes_are() {
        let desired = json!({"a": {"b": 1, "gone": null, "none": {}}, "list": [{"x": 1}]});
        let defaulted = json!({"a": {"b": 1, "c": 2}, "list": [{"x": 1, "protocol": "TCP"}], "status": {}});
        assert!(covers(&defaulted, &desired));
        for changed in [
            json!({"a": {"b": 2}, "list": [{"x": 1}]}),
            json!({"a": {}, "list": [{"x": 1}]}),
            json!({"a": {"b": 1}, "list": []}),
            json!({"a": {"b": 1}, "list": [{"x": 1}, {"x": 2}]}),
        ] {
            assert!(!covers(&changed, &desired), "{changed}");
        }
    }
}
