//! The installation's own check, and its roles.

use anyhow::{Context as _, Result, ensure};
use cluster::product::{Installed, SYSTEM, rights};
use serde_json::json;

pub fn operator_check_of_a_sound_installation_passes(bed: &Installed) -> Result<()> {
    let pods = bed.operator_pods()?;
    let pod = pods.first().and_then(|pod| pod["metadata"]["name"].as_str()).context("no operator")?;
    let report =
        bed.cluster.exec(SYSTEM, pod, "operator", &["operator", "check", "--namespace", SYSTEM])?.ok()?;
    println!("{report}");
    for line in ["ok    kinds", "ok    leader", "ok    webhook", "ok    nodes: 1 of 1"] {
        ensure!(report.contains(line), "no line {line:?}: {report}");
    }
    Ok(())
}

pub fn operator_role_lacks_rights_that_it_does_not_need(bed: &Installed) -> Result<()> {
    let may = |account: &str, action: &[&str]| -> Result<bool> {
        let user = format!("--as=system:serviceaccount:{SYSTEM}:desktopstream-{account}");
        let arguments = [&["auth", "can-i", &user], action].concat();
        Ok(bed.cluster.try_kubectl(&arguments)?.stdout.trim() == "yes")
    };
    let actions: [(&str, bool, &[&str]); 13] = [
        ("operator", true, &["delete", "pods"]),
        ("operator", false, &["patch", "pods"]),
        ("operator", true, &["update", "secrets/one"]),
        ("operator", false, &["get", "secrets/one"]),
        ("operator", false, &["patch", "secrets/one"]),
        ("operator", false, &["delete", "services"]),
        ("operator", false, &["list", "secrets"]),
        ("operator", false, &["delete", "secrets"]),
        ("operator", false, &["create", "pods", "--subresource=exec"]),
        ("operator", false, &["delete", "persistentvolumeclaims"]),
        ("node", true, &["patch", "nodes"]),
        ("node", false, &["list", "pods"]),
        ("node", false, &["update", "nodes"]),
    ];
    for (account, expected, action) in actions {
        ensure!(may(account, action)? == expected, "{account} {action:?}: expected {expected}");
    }
    Ok(())
}

/// Its role lets the operator write Secrets of all names; a policy limits it to those of streams.
pub fn operator_may_write_secrets_of_streams_only(bed: &Installed) -> Result<()> {
    let user = format!("--as=system:serviceaccount:{SYSTEM}:desktopstream-operator");
    let write = |verb: &str, name: &str, kind: &str, data: &str| {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "default"}, "type": kind,
            "stringData": {"token": data},
        });
        bed.cluster.kubectl_with_input(&[verb, &user, "-f", "-"], &secret.to_string())
    };
    bed.cluster.kubectl(&["create", "secret", "generic", "theirs", "--from-literal=token=theirs"])?;
    let policy = "the operator may write the Secrets of streams";
    for (verb, name, kind, expected) in [
        ("create", "new", "Opaque", policy),
        ("create", "desktopstream-signing-key", "Opaque", policy),
        ("replace", "theirs", "Opaque", policy),
        ("replace", "theirs", "desktopstream.dev/stream-u-1", "immutable"),
    ] {
        let answer = write(verb, name, kind, "x")?;
        let error = answer.ok().expect_err("refused").to_string();
        ensure!(error.contains(expected), "{verb} {name} of type {kind}: {error}");
    }
    write("create", "ours", "desktopstream.dev/stream-u-1", "one")?.ok()?;
    write("replace", "ours", "desktopstream.dev/stream-u-1", "two")?.ok()?;
    let data = bed.get(&["secret", "theirs"])?["data"]["token"].clone();
    ensure!(data == "dGhlaXJz", "the Secret was changed: {data}");
    bed.cluster.kubectl(&["delete", "secret/theirs", "secret/ours"])?;
    Ok(())
}

pub fn node_agent_may_write_its_facts_on_its_own_node_only(bed: &Installed) -> Result<()> {
    rights::check_node_agent(bed)
}
