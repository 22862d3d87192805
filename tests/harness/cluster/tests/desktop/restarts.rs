//! Restarts of the operator, which running streams do not notice.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cluster::product::late::LateList;
use cluster::product::{Installed, condition, http};
use serde_json::json;

use crate::{start, start_paired, with_host_agent_object};

/// Delay of the Nodes' list after all other kinds are listed.
const LATE: Duration = Duration::from_secs(10);
/// Number of kinds that the operator watches, besides Nodes.
const OTHER_KINDS: usize = 7;
/// Port of the operator's metrics.
const METRICS_PORT: u16 = 8081;

pub fn late_node_list_unpairs_no_stream(bed: &Installed) -> Result<()> {
    with_host_agent_object(bed, || {
        let _agent = start_paired(bed, "late")?;
        let secret = || bed.get(&["secret", "late-host-agent"]).map(|it| it["data"].clone());
        let (before, pod) = (secret()?, bed.get(&["pod", "late-desktop"])?["metadata"]["uid"].clone());
        ensure!(before["endpoint"].is_string(), "the Secret is empty: {before}");
        bed.scale(0)?;
        let proxy = LateList::start(bed.api.address(), "/api/v1/nodes")?;
        let operator = bed.start_operator_through(proxy.address(), "late")?;
        bed.eventually("all other kinds are watched", || {
            let (waiting, watches) = (proxy.waiting(), proxy.watches());
            ensure!(waiting > 0 && watches >= OTHER_KINDS, "{waiting} lists wait, {watches} watches");
            Ok(())
        })?;
        let is_paired = || {
            let stream = bed.get(&["desktopstream", "late"])?;
            ensure!(condition(&stream, "Paired")["status"] == "True", "{}", stream["status"]);
            ensure!(stream["status"]["hostAgentName"] == "default", "{}", stream["status"]);
            ensure!(secret()?["endpoint"] == before["endpoint"], "the Secret was emptied");
            Ok(())
        };
        let released = Instant::now() + LATE;
        while Instant::now() < released {
            is_paired()?;
            sleep(Duration::from_millis(250));
        }
        proxy.release();
        operator.await_leading(bed)?;
        is_paired()?;
        let after = bed.get(&["pod", "late-desktop"])?["metadata"]["uid"].clone();
        ensure!(after == pod, "the pod was replaced");
        drop(operator);
        // A killed operator does not release its Lease.
        bed.cluster.kubectl(&[
            "-n",
            cluster::product::SYSTEM,
            "delete",
            "lease",
            "desktopstream-operator",
        ])?;
        bed.reinstall()?;
        bed.delete_streams(&["late"])
    })
}

pub fn restarted_operator_keeps_streams_ready(bed: &Installed) -> Result<()> {
    start(bed, "steady", &json!({}))?;
    let ready = || {
        let stream = bed.get(&["desktopstream", "steady"])?;
        ensure!(stream["status"]["phase"] == "Streaming", "{}", stream["status"]);
        Ok(condition(&stream, "Ready")["lastTransitionTime"].clone())
    };
    let before = ready()?;
    bed.scale(0)?;
    bed.scale(1)?;
    bed.eventually("an operator leads", || bed.leader().context("no leader"))?;
    let pods = bed.operator_pods()?;
    let address = pods.first().and_then(|pod| pod["status"]["podIP"].as_str()).context("no operator")?;
    let metrics = bed.cluster.forward(SocketAddr::new(address.parse()?, METRICS_PORT))?;
    bed.eventually("the sidecar was polled twice", || {
        let (_, body) = http::get(metrics.address(), "/metrics", None)?;
        let text = String::from_utf8(body)?;
        let line = text.lines().find(|it| it.starts_with("desktopstream_operator_sidecar_polls_total"));
        let polls: u64 = line.and_then(|it| it.rsplit(' ').next()).context("no metric")?.parse()?;
        ensure!(polls >= 2, "{polls} polls");
        Ok(())
    })?;
    ensure!(ready()? == before, "Ready changed");
    bed.await_installation()?;
    bed.delete_streams(&["steady"])
}
