//! Limits of the node-agents' rights, which are the same for both ways to install.

use anyhow::{Result, ensure};
use serde_json::json;

use super::Testbed;

/// Patches of a Node that a node-agent must be refused: the Node, the patch, a part of the refusal.
const REFUSED: [(&str, &str, &str); 6] = [
    ("other", r#"{"metadata": {"labels": {"desktopstream.dev/render-gid": "4109"}}}"#, "own Node"),
    ("n1", r#"{"metadata": {"labels": {"team": "mine"}}}"#, "labels"),
    ("n1", r#"{"metadata": {"labels": {"node-role.kubernetes.io/x": ""}}}"#, "labels"),
    ("n1", r#"{"metadata": {"labels": {"kubernetes.io/hostname": null}}}"#, "labels"),
    ("n1", r#"{"metadata": {"annotations": {"team": "mine"}}}"#, "annotations"),
    ("n1", r#"{"spec": {"unschedulable": true}}"#, "spec"),
];

/// Checks with the token of the node-agent of `n1` that it may write only desktopstream's labels and annotations, and only on
/// its own Node.
pub fn check_node_agent(bed: &Testbed) -> Result<()> {
    let kubeconfig = bed.node_agent_kubeconfig()?.display().to_string();
    let patch = |node: &str, patch: &str| {
        bed.cluster.try_kubectl(&["--kubeconfig", &kubeconfig, "patch", "node", node, "-p", patch])
    };
    let other = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "other"}});
    bed.cluster.apply(&other.to_string())?;
    let checked = (|| {
        for (node, change, refusal) in REFUSED {
            let output = patch(node, change)?;
            ensure!(!output.success() && output.stderr.contains(refusal), "{node} {change}: {output:?}");
        }
        for part in ["labels", "annotations"] {
            let change = json!({"metadata": {part: {"desktopstream.dev/tried": "yes"}}});
            patch("n1", &change.to_string())?.ok()?;
        }
        Ok(())
    })();
    bed.cluster.kubectl(&["delete", "node", "other"])?;
    for verb in ["label", "annotate"] {
        bed.cluster.kubectl(&[verb, "node", "n1", "desktopstream.dev/tried-"])?;
    }
    checked
}
