//! The Helm chart, installed with locally built images and short intervals.

use anyhow::{Context as _, Result};

use super::{SYSTEM, Testbed, images};

/// Release name.
pub const RELEASE: &str = "desktopstream";

/// Folder of the chart.
pub fn folder() -> String {
    lab::repository().join("charts/desktopstream").display().to_string()
}

/// Runs `helm VERB` (`install`, `upgrade`) with the chart, the values that all tests use, and `arguments`; returns helm's
/// stdout.
///
/// # Errors
/// If helm fails, with the logs of operator and node-agents.
pub fn helm(bed: &Testbed, verb: &[&str], arguments: &[&str]) -> Result<String> {
    let (operator, tag) = images::OPERATOR.rsplit_once(':').context("the image has no tag")?;
    let values = [
        format!("image.repository={operator},image.tag={tag},image.pullPolicy=Never"),
        format!("sidecar.image={},sidecar.pullPolicy=Never", images::SIDECAR),
        "node.reachEvery=2s,operator.poll=3s".to_owned(),
    ];
    let folder = folder();
    let mut all = verb.to_vec();
    all.extend([RELEASE, &folder, "-n", SYSTEM, "--wait", "--timeout=300s"]);
    all.extend(values.iter().flat_map(|set| ["--set", set.as_str()]));
    all.extend(arguments);
    bed.cluster.helm(&all).with_context(|| bed.logs())
}
