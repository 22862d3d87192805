//! Invalid values are refused with a message that names the value and the rule.

use std::fs;

use serde_json::Value;

use super::{chart, helm};

/// Value, path in the message, and part of the message.
const WRONG: [(&str, &str, &str); 27] = [
    ("operators.replicas=2", "''", "'operators' not allowed"),
    ("operator.replica=2", "/operator", "'replica' not allowed"),
    ("operator.replicas=9", "/operator/replicas", "maximum: got 9, want 5"),
    ("operator.replicas=two", "/operator/replicas", "got string, want integer"),
    ("operator.poll=15", "/operator/poll", "want string"),
    ("operator.poll=15 seconds", "/operator/poll", "does not match pattern"),
    ("operator.tokenLife=1d", "/operator/tokenLife", "does not match pattern"),
    ("operator.concurrency=0", "/operator/concurrency", "minimum: got 0, want 1"),
    ("operator.watchNamespace=Team A", "/operator/watchNamespace", "does not match pattern"),
    ("operator.env[0].nme=RUST_LOG", "/operator/env/0", "missing property 'name'"),
    ("image.pullPolicy=Sometimes", "/image/pullPolicy", "'IfNotPresent'"),
    ("image.repository=desktopstream/operator:1", "/image/repository", "does not match pattern"),
    ("image.tag=a b", "/image/tag", "does not match pattern"),
    ("sidecar.image=", "/sidecar/image", "minLength"),
    ("sidecar.resources.memory=64MB", "/sidecar/resources/memory", "does not match pattern"),
    ("webhook.port=443", "/webhook/port", "minimum: got 443, want 1,024"),
    ("webhook.certManager.enabled=true", "/webhook/certManager/issuerRef", "missing property 'name'"),
    ("webhook.certManager.issuerRef.kind=CA", "/webhook/certManager/issuerRef/kind", "'ClusterIssuer'"),
    ("node.shares=1", "/node/shares", "minimum: got 1, want 2"),
    ("node.shares=5", "/node/shares", "multipleOf"),
    ("security.podSecurity=none", "/security/podSecurity", "'restricted'"),
    ("security.ingressHosts[0]=*example.com", "/security/ingressHosts/0", "does not match pattern"),
    ("node.pluginDir=plugins", "/node/pluginDir", "does not match pattern"),
    ("node.devDir=/dev/", "/node/devDir", "does not match pattern"),
    ("hostAgents[0].spec.capacity=8", "/hostAgents/0", "missing property 'name'"),
    (
        "hostAgents[0].name=mac,hostAgents[0].spec.endpoints[0]=mac:15937",
        "/endpoints/0",
        "does not match pattern",
    ),
    ("metrics.serviceMonitor.interval=30", "/metrics/serviceMonitor/interval", "want string"),
];

#[test]
#[ignore = "needs helm; run by ./x test cluster"]
fn invalid_value_is_refused_with_its_path() {
    let chart = chart().display().to_string();
    for (set, place, word) in WRONG {
        let output = helm(&["template", "x", &chart, "--set", set]);
        let says = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{set} was accepted");
        assert!(says.contains(&format!("{place}'")) || says.contains(place), "{set}: {says}");
        assert!(says.contains(word), "{set}: {says}");
        println!("{set}: {}", says.lines().last().unwrap_or_default());
    }
}

/// A value that is only in values.yaml cannot be set; one that is only in the schema has no effect.
#[test]
fn schema_and_values_have_the_same_fields() {
    let read = |name: &str| fs::read_to_string(chart().join(name)).expect("a file");
    let schema: Value = serde_json::from_str(&read("values.schema.json")).expect("JSON");
    let values: Value = serde_yaml_ng::from_str(&read("values.yaml")).expect("YAML");
    let templates: String =
        ["_helpers.tpl", "operator.yaml", "operator-rbac.yaml", "node.yaml", "node-rbac.yaml"]
            .into_iter()
            .chain([
                "webhook.yaml",
                "monitoring.yaml",
                "host-agents.yaml",
                "stream-policy.yaml",
                "user-rbac.yaml",
            ])
            .map(|name| read(&format!("templates/{name}")))
            .collect();
    compare(&schema, &values, "", &templates);
}

fn compare(schema: &Value, values: &Value, at: &str, templates: &str) {
    let (Some(rules), Some(values)) = (schema["properties"].as_object(), values.as_object()) else { return };
    assert_eq!(schema["additionalProperties"], false, "{at}: unknown fields are accepted");
    for (name, value) in values {
        let at = format!("{at}.{name}");
        assert!(rules.contains_key(name), "the schema has no {at}");
        compare(&rules[name], value, &at, templates);
        if rules[name]["properties"].is_null() {
            assert!(templates.contains(&format!(".Values{at}")), "no template reads {at}");
        }
    }
    for name in rules.keys().filter(|name| *name != "global" && at != ".webhook.certManager.issuerRef") {
        assert!(values.contains_key(name), "values.yaml has no {at}.{name}");
    }
}
