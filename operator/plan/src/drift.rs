//! Detects drift between a live object and the desired one.
//!
//! The apiserver adds defaults and other writers add fields, so the comparison covers only the fields that the desired
//! object sets.

use serde::Serialize;
use serde_json::Value;

/// True if `live` has every field of `desired` with the same value. Nulls and empty values in `desired` are ignored.
pub fn covers<T: Serialize>(live: &T, desired: &T) -> bool {
    match (serde_json::to_value(live), serde_json::to_value(desired)) {
        (Ok(live), Ok(desired)) => includes(&live, &desired),
        _ => false,
    }
}

fn includes(live: &Value, desired: &Value) -> bool {
    match (live, desired) {
        (_, Value::Null) => true,
        (Value::Object(live), Value::Object(desired)) => {
            desired.iter().all(|(key, value)| match live.get(key) {
                Some(live) => includes(live, value),
                None => is_empty(value),
            })
        }
        (Value::Array(live), Value::Array(desired)) => {
            live.len() == desired.len()
                && live.iter().zip(desired).all(|(live, desired)| includes(live, desired))
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
    fn added_fields_are_not_drift_and_changed_ones_are() {
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
