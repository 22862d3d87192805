//! Two VMs whose resource IDs are the same numbers, and which both reach all host-agents: a stream's frames must come from its
//! own VM, which the host-agent proves with a nonce.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cluster::suite::Suite;
use e2e::Desktop;
use e2e::browser::{self, in_order};
use serde_json::json;
use topology::{HOST_AGENTS, Options, Topology, Viewers, stream};

/// Limit of each wait; desktops start on an emulated processor.
const TIMEOUT: Duration = Duration::from_secs(480);

fn main() -> ExitCode {
    Suite::new()
        .test("streams_of_two_vms_with_one_host_agent_show_their_own_vm", || each_stream_shows_its_own_vm(1))
        .test("streams_of_two_vms_with_a_host_agent_each_find_their_own_one", || {
            each_stream_shows_its_own_vm(2)
        })
        .main()
}

/// With two host-agents, the first stream is first paired with the host-agent of the other VM.
fn each_stream_shows_its_own_vm(host_agents: usize) -> Result<()> {
    browser::install()?;
    let name = format!("two-vms-{host_agents}");
    let options = Options { name: name.clone(), vms: 2, host_agents, desktops: vec![Desktop::Pattern] };
    let topology = Topology::up(&options)?;
    for node in ["vm3", "vm2"] {
        let mut stream = stream("default", node, Desktop::Pattern, (640, 360));
        stream["spec"]["desktop"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
        stream["spec"]["hostAgent"] = json!({});
        topology.bed.cluster.apply(&stream.to_string())?;
        // Streams are paired one after the other, which determines with which host-agent.
        let paired = topology.bed.eventually(&format!("{node} is paired"), || {
            let status = topology.status(node)?;
            Ok(status["hostAgentName"].as_str().with_context(|| status.to_string())?.to_owned())
        })?;
        println!("         {node}: paired with {paired} at first");
    }
    for (node, owner) in [("vm2", 0), ("vm3", 1 % host_agents)] {
        let took = topology.await_ready("default", node, TIMEOUT)?;
        let status = topology.status(node)?;
        ensure!(status["nodeName"] == node, "{status}");
        ensure!(status["capture"]["framePath"] == "ResourceId", "{status}");
        ensure!(status["hostAgentName"] == HOST_AGENTS[owner].0, "{status}");
        let viewers = Viewers::of(&topology.bed, "default", node)?;
        in_order(&browser::Watch::start(&viewers.url(), &viewers.token, 10, 1, 0)?.finish()?, 10, 0)?;
        let sessions = topology.host_agents[owner].status()?.sessions;
        let session = sessions.iter().find(|it| it.stream == format!("default/{node}"));
        let session = session.with_context(|| format!("no session of {node}: {sessions:?}"))?;
        ensure!(session.vm.as_deref() == Some(&format!("{name}-{node}")), "{session:?}");
        println!("         {node}: ready {:.0} s later, bound to {:?}", took.as_secs_f64(), session.vm);
    }
    Ok(())
}
