//! The installation's own check, and its roles.

use anyhow::{Context as _, Result, ensure};
use cluster::product::{Installed, SYSTEM, rights};

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
    let actions: [(&str, bool, &[&str]); 9] = [
        ("operator", true, &["patch", "pods"]),
        ("operator", true, &["get", "secrets/one"]),
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

pub fn node_agent_may_write_its_facts_on_its_own_node_only(bed: &Installed) -> Result<()> {
    rights::check_node_agent(bed)
}
