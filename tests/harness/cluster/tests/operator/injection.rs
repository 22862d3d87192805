//! Sidecars in pods of other controllers.

use anyhow::{Result, ensure};
use cluster::product::{Installed, TIMEOUT, images};
use serde_json::{Value, json};

/// Label of a namespace with injection.
const ENABLED: &str = "desktopstream.dev/inject";

/// Runs `check` while injection is enabled in `default`.
pub fn with_injection(bed: &Installed, check: impl FnOnce() -> Result<()>) -> Result<()> {
    bed.cluster.kubectl(&["label", "--overwrite", "namespace", "default", &format!("{ENABLED}=enabled")])?;
    let checked = check();
    bed.cluster.kubectl(&["label", "namespace", "default", &format!("{ENABLED}-")])?;
    checked
}

/// A pod that asks by label for the sidecar of `stream`.
pub fn labelled_pod(name: &str, stream: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {(ENABLED): stream}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "a", "image": images::DESKTOP, "imagePullPolicy": "Never", "args": ["wait"]}],
        },
    })
}

/// A stream that is attached to a workload.
fn attached(kind: &str, name: &str) -> Value {
    json!({
        "attach": {"kind": kind, "name": name}, "gpu": {"count": 0}, "encode": {"placement": "Sidecar"},
        "capture": {"source": "TestPattern", "width": 320, "height": 180, "maxFramerate": 5},
    })
}

/// A workload whose pod runs the probe with these arguments.
fn workload(version: &str, kind: &str, name: &str, args: &[&str]) -> Value {
    let is_job = kind == "Job";
    let mut spec = json!({
        "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {
                "restartPolicy": if is_job { "Never" } else { "Always" }, "terminationGracePeriodSeconds": 1,
                "securityContext": {"runAsUser": 1000},
                "containers": [{"name": "shell", "image": images::DESKTOP, "imagePullPolicy": "Never", "args": args}],
            },
        },
    });
    if !is_job {
        spec["selector"] = json!({"matchLabels": {"app": name}});
    }
    if kind == "StatefulSet" {
        spec["serviceName"] = name.into();
    }
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// Checks that the workload's pod gets the sidecar and the stream's label; then runs `check`.
fn is_injected(bed: &Installed, workload: &Value, check: impl FnOnce(&str) -> Result<()>) -> Result<()> {
    let kind = workload["kind"].as_str().unwrap_or_default();
    let name = workload["metadata"]["name"].as_str().unwrap_or_default();
    with_injection(bed, || {
        bed.apply_stream(name, &attached(kind, name))?;
        bed.cluster.apply(&workload.to_string())?;
        let pod = bed.eventually(&format!("a pod of {kind} {name}"), || {
            let pods = bed.get(&["pods", "-l", &format!("app={name}")])?;
            ensure!(pods["items"][0].is_object(), "no pod");
            Ok(pods["items"][0].clone())
        })?;
        let sidecar = &pod["spec"]["initContainers"][0];
        ensure!(
            sidecar["name"] == "desktopstream-sidecar" && sidecar["restartPolicy"] == "Always",
            "{sidecar}"
        );
        ensure!(pod["metadata"]["labels"]["desktopstream.dev/stream"] == name, "{}", pod["metadata"]);
        check(name)?;
        bed.cluster.kubectl(&["delete", &format!("{kind}/{name}"), &format!("desktopstream/{name}")])?;
        Ok(())
    })
}

fn streams(bed: &Installed, name: &str) -> Result<()> {
    bed.await_reason(name, "Streaming", "ByLocalEncoder")?;
    bed.await_ready(name)
}

pub fn deployment_pod_gets_a_sidecar_and_streams(bed: &Installed) -> Result<()> {
    is_injected(bed, &workload("apps/v1", "Deployment", "kiosk", &["wait"]), |name| streams(bed, name))
}

pub fn stateful_set_pod_gets_a_sidecar_and_streams(bed: &Installed) -> Result<()> {
    is_injected(bed, &workload("apps/v1", "StatefulSet", "wall", &["wait"]), |name| streams(bed, name))
}

pub fn job_pod_gets_a_sidecar_and_completes(bed: &Installed) -> Result<()> {
    is_injected(bed, &workload("batch/v1", "Job", "render", &["id"]), |name| {
        bed.cluster.wait("default", &format!("job/{name}"), "condition=Complete", TIMEOUT)
    })
}

pub fn labelled_pod_gets_a_sidecar(bed: &Installed) -> Result<()> {
    with_injection(bed, || {
        bed.apply_stream("any", &attached("Pod", "any"))?;
        let pod = labelled_pod("labelled", "any").to_string();
        bed.cluster.kubectl_with_input(&["create", "-f", "-"], &pod)?.ok()?;
        let pod = bed.await_object("pod", "labelled")?;
        ensure!(pod["spec"]["initContainers"][0]["name"] == "desktopstream-sidecar", "{}", pod["spec"]);
        bed.cluster.kubectl(&["delete", "pod/labelled", "desktopstream/any"])?;
        Ok(())
    })
}

pub fn labelled_pod_without_a_stream_starts_with_a_warning(bed: &Installed) -> Result<()> {
    with_injection(bed, || {
        let pod = labelled_pod("lonely", "missing").to_string();
        let output = bed.cluster.kubectl_with_input(&["create", "-f", "-"], &pod)?;
        ensure!(output.success(), "{}", output.stderr);
        let warned = output.stderr.contains("Warning:") && output.stderr.contains("not injected");
        ensure!(warned, "no warning: {}", output.stderr);
        bed.cluster.wait("default", "pod/lonely", "condition=Ready", TIMEOUT)?;
        bed.cluster.kubectl(&["delete", "pod/lonely"])?;
        Ok(())
    })
}
