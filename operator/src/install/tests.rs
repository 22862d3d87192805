use operator_plan::validate::security::PodSecurity;
use serde::Deserialize as _;

use super::*;

fn options() -> Options {
    Options {
        namespace: "there".to_owned(),
        image: "operator:1".to_owned(),
        sidecar_image: "sidecar:1".to_owned(),
        pull_policy: Some("Never".to_owned()),
        replicas: 2,
        policy: PolicyArgs {
            pod_security: PodSecurity::Baseline,
            card_nodes: true,
            annotations: vec!["cert-manager.io/*".to_owned()],
            hosts: vec!["*.example.com".to_owned(), "one.example.org".to_owned()],
        },
        operator_args: vec!["--lease=6s".to_owned(), "--poll=2s".to_owned()],
        node_args: vec!["--driver=vgem".to_owned(), "--driver=evdi".to_owned()],
        dev: "/run/fake/dev/".to_owned(),
        sys: "/sys".to_owned(),
    }
}

fn kinds<'o>(objects: &'o [Value], kind: &str) -> Vec<&'o Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

fn command_line(workload: &Value) -> Vec<&str> {
    let container = &workload["spec"]["template"]["spec"]["containers"][0];
    let words = [&container["command"], &container["args"]].map(|it| it.as_array().expect("words"));
    words.into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn manifest_arguments_are_accepted_by_the_command_line() {
    use clap::Parser as _;
    let objects = objects(&options()).expect("generates");
    for kind in ["Deployment", "DaemonSet"] {
        let mut words = command_line(kinds(&objects, kind)[0]);
        if kind == "DaemonSet" {
            // The pod has it in its environment.
            words.push("--node=n1");
        }
        crate::cli::Cli::try_parse_from(words).expect(kind);
    }
}

#[test]
fn manifest_options_replace_the_placeholders_and_the_chart_values() {
    let objects = objects(&options()).expect("generates");
    let text = serde_json::to_string(&objects).expect("JSON");
    assert!(!text.contains("placeholder"), "{text}");
    let operator = kinds(&objects, "Deployment")[0];
    let words = command_line(operator);
    for word in ["--sidecar-image=sidecar:1", "--sidecar-pull-policy=Never", "--lease=6s", "--poll=2s"] {
        assert_eq!(words.iter().filter(|it| **it == word).count(), 1, "{word} in {words:?}");
    }
    assert!(!words.contains(&"--poll=15s"), "{words:?}");
    assert_eq!(operator["spec"]["replicas"], 2);
    let container = &operator["spec"]["template"]["spec"]["containers"][0];
    assert_eq!((&container["image"], &container["imagePullPolicy"]), (&json!("operator:1"), &json!("Never")));
    let node = command_line(kinds(&objects, "DaemonSet")[0]);
    for word in ["--dev=/run/fake/dev", "--sys=/sys", "--driver=vgem", "--driver=evdi"] {
        assert!(node.contains(&word), "{word} in {node:?}");
    }
}

#[test]
fn manifest_limits_are_the_same_in_operator_and_policy() {
    let objects = objects(&options()).expect("generates");
    let words = command_line(kinds(&objects, "Deployment")[0]);
    for word in [
        "--pod-security=baseline",
        "--card-nodes=true",
        "--allowed-annotation=cert-manager.io/*",
        "--allowed-host=*.example.com,one.example.org",
    ] {
        assert_eq!(words.iter().filter(|it| **it == word).count(), 1, "{word} in {words:?}");
    }
    let policies = kinds(&objects, "ValidatingAdmissionPolicy");
    let policy =
        policies.iter().find(|it| it["metadata"]["name"] == "desktopstream-streams").expect("a policy");
    let expression = |name: &str| {
        let variables = policy["spec"]["variables"].as_array().expect("variables");
        variables.iter().find(|it| it["name"] == name).expect(name)["expression"].clone()
    };
    assert_eq!(expression("podSecurity"), r#""baseline""#);
    assert_eq!(expression("cardNodes"), "true");
    assert_eq!(expression("annotations"), r#"["cert-manager.io/*"]"#);
    assert_eq!(expression("ingressHosts"), r#"["*.example.com","one.example.org"]"#);
}

#[test]
fn manifest_disruption_budget_exists_only_for_several_replicas() {
    assert_eq!(kinds(&objects(&options()).expect("generates"), "PodDisruptionBudget").len(), 1);
    let one = Options { replicas: 1, ..options() };
    assert!(kinds(&objects(&one).expect("generates"), "PodDisruptionBudget").is_empty());
}

#[test]
fn manifest_roles_have_no_wildcards_and_do_not_read_secrets_of_streams() {
    let objects = objects(&options()).expect("generates");
    for role in kinds(&objects, "ClusterRole").into_iter().chain(kinds(&objects, "Role")) {
        assert!(!role["rules"].to_string().contains('*'), "{role}");
    }
    for kind in ["ServiceAccount", "Deployment", "DaemonSet", "Service", "Role", "RoleBinding"] {
        let objects = kinds(&objects, kind);
        assert!(
            !objects.is_empty() && objects.iter().all(|it| it["metadata"]["namespace"] == "there"),
            "{kind}"
        );
    }
    let secrets: Vec<_> = kinds(&objects, "ClusterRole")
        .iter()
        .flat_map(|role| role["rules"].as_array().cloned().unwrap_or_default())
        .filter(|rule| rule["resources"] == json!(["secrets"]))
        .collect();
    assert_eq!(secrets.len(), 1);
    assert_eq!(secrets[0]["verbs"], json!(["create", "update"]), "written, never read");
}

#[test]
fn manifest_stream_is_yaml_of_the_objects() {
    let text = stream(&options()).expect("generates");
    let documents: Vec<Value> = serde_yaml_ng::Deserializer::from_str(&text)
        .map(|it| Value::deserialize(it).expect("YAML"))
        .collect();
    assert_eq!(documents, objects(&options()).expect("generates"));
}

#[test]
fn manifest_labels_do_not_claim_helm() {
    let objects = objects(&options()).expect("generates");
    for object in objects.iter().filter(|it| it["kind"] != "CustomResourceDefinition") {
        assert_eq!(object["metadata"]["labels"][names::MANAGED_BY], MANAGER, "{object}");
    }
}
