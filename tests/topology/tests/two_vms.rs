//! Two VMs: resource IDs of both are the same numbers, and both reach every host-agent. Whose frames a stream's are is
//! proved, not looked up.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::Desktop;
use e2e::browser::{self, in_order};
use serde_json::json;
use topology::pieces::{Viewers, stream};
use topology::{HOST_AGENTS, Options, Topology};

/// For a desktop on an emulated processor.
const PATIENCE: Duration = Duration::from_secs(300);

#[test]
#[ignore = "slow: ./x test slow"]
fn two_vms_with_one_host_agent() -> Result<()> {
    each_stream_is_its_vms_own(1)
}

/// The first stream is paired with the first host-agent, which has the other VM: it must find its own.
#[test]
#[ignore = "slow: ./x test slow"]
fn two_vms_with_a_host_agent_each() -> Result<()> {
    each_stream_is_its_vms_own(2)
}

fn each_stream_is_its_vms_own(host_agents: usize) -> Result<()> {
    browser::install()?;
    let name = format!("two-vms-{host_agents}");
    let options = Options { name: name.clone(), vms: 2, host_agents, desktops: vec![Desktop::Pattern] };
    let it = Topology::up(&options)?;
    let nodes = ["vm3", "vm2"];
    for node in nodes {
        let mut stream = stream("default", node, Desktop::Pattern, (640, 360));
        stream["spec"]["desktop"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
        stream["spec"]["hostAgent"] = json!({});
        it.bed.cluster.apply(&stream.to_string())?;
        // Paired before the next one is, so that it is known with whom.
        it.bed.eventually("it is paired", || {
            ensure!(it.status(node)?["hostAgent"].is_string(), "{}", it.status(node)?);
            Ok(())
        })?;
        println!("         {node}: paired with {} at first", it.status(node)?["hostAgent"]);
    }
    for (node, owner) in [("vm2", 0), ("vm3", 1 % host_agents)] {
        let took = it.ready("default", node, PATIENCE)?;
        let found = it.status(node)?;
        ensure!(found["node"] == node && found["capture"]["rung"] == "ResourceId", "{found}");
        ensure!(found["hostAgent"] == HOST_AGENTS[owner].0, "{found}");
        let viewers = Viewers::of(&it.bed, "default", node)?;
        in_order(&browser::Watch::start(&viewers.url(), &viewers.token, 8, 1, 0)?.finish()?, 10, 0)?;
        let logs = it.bed.cluster.logs("default", &format!("{node}-desktop"), "desktopstream-sidecar")?;
        let bound = logs.lines().rfind(|line| line.contains(" bound ")).context("it was never bound")?;
        ensure!(bound.contains(&format!("{name}-{node}")), "{bound}");
        println!("         {node}: after {:.0} s more: {bound}", took.as_secs_f64());
    }
    Ok(())
}
