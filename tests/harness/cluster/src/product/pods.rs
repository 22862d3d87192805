//! Looks into pods from outside of them.

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::Bed;

/// What is known of a container of a pod.
pub fn container(pod: &Value, name: &str) -> Result<Value> {
    let status = &pod["status"];
    let lists = ["initContainerStatuses", "containerStatuses"].map(|list| status[list].as_array().cloned());
    let mut all = lists.into_iter().flatten().flatten();
    all.find(|it| it["name"] == name).with_context(|| format!("no container {name} in {status}"))
}

/// A container's process, as this computer numbers it.
pub fn process(bed: &Bed, pod: &str, name: &str) -> Result<u32> {
    let pod = bed.get(&["pod", pod])?;
    let id = container(&pod, name)?["containerID"].as_str().context("it doesn't run")?.to_owned();
    let id = id.trim_start_matches("containerd://").to_owned();
    let pids = fs::read_dir("/proc")?.flatten().filter_map(|it| it.file_name().to_str()?.parse::<u32>().ok());
    let mut ours = pids.filter(|pid| {
        fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|cgroups| cgroups.contains(&id))
    });
    ours.next().with_context(|| format!("no process of container {id}"))
}

/// Sends a process a signal.
pub fn signal(pid: u32, signal: rustix::process::Signal) -> Result<()> {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).context("no process")?;
    Ok(rustix::process::kill_process(pid, signal)?)
}

/// A desktop that does nothing, and a small pattern for a picture; `changes` are merged in.
pub fn pattern(changes: &Value) -> Value {
    let mut spec = json!({
        "desktop": {"image": super::images::DESKTOP, "imagePullPolicy": "Never", "args": ["wait"]},
        "gpu": {"class": "Virtio"},
        "capture": {"source": "TestPattern", "width": 320, "height": 180, "maxFramerate": 5},
        "encode": {"where": "Sidecar", "bitrate": 300},
    });
    merge(&mut spec, changes);
    spec
}

/// Puts `changes` into a document, object by object; what is no object is replaced.
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
