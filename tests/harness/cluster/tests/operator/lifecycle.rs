//! Changes of a stream: replaced pods, suspension, homes, expiry.

use anyhow::{Result, ensure};
use cluster::product::{Installed, TIMEOUT, spec_without_gpu};
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

pub fn kept_home_outlives_a_later_stream_that_deletes_homes(bed: &Installed) -> Result<()> {
    let mut spec = spec_without_gpu();
    let mut before = json!(null);
    for (size, on_delete) in [("1Gi", "Keep"), ("1Gi", "Delete")] {
        spec["desktop"]["home"] = json!({"size": size, "onDelete": on_delete});
        bed.apply_stream("heir", &spec)?;
        let claim = bed.await_object("pvc", "heir-home")?;
        bed.await_object("pod", "heir-desktop")?;
        ensure!(before.is_null() || claim["metadata"]["uid"] == before, "another claim");
        before = claim["metadata"]["uid"].clone();
        bed.delete_streams(&["heir"])?;
    }
    let claim = bed.get(&["pvc", "heir-home"])?;
    ensure!(claim["metadata"]["ownerReferences"].is_null(), "{}", claim["metadata"]);
    ensure!(claim["metadata"]["deletionTimestamp"].is_null(), "{}", claim["metadata"]);
    bed.cluster.kubectl(&["delete", "pvc", "heir-home", "--wait=false"])?;
    Ok(())
}

/// Only a bound claim of a class that allows it can grow.
pub fn home_that_its_user_has_grown_keeps_the_stream(bed: &Installed) -> Result<()> {
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "growing"},
        "provisioner": "example.com/none", "allowVolumeExpansion": true,
    });
    let volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "growing"},
        "spec": {
            "capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "growing",
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/var/lib/growing"},
        },
    });
    bed.cluster.apply(&class.to_string())?;
    bed.cluster.apply(&volume.to_string())?;
    let mut spec = spec_without_gpu();
    spec["desktop"]["home"] = json!({"size": "1Gi", "storageClassName": "growing"});
    bed.apply_stream("grown", &spec)?;
    bed.cluster.wait("default", "pvc/grown-home", "jsonpath={.status.phase}=Bound", TIMEOUT)?;
    let grow = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}}).to_string();
    bed.cluster.kubectl(&["patch", "pvc", "grown-home", "--type=merge", "-p", &grow])?;
    let before = bed.await_object("pod", "grown-desktop")?;
    bed.cluster.kubectl(&["delete", "pod", "grown-desktop", "--grace-period=0", "--force"])?;
    bed.eventually("another pod", || {
        let after = bed.get(&["pod", "grown-desktop"])?;
        ensure!(after["metadata"]["uid"] != before["metadata"]["uid"], "the same pod");
        Ok(())
    })?;
    bed.await_reason("grown", "DevicesReady", "Unschedulable")?;
    let claim = bed.get(&["pvc", "grown-home"])?;
    ensure!(claim["spec"]["resources"]["requests"]["storage"] == "2Gi", "{}", claim["spec"]);
    bed.delete_streams(&["grown"])?;
    bed.cluster.kubectl(&["delete", "pv/growing", "storageclass/growing", "--wait=false"])?;
    Ok(())
}

pub fn stream_that_is_created_again_at_once_waits_for_its_remains(bed: &Installed) -> Result<()> {
    let mut spec = spec_without_gpu();
    spec["desktop"]["home"] = json!({"size": "1Gi"});
    bed.apply_stream("again", &spec)?;
    bed.await_object("pod", "again-desktop")?;
    bed.cluster.kubectl(&["delete", "desktopstream", "again"])?;
    bed.apply_stream("again", &spec)?;
    let uid = bed.get(&["desktopstream", "again"])?["metadata"]["uid"].clone();
    for (kind, name) in [("pvc", "again-home"), ("pod", "again-desktop"), ("secret", "again-viewer")] {
        bed.eventually(&format!("{kind} {name} of the second stream"), || {
            let owner = bed.get(&[kind, name])?["metadata"]["ownerReferences"][0]["uid"].clone();
            ensure!(owner == uid, "it belongs to {owner}, not {uid}");
            Ok(())
        })?;
    }
    let events = bed.api.list("default", "event", "")?;
    let taken = events.iter().find(|it| it["regarding"]["name"] == "again" && it["reason"] == "NameTaken");
    ensure!(taken.is_none(), "{taken:?}");
    bed.delete_streams(&["again"])
}

pub fn stream_is_deleted_after_its_ttl(bed: &Installed) -> Result<()> {
    let mut spec = spec_without_gpu();
    spec["lifecycle"] = json!({"ttlSeconds": 3});
    bed.apply_stream("short", &spec)?;
    bed.await_deleted("desktopstream", "short")?;
    bed.await_deleted("pod", "short-desktop")
}
