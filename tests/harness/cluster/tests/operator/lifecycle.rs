//! Changes of a stream: replaced pods, suspension, homes, expiry.

use anyhow::{Result, ensure};
use cluster::product::{Installed, spec_without_gpu};
use serde_json::json;

pub fn changed_desktop_replaces_the_pod_with_an_event(bed: &Installed) -> Result<()> {
    bed.apply_stream("changed", &spec_without_gpu())?;
    let uid = bed.await_object("pod", "changed-desktop")?["metadata"]["uid"].clone();
    let mut spec = spec_without_gpu();
    spec["desktop"]["image"] = "docker.io/local/other:2".into();
    bed.apply_stream("changed", &spec)?;
    let pod = bed.eventually("another pod", || {
        let pod = bed.get(&["pod", "changed-desktop"])?;
        ensure!(pod["metadata"]["uid"] != uid, "the same pod");
        Ok(pod)
    })?;
    ensure!(pod["spec"]["containers"][0]["image"] == "docker.io/local/other:2", "{}", pod["spec"]);
    bed.eventually("an Event PodReplaced that names the field", || {
        let events = bed.cluster.kubectl(&["get", "events", "-o", "json"])?;
        ensure!(events.contains("PodReplaced") && events.contains("spec.desktop"), "no such Event");
        Ok(())
    })?;
    bed.delete_streams(&["changed"])
}

pub fn changed_service_port_keeps_the_pod(bed: &Installed) -> Result<()> {
    let mut spec = spec_without_gpu();
    bed.apply_stream("port", &spec)?;
    let before = bed.await_object("pod", "port-desktop")?;
    spec["viewers"] = json!({"service": {"port": 8000}});
    bed.apply_stream("port", &spec)?;
    bed.eventually("the Service has the new port", || {
        let service = bed.get(&["service", "port-viewers"])?;
        ensure!(service["spec"]["ports"][0]["port"] == 8000, "{}", service["spec"]["ports"]);
        Ok(())
    })?;
    let after = bed.await_object("pod", "port-desktop")?;
    ensure!(after["metadata"]["uid"] == before["metadata"]["uid"], "the pod was replaced");
    bed.delete_streams(&["port"])
}

pub fn suspended_stream_keeps_its_home_and_resumes(bed: &Installed) -> Result<()> {
    let mut spec = spec_without_gpu();
    spec["desktop"]["home"] = json!({"size": "1Gi"});
    bed.apply_stream("suspended", &spec)?;
    bed.await_object("pod", "suspended-desktop")?;
    spec["operatingMode"] = "Suspended".into();
    bed.apply_stream("suspended", &spec)?;
    bed.await_deleted("pod", "suspended-desktop")?;
    bed.await_reason("suspended", "Ready", "Suspended")?;
    bed.await_object("pvc", "suspended-home")?;
    spec["operatingMode"] = "Running".into();
    bed.apply_stream("suspended", &spec)?;
    bed.await_object("pod", "suspended-desktop")?;
    bed.delete_streams(&["suspended"])
}

pub fn home_with_on_delete_keep_outlives_its_stream(bed: &Installed) -> Result<()> {
    let mut spec = spec_without_gpu();
    spec["desktop"]["home"] = json!({"size": "1Gi", "onDelete": "Keep"});
    bed.apply_stream("kept", &spec)?;
    let before = bed.await_object("pvc", "kept-home")?;
    bed.await_object("pod", "kept-desktop")?;
    bed.delete_streams(&["kept"])?;
    let after = bed.await_object("pvc", "kept-home")?;
    ensure!(after["metadata"]["uid"] == before["metadata"]["uid"], "another claim");
    ensure!(after["metadata"]["deletionTimestamp"].is_null(), "the claim is being deleted");
    bed.cluster.kubectl(&["delete", "pvc", "kept-home", "--wait=false"])?;
    Ok(())
}

pub fn stream_is_deleted_after_its_ttl(bed: &Installed) -> Result<()> {
    let mut spec = spec_without_gpu();
    spec["lifecycle"] = json!({"ttlSeconds": 3});
    bed.apply_stream("short", &spec)?;
    bed.await_deleted("desktopstream", "short")?;
    bed.await_deleted("pod", "short-desktop")
}
