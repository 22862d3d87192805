//! The chart without a cluster: linting, rendered objects, their command lines, validation of values, and the documented
//! rights. The cluster suite installs it.

mod manifests;
mod objects;
mod values;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use clap::Parser as _;
use objects::{Rendered, containers};
use operator::cli::Cli;
use serde_json::Value;

/// Remedy if helm is missing.
const NEEDS_HELM: &str = "helm not found: run ./x cluster build, install helm, or set HELM to its path";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn chart() -> PathBuf {
    repository().join("charts/desktopstream")
}

/// helm from the environment variable HELM, from PATH, or as built for the test cluster.
fn helm_program() -> PathBuf {
    if let Some(named) = std::env::var_os("HELM") {
        return named.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| {
        let home = std::env::var_os("HOME")?;
        Some(Path::new(&home).join(".cache"))
    });
    let built = cache.and_then(|cache| fs::read_dir(cache.join("desktopstream")).ok());
    let built = built.into_iter().flatten().flatten().map(|entry| entry.path());
    let built = built
        .filter(|it| it.file_name().is_some_and(|name| name.to_string_lossy().starts_with("cluster-helm-")));
    let mut folders = std::env::split_paths(&path).chain(built);
    folders.find_map(|folder| Some(folder.join("helm")).filter(|it| it.is_file())).expect(NEEDS_HELM)
}

fn helm(arguments: &[&str]) -> Output {
    let output = Command::new(helm_program()).args(arguments).output();
    output.expect(NEEDS_HELM)
}

