//! Detects drift between a live object, the desired one, and the one that was applied last.
//!
//! The apiserver adds defaults and other writers add fields, so the comparison with the live object covers only the fields
//! that the desired object sets. Fields that the desired object no longer sets differ in the digest of what was applied.
//! Quantities are compared by value: the apiserver stores `1536Mi` for `1.5Gi`.

use std::fmt::Write as _;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::quantity::amount;

/// Length of a digest, bytes.
const DIGEST_BYTES: usize = 16;

/// Place of a value in an object, as far as its comparison depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Any other place.
    Other,
    /// Value of a field named `resources`.
    Resources,
    /// Value of `resources.requests` or `resources.limits`.
    Quantities,
    /// Value in `resources.requests` or `resources.limits`.
    Quantity,
}

impl Place {
    /// Place of the value of `key` in an object at this place.
    fn of(self, key: &str) -> Self {
        match self {
            Self::Resources if key == "requests" || key == "limits" => Self::Quantities,
            Self::Quantities => Self::Quantity,
            _ if key == "resources" => Self::Resources,
            _ => Self::Other,
        }
    }
}

/// True if `live` has every field of `desired` with the same value. Nulls and empty values in `desired` are ignored.
pub fn covers<T: Serialize>(live: &T, desired: &T) -> bool {
    match (serde_json::to_value(live), serde_json::to_value(desired)) {
        (Ok(live), Ok(desired)) => includes(&live, &desired, Place::Other),
        _ => false,
    }
}

/// Digest of an object in hexadecimal: the same for equal quantities, for any order of fields, and for absent and empty
/// fields.
pub fn digest<T: Serialize>(object: &T) -> String {
    let mut text = String::new();
    // An object that cannot be serialized cannot be applied either.
    write(&serde_json::to_value(object).unwrap_or_default(), Place::Other, &mut text);
    hex::encode(&Sha256::digest(text)[..DIGEST_BYTES])
}

fn includes(live: &Value, desired: &Value, place: Place) -> bool {
    match (live, desired) {
        (_, Value::Null) => true,
        (Value::Object(live), Value::Object(desired)) => {
            desired.iter().all(|(key, value)| match live.get(key) {
                Some(live) => includes(live, value, place.of(key)),
                None => is_empty(value),
            })
        }
        (Value::Array(live), Value::Array(desired)) => {
            live.len() == desired.len()
                && live.iter().zip(desired).all(|(live, desired)| includes(live, desired, Place::Other))
        }
        (Value::String(live), Value::String(desired)) if place == Place::Quantity => {
            let value = |text: &String| amount(&Quantity(text.clone()));
            live == desired || value(live).is_some_and(|live| Some(live) == value(desired))
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

/// Writes the canonical text of a value.
fn write(value: &Value, place: Place, text: &mut String) {
    // Writing to a String cannot fail.
    let _infallible = match value {
        Value::Object(map) => {
            let mut fields: Vec<_> = map.iter().filter(|(_, value)| !is_empty(value)).collect();
            fields.sort_by_key(|(key, _)| *key);
            text.push('{');
            for (key, value) in fields {
                let _infallible = write!(text, "{key:?}:");
                write(value, place.of(key), text);
                text.push(',');
            }
            text.push('}');
            Ok(())
        }
        Value::Array(list) => {
            text.push('[');
            for value in list {
                write(value, Place::Other, text);
                text.push(',');
            }
            text.push(']');
            Ok(())
        }
        Value::String(quantity) if place == Place::Quantity => match amount(&Quantity(quantity.clone())) {
            Some(amount) => write!(text, "{amount:?}"),
            None => write!(text, "{quantity:?}"),
        },
        value => write!(text, "{value}"),
    };
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

    #[test]
    fn equal_quantities_written_differently_are_not_drift() {
        let claim = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
        for (stored, asked) in [("1536Mi", "1.5Gi"), ("1Gi", "1024Mi"), ("1Gi", "1Gi")] {
            assert!(covers(&claim(stored), &claim(asked)), "{asked}");
            assert_eq!(digest(&claim(stored)), digest(&claim(asked)), "{asked}");
        }
        assert!(!covers(&claim("1G"), &claim("1Gi")));
        assert_ne!(digest(&claim("1G")), digest(&claim("1Gi")));
        let labels = |text: &str| json!({"metadata": {"labels": {"requests": text}}});
        assert!(!covers(&labels("1Gi"), &labels("1024Mi")), "not a quantity");
    }

    #[test]
    fn digest_changes_when_an_optional_field_is_taken_away() {
        let with = json!({"spec": {"tls": [{"secretName": "s"}], "rules": []}});
        let without = json!({"spec": {"tls": null, "rules": []}});
        assert!(covers(&with, &without), "the live object covers what remains");
        assert_ne!(digest(&with), digest(&without));
        assert_eq!(digest(&without), digest(&json!({"spec": {}})), "empty and absent are the same");
        assert_eq!(digest(&without).len(), 2 * DIGEST_BYTES);
    }
}
