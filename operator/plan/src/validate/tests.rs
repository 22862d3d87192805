use serde_json::json;

use super::*;
use crate::testing::stream;

#[test]
fn validate_reports_all_problems_at_once() {
    let bad = stream(
        &json!({"spec": {"gpu": {"count": 0, "deviceNodes": "RenderAndCard"}, "capture": {"width": 3}}}),
    );
    let message = validate(&bad).expect_err("bad").to_string();
    for part in ["spec.gpu: ", "spec.capture: ", "spec.capture.width: must be even"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn validate_range_message_names_both_bounds() {
    let bad = stream(&json!({"spec": {"gpu": {"count": 9}, "lifecycle": {"ttlSeconds": 0}}}));
    let message = validate(&bad).expect_err("bad").to_string();
    assert!(message.contains("spec.gpu.count: must be between 0 and 8"), "{message}");
    assert!(message.contains("spec.lifecycle.ttlSeconds: must be between 1 and 31622400"), "{message}");
}

#[test]
fn validate_update_compares_sizes_by_value() {
    let home = |size: &str| stream(&json!({"spec": {"desktop": {"home": {"size": size}}}}));
    assert!(validate_update(&home("1024Mi"), &home("1Gi")).is_ok());
    assert!(validate_update(&home("1Pi"), &home("2e15")).is_ok());
    assert!(validate_update(&home("2Gi"), &home("1500000k")).is_err());
}

#[test]
fn validate_allowed_origins_with_a_path_are_refused() {
    let origins = |origin: &str| stream(&json!({"spec": {"viewers": {"allowedOrigins": [origin]}}}));
    assert!(validate(&origins("https://portal.example.com:8443")).is_ok());
    for bad in ["https://a/b", "portal.example.com", "https://", "https://a,b", "ftp://a"] {
        assert!(validate(&origins(bad)).is_err(), "{bad}");
    }
}