fn must(arguments: &[&str]) -> String {
    let output = helm(arguments);
    assert!(output.status.success(), "helm {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The value files in the chart's `ci` folder.
fn sets() -> Vec<PathBuf> {
    let mut sets: Vec<_> =
        fs::read_dir(chart().join("ci")).expect("a folder").map(|it| it.expect("a file").path()).collect();
    sets.sort();
    assert!(sets.len() >= 4, "{sets:?}");
    sets
}

fn rendered(set: &Path) -> Rendered {
    let (chart, set) = (chart().display().to_string(), set.display().to_string());
    must(&["lint", "--strict", &chart, "-f", &set]);
    let text =
        must(&["template", "desktopstream", &chart, "-n", "system", "-f", &set, "--kube-version", "1.33"]);
    Rendered::read(&text)
}

fn rendered_with(set: &str) -> Rendered {
    rendered(&chart().join("ci").join(format!("{set}-values.yaml")))
}

#[test]
#[ignore = "needs helm; run by ./x test cluster"]
fn rendered_objects_are_known_connected_and_unprivileged() {
    for set in sets() {
        let rendered = rendered(&set);
        println!("{}: {} objects", set.display(), rendered.objects.len());
        rendered.is_known_to_kubernetes();
        rendered.is_connected();
        rendered.is_unprivileged();
    }
}

#[test]
#[ignore = "needs helm; run by ./x test cluster"]
fn rendered_command_lines_are_accepted_by_the_program() {
    for set in sets() {
        let mut commands = BTreeSet::new();
        for object in rendered(&set).objects {
            for container in containers(&object) {
                assert_eq!(container["command"], serde_json::json!(["operator"]));
                let args = container["args"].as_array().expect("args");
                let mut line = vec!["operator"];
                line.extend(args.iter().map(|it| it.as_str().expect("a string")));
                if line[1] == "node" {
                    // The pod has it in its environment.
                    line.push("--node=n1");
                }
                Cli::try_parse_from(&line).unwrap_or_else(|error| panic_with(&line, &error.to_string()));
                commands.insert(line[1].to_owned());
            }
        }
        assert!(commands.contains("run") && commands.contains("check"), "{commands:?}");
    }
}

#[expect(clippy::panic, reason = "fails a test")]
fn panic_with(line: &[&str], error: &str) -> ! {
    panic!("{line:?}: {error}");
}

#[test]
#[ignore = "needs helm; run by ./x test cluster"]
fn watch_namespace_limits_rights_and_webhooks_to_it() {
    let all = rendered_with("default");
    assert!(all.find("ClusterRoleBinding", "desktopstream-operator-streams").is_some());
    let one = rendered_with("one-namespace");
    assert!(one.find("ClusterRoleBinding", "desktopstream-operator-streams").is_none());
    let binding = one.find("RoleBinding", "desktopstream-operator-streams").expect("a binding");
    assert_eq!(binding["metadata"]["namespace"], "team");
    for kind in ["ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"] {
        let hooks = &one.find(kind, "desktopstream").expect("hooks")["webhooks"];
        for hook in hooks.as_array().expect("a list") {
            let labels = &hook["namespaceSelector"]["matchLabels"];
            assert_eq!(labels["kubernetes.io/metadata.name"], "team", "{kind}");
        }
    }
}

#[test]
#[ignore = "needs helm; run by ./x test cluster"]
fn injection_fails_open_and_excludes_the_operators_namespace() {
    let rendered = rendered_with("default");
    let hooks = &rendered.find("MutatingWebhookConfiguration", "desktopstream").expect("hooks")["webhooks"];
    for hook in hooks.as_array().expect("a list") {
        assert_eq!(hook["failurePolicy"], "Ignore");
        let never = hook["namespaceSelector"]["matchExpressions"].to_string();
        assert!(
            never.contains("NotIn") && never.contains("\"system\"") && never.contains("kube-system"),
            "{never}"
        );
        assert!(hook["objectSelector"]["matchExpressions"].as_array().is_some_and(|it| !it.is_empty()));
    }
    let hooks = &rendered.find("ValidatingWebhookConfiguration", "desktopstream").expect("hooks")["webhooks"];
    assert_eq!(hooks[0]["failurePolicy"], "Fail");
    assert_eq!(
        hooks[0]["rules"][0]["apiGroups"],
        serde_json::json!(["desktopstream.dev"]),
        "its own kinds only"
    );
    assert!(rendered_with("no-injection").find("MutatingWebhookConfiguration", "desktopstream").is_none());
    assert!(rendered_with("small").find("ValidatingWebhookConfiguration", "desktopstream").is_none());
}

#[test]
#[ignore = "needs helm; run by ./x test cluster"]
fn webhook_is_redundant_and_is_not_asked_about_metadata() {
    let rendered = rendered_with("default");
    let operator = rendered.find("Deployment", "desktopstream-operator").expect("an operator");
    assert_eq!(operator["spec"]["replicas"], 2);
    assert!(rendered.find("PodDisruptionBudget", "desktopstream-operator").is_some());
    let hooks = &rendered.find("ValidatingWebhookConfiguration", "desktopstream").expect("hooks")["webhooks"];
    let conditions = hooks[0]["matchConditions"].to_string();
    assert!(conditions.contains("object.spec != oldObject.spec"), "{conditions}");
    assert!(conditions.contains("deletionTimestamp"), "{conditions}");
}

#[test]
#[ignore = "needs helm; run by ./x test cluster"]
fn sidecar_image_is_pinned_to_the_charts_version() {
    let chart = chart().display().to_string();
    let image = |value: &str| {
        let set = format!("sidecar.image={value}");
        let text = must(&["template", "x", &chart, "--set", &set, "--show-only", "templates/operator.yaml"]);
        let line = text.lines().find_map(|line| line.trim().strip_prefix("- --sidecar-image="));
        line.expect("an argument").to_owned()
    };
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(image("desktopstream/sidecar"), format!("desktopstream/sidecar:{version}"));
    assert_eq!(image("localhost:5000/sidecar"), format!("localhost:5000/sidecar:{version}"));
    for whole in ["localhost:5000/sidecar:2", "sidecar:1", "sidecar@sha256:00"] {
        assert_eq!(image(whole), whole);
    }
}

/// Rights as (component, resource, verb) of all roles.
fn rights(objects: &[Value]) -> BTreeSet<(String, String, String)> {
    let mut given = BTreeSet::new();
    for object in objects.iter().filter(|it| matches!(it["kind"].as_str(), Some("Role" | "ClusterRole"))) {
        let name = object["metadata"]["name"].as_str().expect("a name").trim_start_matches("desktopstream-");
        let component = match name.split('-').next() {
            Some("node") => "node-agent",
            Some("check") => "helm test",
            Some("view") => "view",
            Some("edit") => "edit",
            _ => "operator",
        };
        for rule in object["rules"].as_array().expect("rules") {
            let list = |key: &str| -> Vec<String> {
                let all = rule[key].as_array().expect("a list").iter();
                all.map(|it| it.as_str().expect("a word").to_owned()).collect()
            };
            for resource in list("resources") {
                for verb in list("verbs") {
                    assert!(verb != "*" && resource != "*");
                    let is_by_name = rule["resourceNames"].is_array();
                    let may_write = ["create", "update"].contains(&verb.as_str());
                    assert!(resource != "secrets" || may_write || (is_by_name && verb == "get"), "{rule}");
                    given.insert((component.to_owned(), resource.clone(), verb));
                }
            }
        }
    }
    given
}

/// The table under "Permissions" in docs/kubernetes.md lists each right.
#[test]
#[ignore = "needs helm; run by ./x test cluster"]
fn rights_are_those_in_the_documentation() {
    let text = fs::read_to_string(repository().join("docs/kubernetes.md")).expect("docs");
    let table =
        text.split("## Permissions").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a table");
    let mut component = String::new();
    let mut documented: BTreeSet<(String, String, String)> = BTreeSet::new();
    for row in table.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, verbs, resources, _why] = cells[..] else { panic_with(&[row], "four columns") };
        if !name.is_empty() {
            name.clone_into(&mut component);
        }
        for resource in resources.split(", ") {
            for verb in verbs.split(", ") {
                documented.insert((component.clone(), resource.to_owned(), verb.to_owned()));
            }
        }
    }
    let given = rights(&rendered_with("default").objects);
    let undocumented: Vec<_> = given.difference(&documented).collect();
    assert!(undocumented.is_empty(), "not in docs/kubernetes.md: {undocumented:#?}");
    documented
        .retain(|(it, ..)| ["operator", "node-agent", "helm test", "view", "edit"].contains(&it.as_str()));
    let unused: Vec<_> = documented.difference(&given).collect();
    assert!(unused.is_empty(), "in docs/kubernetes.md only: {unused:#?}");
}

