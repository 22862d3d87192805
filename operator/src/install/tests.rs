use super::*;

fn options() -> Options {
    Options {
        namespace: "there".to_owned(),
        image: "operator:1".to_owned(),
        sidecar_image: "sidecar:1".to_owned(),
        pull_policy: Some("Never".to_owned()),
        replicas: 2,
        operator_args: vec!["--lease=6s".to_owned()],
        node_args: Vec::new(),
        dev: "/dev".to_owned(),
        sys: "/sys".to_owned(),
    }
}

fn kinds<'o>(objects: &'o [Value], kind: &str) -> Vec<&'o Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

#[test]
fn arguments_are_those_of_our_own_command_line() {
    use clap::Parser as _;
    let objects = objects(&options()).expect("prints");
    for kind in ["Deployment", "DaemonSet"] {
        let container = &kinds(&objects, kind)[0]["spec"]["template"]["spec"]["containers"][0];
        let words = [&container["command"], &container["args"]].map(|it| it.as_array().expect("words"));
        let mut words: Vec<&str> = words.into_iter().flatten().filter_map(Value::as_str).collect();
        if kind == "DaemonSet" {
            // As its environment says.
            words.push("--node=n1");
        }
        crate::cli::Cli::try_parse_from(words).expect(kind);
    }
}

#[test]
fn nobody_may_all() {
    let objects = objects(&options()).expect("prints");
    for role in kinds(&objects, "ClusterRole").into_iter().chain(kinds(&objects, "Role")) {
        assert!(!role["rules"].to_string().contains('*'), "{role}");
    }
    for kind in ["ServiceAccount", "Deployment", "DaemonSet", "Service", "Role", "RoleBinding"] {
        assert!(
            kinds(&objects, kind).iter().all(|object| object["metadata"]["namespace"] == "there"),
            "{kind}"
        );
    }
    let secrets: Vec<_> = kinds(&objects, "ClusterRole")
        .iter()
        .flat_map(|role| role["rules"].as_array().cloned().unwrap_or_default())
        .filter(|rule| rule["resources"] == json!(["secrets"]))
        .collect();
    assert_eq!(secrets.len(), 1);
    assert_eq!(secrets[0]["verbs"], json!(["get", "create", "patch"]), "by name, never listed");
}

#[test]
fn what_it_says_is_yaml() {
    use serde::Deserialize as _;
    let text = stream(&options()).expect("prints");
    let documents: Vec<Value> = serde_yaml_ng::Deserializer::from_str(&text)
        .map(|it| Value::deserialize(it).expect("YAML"))
        .collect();
    assert_eq!(documents, objects(&options()).expect("prints"));
}

#[test]
fn a_category_is_no_kinds_name() {
    // kubectl takes a word for a category first: `kubectl get desktopstream x` would ask for all kinds in it.
    for crd in crds::all().expect("prints") {
        let names = crd.spec.names;
        let own = [Some(names.plural), names.singular]
            .into_iter()
            .flatten()
            .chain(names.short_names.unwrap_or_default());
        let own: Vec<String> = own.collect();
        assert!(names.categories.unwrap_or_default().iter().all(|category| !own.contains(category)));
    }
}
