//! `operator install-manifests` installs what the chart does by default: the same rights, the same questions of the
//! apiserver to us, the same limits to a node-agent.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use super::objects::Rendered;
use super::{rendered_with, rights};

fn manifests() -> Rendered {
    let mut command = Command::new(env!("CARGO_BIN_EXE_operator"));
    let output = command.args(["install-manifests", "--namespace", "system"]).output().expect("it starts");
    Rendered::read(&String::from_utf8(output.stdout).expect("text"))
}

#[test]
#[ignore = "needs helm; run by ./x test cluster"]
fn both_give_the_same_rights() {
    let mut by_chart = rights(&rendered_with("default").objects);
    by_chart.retain(|(who, ..)| who != "helm test");
    let by_manifests = rights(&manifests().objects);
    let only = |a: &BTreeSet<_>, b: &BTreeSet<_>| a.difference(b).cloned().collect::<Vec<_>>();
    let (chart, manifests) = (only(&by_chart, &by_manifests), only(&by_manifests, &by_chart));
    assert!(
        chart.is_empty() && manifests.is_empty(),
        "only the chart: {chart:#?}; only the other: {manifests:#?}"
    );
}

#[test]
#[ignore = "needs helm; run by ./x test cluster"]
fn both_ask_the_same_of_us() {
    let (chart, manifests) = (rendered_with("default"), manifests());
    let hooks = |all: &Rendered, kind: &str| {
        let hooks = all.find(kind, "desktopstream").expect("hooks")["webhooks"].as_array().cloned();
        let mut hooks = hooks.expect("a list");
        for hook in &mut hooks {
            // The ports are the Services'.
            if let Some(service) = hook["clientConfig"]["service"].as_object_mut() {
                service.remove("port");
            }
        }
        hooks
    };
    for kind in ["ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"] {
        assert_eq!(hooks(&chart, kind), hooks(&manifests, kind), "{kind}");
    }
}

#[test]
#[ignore = "needs helm; run by ./x test cluster"]
fn both_hold_a_node_agent_to_its_node() {
    let spec = |all: &Rendered| {
        let policy = all.find("ValidatingAdmissionPolicy", "desktopstream-node").expect("a policy").clone();
        let text = |value: &Value| value.to_string().split_whitespace().collect::<String>();
        ["matchConstraints", "variables", "failurePolicy", "validations"]
            .map(|key| text(&policy["spec"][key]))
    };
    assert_eq!(spec(&rendered_with("default")), spec(&manifests()));
}
