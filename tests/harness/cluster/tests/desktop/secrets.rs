//! Viewers' tokens that change while a desktop runs.

use anyhow::{Result, ensure};
use base64::Engine as _;
use cluster::product::{Installed, TIMEOUT, condition};
use serde_json::json;

use crate::{pattern, start};

pub fn deleted_viewer_secret_is_created_again(bed: &Installed) -> Result<()> {
    let pod = start(bed, "forgotten", &json!({}))?;
    let before = bed.get(&["secret", "forgotten-viewer"])?["data"]["token"].clone();
    bed.cluster.kubectl(&["delete", "secret", "forgotten-viewer"])?;
    bed.cluster.kubectl(&["delete", "pod", "forgotten-desktop", "--grace-period=1"])?;
    bed.eventually("another pod", || {
        let after = bed.get(&["pod", "forgotten-desktop"])?;
        ensure!(after["metadata"]["uid"] != pod["metadata"]["uid"], "the same pod");
        Ok(())
    })?;
    bed.await_object("secret", "forgotten-viewer")?;
    let after = bed.get(&["secret", "forgotten-viewer"])?["data"]["token"].clone();
    ensure!(after != before, "the deleted token is in force again");
    bed.cluster.wait("default", "pod/forgotten-desktop", "condition=Ready", TIMEOUT)?;
    bed.await_ready("forgotten")?;
    bed.delete_streams(&["forgotten"])
}

/// The operator may not read the Secret: the pod waits for it, and the condition names it.
pub fn missing_viewer_secret_is_named_until_it_exists(bed: &Installed) -> Result<()> {
    bed.apply_stream("missing", &pattern(&json!({"viewers": {"auth": {"secretName": "missing"}}})))?;
    bed.eventually("a message that names the Secret", || {
        let stream = bed.get(&["desktopstream", "missing"])?;
        let devices = condition(&stream, "DevicesReady");
        let message = devices["message"].as_str().unwrap_or_default();
        ensure!(devices["reason"] == "Waiting" && message.contains("Secret missing"), "{devices}");
        Ok(())
    })?;
    let token = "--from-literal=token=0123456789abcdef0123456789abcdef";
    bed.cluster.kubectl(&["create", "secret", "generic", "missing", token])?;
    bed.await_ready("missing")?;
    bed.delete_streams(&["missing"])?;
    bed.cluster.kubectl(&["delete", "secret", "missing"])?;
    Ok(())
}

/// The kubelet updates the sidecar's file within about a minute, and the sidecar follows it.
pub fn rotated_viewer_token_is_followed(bed: &Installed) -> Result<()> {
    let token = |text: &str| {
        let data = base64::engine::general_purpose::STANDARD.encode(text);
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "rotated"}, "data": {"token": data}})
    };
    bed.cluster.apply(&token("0123456789abcdef0123456789abcdef").to_string())?;
    start(bed, "rotated", &json!({"viewers": {"auth": {"secretName": "rotated"}}}))?;
    let before = bed.get(&["desktopstream", "rotated"])?["status"]["stats"]["at"].clone();
    bed.cluster.apply(&token("fedcba9876543210fedcba9876543210").to_string())?;
    bed.eventually("statistics that were read with the other token", || {
        let stream = bed.get(&["desktopstream", "rotated"])?;
        let reason = condition(&stream, "Ready")["reason"].clone();
        ensure!(reason != "SidecarSilent" && reason != "StatusRefused", "{}", stream["status"]);
        let pod = bed.get(&["pod", "rotated-desktop"])?;
        ensure!(pod["status"]["phase"] == "Running", "{}", pod["status"]);
        ensure!(stream["status"]["stats"]["at"] != before, "the first statistics");
        Ok(())
    })?;
    bed.await_ready("rotated")?;
    bed.delete_streams(&["rotated"])?;
    bed.cluster.kubectl(&["delete", "secret", "rotated"])?;
    Ok(())
}
