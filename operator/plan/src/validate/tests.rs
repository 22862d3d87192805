use super::*;
use serde_json::json;

use crate::testing::stream;

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
