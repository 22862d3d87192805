//! Which specs are refused, by what and with which message; which are accepted. kube-cel evaluates the rules here; the
//! cluster suite sends the same specs to a real apiserver.

use kube_cel::Validator;
use operator_api::{DesktopStream, HostAgent, crds};
use operator_plan::validate::{validate, validate_update};
use operator_plan::{host_agent, testing};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Bad {
    case: String,
    by: String,
    says: String,
    name: Option<String>,
    old: Option<Value>,
    spec: Value,
}

fn bad_specs() -> Vec<Bad> {
    serde_yaml_ng::from_str(include_str!("data/bad-specs.yaml")).expect("YAML")
}

fn samples() -> Vec<(String, Value)> {
    let folder = testing::repository().join("docs/samples");
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).expect("docs/samples") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("reads");
        all.push((path.display().to_string(), serde_yaml_ng::from_str(&text).expect("YAML")));
    }
    all
}

fn object(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "desktopstream.dev/v1alpha1", "kind": "DesktopStream",
        "metadata": {"name": name, "namespace": "n"}, "spec": spec,
    })
}

/// The object with defaults, as the apiserver stores it.
fn typed(object: &Value) -> Option<DesktopStream> {
    serde_json::from_value(object.clone()).ok()
}

fn violations(at: usize, object: &Value, old: Option<&Value>) -> Vec<String> {
    let crd = serde_json::to_value(&crds::all().expect("generates")[at]).expect("JSON");
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    match Validator::new().validate(schema, object, old) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.into_iter().map(|error| error.to_string()).collect(),
    }
}

#[test]
fn invalid_spec_is_refused_with_a_remedy() {
    let all = bad_specs();
    assert!(all.len() >= 25);
    for Bad { case, by, says, name, old, spec } in all {
        let new = object(name.as_deref().unwrap_or("x"), &spec);
        let stored = typed(&new);
        let stored_old = old.as_ref().map(|old| typed(&object("x", old)).expect("the old spec is valid"));
        let json = |stream: &DesktopStream| serde_json::to_value(stream).expect("JSON");
        match (by.as_str(), stored) {
            // kube-cel does not check limits. A spec that our types cannot hold is refused already.
            ("schema", _) => {}
            ("cel", Some(stored)) => {
                let old = stored_old.as_ref().map(json);
                let messages = violations(0, &json(&stored), old.as_ref());
                assert!(messages.iter().any(|line| line.contains(&says)), "{case}: {messages:?}");
            }
            ("webhook", Some(stored)) => {
                let messages = violations(0, &json(&stored), None);
                assert!(messages.is_empty(), "{case}: refused by the rules: {messages:?}");
            }
            (by, stored) => panic!("{case}: by {by}, readable: {}", stored.is_some()),
        }
        // The validator refuses it too, because Docker mode has no apiserver.
        let Some(stored) = typed(&new) else { continue };
        let outcome = validate(&stored).and_then(|_| match &stored_old {
            Some(old) => validate_update(old, &stored),
            None => Ok(()),
        });
        match outcome {
            Ok(()) => assert!(by == "schema", "{case}: the validator accepts it"),
            Err(invalid) if by == "webhook" => {
                assert!(invalid.to_string().contains(&says), "{case}: {invalid}");
            }
            Err(_) => {}
        }
    }
}

#[test]
fn sample_is_accepted_and_read_without_loss() {
    for (file, sample) in samples() {
        let (at, back) = if sample["kind"] == "HostAgent" {
            let agent: HostAgent = serde_json::from_value(sample.clone()).expect(&file);
            host_agent::validate(&agent.spec).expect(&file);
            (1, serde_json::to_value(agent).expect("JSON"))
        } else {
            let stream: DesktopStream = serde_json::from_value(sample.clone()).expect(&file);
            validate(&stream).expect(&file);
            (0, serde_json::to_value(stream).expect("JSON"))
        };
        let messages = violations(at, &back, None);
        assert!(messages.is_empty(), "{file}: {messages:?}");
        assert_kept(&file, &sample["spec"], &back["spec"]);
    }
}

#[test]
fn host_agent_without_protection_is_refused_by_the_rules_and_by_the_validator() {
    let fingerprint = "ab".repeat(32);
    let pinned = format!("tls://mac:1#sha256={fingerprint}");
    let refused = [
        (json!({"endpoints": ["unix:/a", "tcp://gateway:1"]}), "plaintext to true"),
        (
            json!({"endpoints": ["tcp://gateway:1"], "fingerprint": fingerprint, "plaintext": true}),
            "has a key",
        ),
        (json!({"endpoints": ["tcp://gateway:1", pinned], "plaintext": true}), "has a key"),
        (json!({"endpoints": [pinned, "tls://gateway:1"]}), "host-agent fingerprint"),
    ];
    let accepted = [
        json!({}),
        json!({"endpoints": [pinned]}),
        json!({"endpoints": ["tls://gateway:1"], "fingerprint": fingerprint}),
        json!({"endpoints": ["tcp://gateway:1"], "plaintext": true}),
        json!({"endpoints": ["vsock://2:1", "unix:/a"]}),
    ];
    let check = |spec: &Value| {
        let object = json!({
            "apiVersion": "desktopstream.dev/v1alpha1", "kind": "HostAgent",
            "metadata": {"name": "mac"}, "spec": spec,
        });
        let agent: HostAgent = serde_json::from_value(object).expect("a HostAgent");
        let stored = serde_json::to_value(&agent).expect("JSON");
        (violations(1, &stored, None), host_agent::validate(&agent.spec))
    };
    for (spec, says) in refused {
        let (messages, validated) = check(&spec);
        assert!(messages.iter().any(|line| line.contains(says)), "{spec}: {messages:?}");
        assert!(validated.expect_err("refused").contains(says), "{spec}");
    }
    for spec in accepted {
        assert_eq!(check(&spec), (Vec::new(), Ok(())), "{spec}");
    }
}

/// Asserts that every field of a sample survives reading: a misspelled field would not.
fn assert_kept(file: &str, written: &Value, kept: &Value) {
    match (written, kept) {
        (Value::Object(written), Value::Object(kept)) => {
            for (key, value) in written {
                let kept = kept
                    .get(key)
                    .map_or_else(|| Err(format!("{file}: unknown field {key}")), Ok)
                    .expect("a known field");
                assert_kept(file, value, kept);
            }
        }
        (written, kept) => assert_eq!(written, kept, "{file}"),
    }
}
