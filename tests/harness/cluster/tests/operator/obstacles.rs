//! Obstacles on the way to a running pod: each is a condition with a remedy, and its removal is noticed.

use anyhow::{Result, ensure};
use cluster::product::{Installed, spec_without_gpu, stream};
use serde_json::{Value, json};

pub fn exceeded_quota_is_reported_until_it_is_raised(bed: &Installed) -> Result<()> {
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}},
    });
    bed.cluster.apply(&quota.to_string())?;
    bed.eventually("the quota is in force", || {
        let quota = bed.get(&["resourcequota", "none"])?;
        ensure!(quota["status"]["hard"]["pods"] == "0", "{}", quota["status"]);
        Ok(())
    })?;
    bed.apply_stream("quota", &spec_without_gpu())?;
    let message = bed.await_reason("quota", "DevicesReady", "QuotaExceeded")?;
    ensure!(message.contains("ResourceQuota"), "{message}");
    bed.cluster.kubectl(&["delete", "resourcequota", "none"])?;
    bed.await_object("pod", "quota-desktop")?;
    bed.delete_streams(&["quota"])
}

pub fn foreign_service_of_the_same_name_is_reported_and_kept(bed: &Installed) -> Result<()> {
    bed.cluster.kubectl(&["create", "service", "clusterip", "taken-viewers", "--tcp=1:1"])?;
    bed.apply_stream("taken", &spec_without_gpu())?;
    bed.await_reason("taken", "DevicesReady", "NameTaken")?;
    let service = bed.get(&["service", "taken-viewers"])?;
    ensure!(service["spec"]["ports"][0]["port"] == 1, "{}", service["spec"]["ports"]);
    bed.delete_streams(&["taken"])?;
    bed.cluster.kubectl(&["delete", "service", "taken-viewers"])?;
    Ok(())
}

/// The claim has the fields that the operator's would have.
pub fn foreign_claim_and_secret_are_reported_and_never_adopted(bed: &Installed) -> Result<()> {
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "mine-home"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    });
    bed.cluster.kubectl_with_input(&["create", "-f", "-"], &claim.to_string())?.ok()?;
    bed.cluster.kubectl(&["create", "secret", "generic", "mine-viewer", "--from-literal=other=x"])?;
    let untouched = |kind: &str, name: &str| -> Result<Value> {
        let metadata = bed.get(&[kind, name])?["metadata"].clone();
        for field in ["ownerReferences", "labels", "deletionTimestamp"] {
            ensure!(metadata[field].is_null(), "{metadata}");
        }
        Ok(metadata["uid"].clone())
    };
    let before = (untouched("pvc", "mine-home")?, untouched("secret", "mine-viewer")?);
    let mut spec = spec_without_gpu();
    for on_delete in ["Keep", "Delete"] {
        spec["desktop"]["home"] = json!({"size": "1Gi", "onDelete": on_delete});
        bed.apply_stream("mine", &spec)?;
        let message = bed.await_reason("mine", "DevicesReady", "NameTaken")?;
        ensure!(message.contains("mine-home") && message.contains("rename"), "{message}");
        // The objects that are applied after the claim exist.
        bed.await_object("service", "mine-viewers")?;
        ensure!(untouched("pvc", "mine-home")? == before.0, "{on_delete}");
        bed.delete_streams(&["mine"])?;
    }
    spec["desktop"]["home"] = json!({"size": "2Gi"});
    bed.apply_stream("mine", &spec)?;
    bed.await_reason("mine", "DevicesReady", "NameTaken")?;
    bed.delete_streams(&["mine"])?;
    ensure!(!bed.api.exists("default", "pod", "mine-desktop")?, "a pod with the user's claim");
    let after = (untouched("pvc", "mine-home")?, untouched("secret", "mine-viewer")?);
    ensure!(after == before, "{after:?}");
    bed.cluster.kubectl(&["delete", "pvc/mine-home", "secret/mine-viewer", "--wait=false"])?;
    Ok(())
}

/// A webhook of a third party whose server does not exist fails each request to create a Service.
pub fn persistent_failure_is_reported_until_it_is_over(bed: &Installed) -> Result<()> {
    let webhook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "third-party"},
        "webhooks": [{
            "name": "broken.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 1,
            "clientConfig": {"service": {"namespace": "default", "name": "nowhere", "path": "/"}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["services"]}],
        }],
    });
    bed.cluster.apply(&webhook.to_string())?;
    bed.apply_stream("broken", &spec_without_gpu())?;
    let message = bed.await_reason("broken", "Ready", "ReconcileFails")?;
    ensure!(message.contains("broken.example.com"), "{message}");
    bed.cluster.kubectl(&["delete", "validatingwebhookconfiguration", "third-party"])?;
    bed.await_object("service", "broken-viewers")?;
    bed.await_reason("broken", "DevicesReady", "Unschedulable")?;
    bed.delete_streams(&["broken"])
}

pub fn pending_volume_is_reported(bed: &Installed) -> Result<()> {
    let mut spec = spec_without_gpu();
    spec["desktop"]["home"] = json!({"size": "1Gi", "storageClassName": "none-such"});
    spec["desktop"]["nodeSelector"] = json!({});
    bed.apply_stream("volume", &spec)?;
    let message = bed.await_reason("volume", "DevicesReady", "VolumePending")?;
    ensure!(message.contains("volume-home"), "{message}");
    bed.delete_streams(&["volume"])
}

pub fn unschedulable_pod_is_reported(bed: &Installed) -> Result<()> {
    bed.apply_stream("unplaced", &spec_without_gpu())?;
    bed.await_reason("unplaced", "DevicesReady", "Unschedulable")?;
    bed.delete_streams(&["unplaced"])
}

/// Runs `check` with a stream in a namespace that enforces Pod Security `restricted`.
fn in_restricted_namespace(
    bed: &Installed,
    namespace: &str,
    spec: &Value,
    check: impl FnOnce() -> Result<()>,
) -> Result<()> {
    bed.cluster.kubectl(&["create", "namespace", namespace])?;
    let checked = (|| {
        let label = "pod-security.kubernetes.io/enforce=restricted";
        bed.cluster.kubectl(&["label", "namespace", namespace, label])?;
        let mut object = stream("desk", spec);
        object["metadata"]["namespace"] = namespace.into();
        bed.cluster.apply(&object.to_string())?;
        check()
    })();
    bed.cluster.kubectl(&["delete", "namespace", namespace, "--wait=false"])?;
    checked
}

pub fn pod_security_violation_is_reported(bed: &Installed) -> Result<()> {
    let mut spec = spec_without_gpu();
    spec["desktop"]["securityContext"] = json!({"runAsUser": 0});
    in_restricted_namespace(bed, "violating", &spec, || {
        bed.eventually("the violation is reported", || {
            let status = bed.get(&["-n", "violating", "desktopstream", "desk"])?["status"].clone();
            ensure!(status["phase"] == "Failed", "{status}");
            ensure!(status.to_string().contains("violates PodSecurity"), "{status}");
            Ok(())
        })
    })
}

pub fn default_pod_fits_pod_security_restricted(bed: &Installed) -> Result<()> {
    in_restricted_namespace(bed, "restricted", &spec_without_gpu(), || {
        bed.eventually("the pod is created", || bed.get(&["-n", "restricted", "pod", "desk-desktop"]))
            .map(drop)
    })
}
