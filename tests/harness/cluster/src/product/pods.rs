//! Pods and their processes.

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::Testbed;

/// Status of a container of a pod.
pub fn container(pod: &Value, name: &str) -> Result<Value> {
    let status = &pod["status"];
    let lists = ["initContainerStatuses", "containerStatuses"].map(|list| status[list].as_array().cloned());
    let mut all = lists.into_iter().flatten().flatten();
    all.find(|it| it["name"] == name).with_context(|| format!("no status of container {name} in {status}"))
}

/// Process ID on the host of a container's first process.
pub fn process(bed: &Testbed, pod: &str, name: &str) -> Result<u32> {
    let pod = bed.get(&["pod", pod])?;
    let id =
        container(&pod, name)?["containerID"].as_str().context("the container is not running")?.to_owned();
    let id = id.trim_start_matches("containerd://").to_owned();
    let pids = fs::read_dir("/proc")?.flatten().filter_map(|it| it.file_name().to_str()?.parse::<u32>().ok());
    let mut ours = pids.filter(|pid| {
        fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|cgroups| cgroups.contains(&id))
    });
    ours.next().with_context(|| format!("no process of container {id}"))
}

/// Sends a signal to a process.
pub fn signal(pid: u32, signal: rustix::process::Signal) -> Result<()> {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).context("0 is not a process ID")?;
    Ok(rustix::process::kill_process(pid, signal)?)
}

/// Spec of a desktop that draws nothing, with a small test pattern for a picture. `changes` are merged in.
pub fn pattern(changes: &Value) -> Value {
    let mut spec = json!({
        "desktop": {"image": super::images::DESKTOP, "imagePullPolicy": "Never", "args": ["wait"]},
        "gpu": {"class": "Virtio"},
        "capture": {"source": "TestPattern", "width": 320, "height": 180, "maxFramerate": 5},
        "encode": {"placement": "Sidecar", "bitrateKbps": 300},
    });
    merge(&mut spec, changes);
    spec
}

/// Merges `changes` into a document, object by object. All other values are replaced.
pub fn merge(into: &mut Value, changes: &Value) {
    match (into, changes) {
        (Value::Object(into), Value::Object(changes)) => {
            for (key, value) in changes {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, changes) => *into = changes.clone(),
    }
}