#[test]
#[ignore = "needs helm; run by ./x test cluster"]
fn notes_name_existing_files_and_hosts() {
    let chart = chart().display().to_string();
    let set = chart.clone() + "/ci/all-values.yaml";
    let notes = must(&[
        "install",
        "x",
        &chart,
        "-n",
        "system",
        "-f",
        &set,
        "--dry-run=client",
        "--disable-openapi-validation",
    ]);
    let notes = notes.split("NOTES:").nth(1).expect("notes");
    assert!(notes.contains("host-agent serve --public-key key.pem.pub --name mac"), "{notes}");
    assert!(notes.contains("helm -n system test x"), "{notes}");
    for file in
        notes.split_whitespace().filter(|word| word.starts_with("docs/") || word.starts_with("charts/"))
    {
        assert!(repository().join(file).exists(), "{file}");
    }
}

#[test]
fn dashboard_metrics_are_registered_by_the_operator() {
    let text = fs::read_to_string(chart().join("files/dashboard.json")).expect("a dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let source =
        fs::read_to_string(repository().join("operator/controller/src/metrics.rs")).expect("a source");
    let mut shown = 0;
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().expect("targets") {
            let expression = target["expr"].as_str().expect("an expression");
            let names = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            for name in names.filter_map(|word| word.strip_prefix("desktopstream_operator_")) {
                let suffixes = ["_bucket", "_sum", "_count", "_total"];
                let name = suffixes.iter().fold(name, |name, suffix| name.trim_end_matches(suffix));
                assert!(source.contains(&format!("\"{name}\"")), "the operator has no metric {name}");
                shown += 1;
            }
        }
    }
    assert!(shown > 5);
}
