//! Streams from file to picture: created, changed, repaired, suspended.

use anyhow::{Context as _, Result, ensure};
use cluster::product::gpus::GROUP;
use serde_json::{Value, json};

use crate::testbed::{DEV, Testbed, pattern};

/// A spec with a home.
fn with_home(changes: &Value) -> Value {
    let mut spec = pattern(&json!({"desktop": {"home": {"size": "1Gi"}}}));
    cluster::product::pods::merge(&mut spec, changes);
    spec
}

pub fn stream_file_starts_a_streaming_desktop(bed: &Testbed) -> Result<()> {
    let mut project = bed.project("starts")?;
    let status = project.start_with("desk", &pattern(&json!({})))?;
    ensure!(status["capture"]["framePath"] == "Local", "{status}");
    let url = status["viewerURL"].as_str().unwrap_or_default().to_owned();
    ensure!(url.starts_with("http://127.0.0.1:"), "{status}");
    project.eventually("the operator prints the viewers' URL", || {
        ensure!(project.log().contains(&format!("\ndesk: {url}#token=")), "not in the log");
        Ok(())
    })
}

pub fn desktop_has_no_capabilities_and_writes_its_home(bed: &Testbed) -> Result<()> {
    let mut project = bed.project("home")?;
    project.start_with("desk", &with_home(&json!({})))?;
    let desktop = project.desktop("desk");
    let found = bed.inspect(&desktop)?;
    ensure!(found["HostConfig"]["CapDrop"] == json!(["ALL"]), "{}", found["HostConfig"]);
    bed.engine.docker(&["exec", &desktop, "/probe", "write", "/home/desktop/mine", "x"])?;
    Ok(())
}

pub fn changed_bitrate_replaces_the_sidecar_only(bed: &Testbed) -> Result<()> {
    let mut project = bed.project("bitrate")?;
    project.start_with("desk", &pattern(&json!({})))?;
    let (desktop, sidecar) = (bed.id(&project.desktop("desk"))?, bed.id(&project.sidecar("desk"))?);
    project.write("desk", &pattern(&json!({"encode": {"bitrateKbps": 400}})))?;
    project.eventually("another sidecar", || {
        ensure!(bed.id(&project.sidecar("desk"))? != sidecar, "the same sidecar");
        Ok(())
    })?;
    project.await_phase("desk", "Streaming")?;
    ensure!(bed.id(&project.desktop("desk"))? == desktop, "the desktop was replaced");
    Ok(())
}

pub fn changed_desktop_is_replaced_and_keeps_its_home(bed: &Testbed) -> Result<()> {
    let mut project = bed.project("changed")?;
    project.start_with("desk", &with_home(&json!({})))?;
    let desktop = project.desktop("desk");
    bed.engine.docker(&["exec", &desktop, "/probe", "write", "/home/desktop/mine", "x"])?;
    project.write("desk", &with_home(&json!({"desktop": {"env": [{"name": "A", "value": "b"}]}})))?;
    project.eventually("another desktop", || {
        let found = bed.inspect(&desktop)?;
        ensure!(found["Config"]["Env"].to_string().contains("A=b"), "{}", found["Config"]["Env"]);
        Ok(())
    })?;
    project.await_phase("desk", "Streaming")?;
    let files = bed.engine.docker(&["exec", &desktop, "/probe", "list", "/home/desktop"])?;
    ensure!(files.contains("mine"), "the home was lost: {files}");
    Ok(())
}

pub fn containers_changed_by_hand_are_repaired(bed: &Testbed) -> Result<()> {
    let mut project = bed.project("repair")?;
    project.start_with("desk", &pattern(&json!({})))?;
    let (desktop, sidecar) = (project.desktop("desk"), project.sidecar("desk"));
    for line in [
        format!("rm --force {sidecar}"),
        format!("kill {desktop}"),
        format!("stop --time=1 {desktop}"),
        format!("pause {desktop}"),
        format!("network disconnect --force repair_network {desktop}"),
    ] {
        bed.docker(&line)?;
        project.eventually(&format!("repaired after docker {line}"), || {
            for name in [&desktop, &sidecar] {
                let found = bed.inspect(name)?;
                let state = &found["State"];
                ensure!(state["Running"] == true && state["Paused"] == false, "{name}: {state}");
                let networks = &found["NetworkSettings"]["Networks"];
                ensure!(networks.get("repair_network").is_some(), "{name}: {networks}");
            }
            Ok(())
        })?;
    }
    project.await_phase("desk", "Streaming").map(drop)
}

pub fn suspended_stream_keeps_only_its_home(bed: &Testbed) -> Result<()> {
    let mut project = bed.project("suspended")?;
    project.start_with("desk", &with_home(&json!({})))?;
    let keep = json!({"desktop": {"home": {"onDelete": "Keep"}}, "operatingMode": "Suspended"});
    project.write("desk", &with_home(&keep))?;
    project.await_phase("desk", "Suspended")?;
    project.await_objects(&["suspended_desk_home"])?;
    project.write("desk", &pattern(&json!({})))?;
    project.await_phase("desk", "Streaming").map(drop)
}

/// The other device file is visible in the container, so the device cgroup must deny it.
pub fn desktop_opens_its_own_gpu_only(bed: &Testbed) -> Result<()> {
    let mut project = bed.project("devices")?;
    let spec = json!({"gpu": {"count": 1}, "desktop": {
        "volumes": [{"name": "all", "hostPath": {"path": DEV}}],
        "volumeMounts": [{"name": "all", "mountPath": "/gpus"}],
    }});
    project.start_with("desk", &pattern(&spec))?;
    for container in [project.desktop("desk"), project.sidecar("desk")] {
        let groups = bed.inspect(&container)?["HostConfig"]["GroupAdd"].clone();
        ensure!(groups == json!([GROUP.to_string()]), "{container}: {groups}");
    }
    let desktop = project.desktop("desk");
    let open = |node: &str| bed.engine.try_docker(&["exec", &desktop, "/probe", "open", node]);
    let own = open("/dev/dri/renderD128")?;
    ensure!(own.stdout.trim() == "opened", "{own:?}");
    let other = open("/gpus/renderD129")?;
    ensure!(other.stderr.contains("operation not permitted"), "{other:?}");
    Ok(())
}

pub fn streams_of_two_projects_are_independent(bed: &Testbed) -> Result<()> {
    let (mut one, mut two) = (bed.project("one")?, bed.project("two")?);
    for project in [&mut one, &mut two] {
        project.write("desk", &pattern(&json!({})))?;
        project.start(&["--prune"])?;
    }
    one.await_phase("desk", "Streaming")?;
    two.await_phase("desk", "Streaming")?;
    let before = bed.id("two_desk_desktop")?;
    one.remove_file("desk")?;
    one.await_objects(&[])?;
    ensure!(bed.id("two_desk_desktop")? == before, "the other project's desktop was replaced");
    // `rm` removes the containers; the operator, which still has the file, creates them again.
    two.print(&["rm", "desk"])?;
    two.eventually("another desktop", || {
        ensure!(bed.id("two_desk_desktop").context("not created yet")? != before, "the same desktop");
        Ok(())
    })?;
    two.await_phase("desk", "Streaming").map(drop)
}
