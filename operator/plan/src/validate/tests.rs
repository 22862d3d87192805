use super::*;
use serde_json::{Value, json};

/// A valid stream: the smallest one, with `changes` laid over it.
pub(crate) fn stream(changes: &Value) -> DesktopStream {
    let mut whole = json!({
        "apiVersion": "desktopstream.dev/v1alpha1", "kind": "DesktopStream",
        "metadata": {"name": "desk", "namespace": "team", "uid": "u-1", "generation": 3},
        "spec": {"desktop": {"image": "registry/desktop:1"}},
    });
    json_patch::merge(&mut whole, changes);
    serde_json::from_value(whole).expect("a stream")
}

/// The same, validated.
pub(crate) fn validated(changes: &Value) -> Validated {
    validate(&stream(changes)).expect("valid")
}

#[test]
fn all_problems_are_told_at_once() {
    let bad =
        stream(&json!({"spec": {"gpu": {"count": 0, "nodes": "RenderAndCard"}, "capture": {"width": 3}}}));
    let said = validate(&bad).expect_err("bad").to_string();
    for part in ["spec.gpu: ", "spec.capture: ", "spec.capture.width: must be even"] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn durations() {
    for (text, ms) in [("90s", 90_000), ("1h30m", 5_400_000), ("250ms", 250), ("0s", 0), ("1m1s", 61_000)] {
        assert_eq!(duration(text).map(|it| it.as_millis()), Some(ms), "{text}");
    }
    for text in ["", "5", "s", "5d", "-1s", "1.5h", "99999999999999999999s", "18446744073709551615h"] {
        assert_eq!(duration(text), None, "{text}");
    }
}

#[test]
fn quantities() {
    let size = |text: &str| bytes(&Quantity(text.to_owned()));
    assert_eq!(size("1Gi"), size("1024Mi"));
    assert!(size("1G") < size("1Gi"));
    assert_eq!(size("0.5Gi"), size("512Mi"));
    assert_eq!((size("Gi"), size("1X"), size("")), (None, None, None));
}
