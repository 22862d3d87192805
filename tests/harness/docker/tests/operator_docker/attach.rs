//! Containers that somebody else runs get a sidecar, and are made anew where they let us.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use cluster::product::gpus::{TUN, device_file};
use engine::engine::PROBE;
use serde_json::json;

use crate::bed::{Bed, GPU, Project};

/// All of it, with an operator of its own. Who asks for a sidecar without naming a project asks all operators: no other may run.
pub fn attach(bed: &Bed) -> Result<()> {
    let mut project = bed.project("attach")?;
    project.start(&[])?;
    by_label_alone(bed, &project).context("by label alone")?;
    what_it_lacks_is_said(bed, &project).context("what it lacks is said")?;
    made_anew(bed, &project).context("made anew")?;
    taken_back(bed, &project).context("taken back")
}

/// The stream's settings; the picture is the sidecar's own, as no compositor runs here.
fn settings(gpus: u32) -> serde_json::Value {
    json!({
        "attach": {"kind": "Pod", "name": "any"}, "gpu": {"count": gpus},
        "capture": {"source": "TestPattern", "width": 320, "height": 240, "maxFramerate": 5},
        "encode": {"where": "Sidecar", "bitrate": 300},
    })
}

fn by_label_alone(bed: &Bed, project: &Project<'_>) -> Result<()> {
    let run = "run --detach --name web --label desktopstream.dev/attach=web";
    // No file has this stream: the defaults ask for a GPU.
    bed.docker(&format!("{run} {PROBE} wait"))?;
    let message = project.await_reason("web", "DevicesReady", "ContainerConfigError")?;
    ensure!(message.contains("renderD128") && message.contains("a volume at /run/desktop"), "{message}");
    let before = bed.id("web")?;
    project.write("web", &settings(0))?;
    project.await_phase("web", "Streaming")?;
    ensure!(bed.id("web")? == before, "it was made anew though it lacks nothing");
    bed.docker("rm --force web")?;
    project.await_reason("web", "DevicesReady", "NotInjected")?;
    ensure!(bed.things("attach_web")?.is_empty(), "the sidecar went with it");
    fs::remove_file(project.file("web"))?;
    Ok(())
}

fn what_it_lacks_is_said(bed: &Bed, project: &Project<'_>) -> Result<()> {
    project.write("shell", &settings(1))?;
    bed.docker(&format!("run --detach --name shell --label desktopstream.dev/attach=shell {PROBE} wait"))?;
    let message = project.await_reason("shell", "DevicesReady", "ContainerConfigError")?;
    ensure!(message.contains("recreate=true"), "{message}");
    bed.docker("rm --force shell")?;
    let group = cluster::product::gpus::GROUP;
    bed.docker(&format!(
        "run --detach --name shell --label desktopstream.dev/attach=shell --device {GPU}:/dev/dri/renderD128 --user 1000 --group-add {group} {PROBE} wait"
    ))?;
    project.await_phase("shell", "Streaming")?;
    bed.docker("rm --force shell")?;
    fs::remove_file(project.file("shell"))?;
    Ok(())
}

/// Same name, config, networks and volumes, and the device.
fn made_anew(bed: &Bed, project: &Project<'_>) -> Result<()> {
    project.write("old", &settings(1))?;
    bed.docker("network create front")?;
    bed.docker("network create back")?;
    bed.docker(&format!(
        "create --name old --label desktopstream.dev/attach=old --label desktopstream.dev/recreate=true --env A=b --user 1000 --network front --network-alias oldie --volume kept:/kept --volume /nameless --restart always {PROBE} wait"
    ))?;
    bed.docker("network connect --alias second back old")?;
    bed.docker("start old")?;
    project.await_phase("old", "Streaming")?;
    let found = bed.inspect("old")?;
    let host = &found["HostConfig"];
    ensure!(host["Devices"][0]["PathOnHost"] == GPU, "{}", host["Devices"]);
    ensure!(host["RestartPolicy"]["Name"] == "always", "{}", host["RestartPolicy"]);
    ensure!(found["Config"]["Env"].to_string().contains("A=b"), "{}", found["Config"]["Env"]);
    ensure!(found["State"]["Running"] == true, "{}", found["State"]);
    let networks = &found["NetworkSettings"]["Networks"];
    ensure!(networks["front"]["Aliases"].to_string().contains("oldie"), "{networks}");
    ensure!(networks["back"]["Aliases"].to_string().contains("second"), "{networks}");
    let mounts = found["Mounts"].as_array().cloned().unwrap_or_default();
    let at = |target: &str| mounts.iter().any(|it| it["Destination"] == target);
    ensure!(at("/kept") && at("/nameless"), "{mounts:?}");
    let opened = bed.engine().docker(&["exec", "old", "/probe", "open", "/dev/dri/renderD128"])?;
    ensure!(opened.trim() == "opened", "{opened}");
    ensure!(!bed.docker("ps --all --format={{.Names}}")?.contains("before"), "the old one is gone");
    bed.docker("rm --force old")?;
    fs::remove_file(project.file("old"))?;
    Ok(())
}

/// One that doesn't start with the device stays as it was.
fn taken_back(bed: &Bed, project: &Project<'_>) -> Result<()> {
    let node = bed.engine().outside(GPU);
    // The operator was told of it; the engine looks for it when it starts the new one.
    fs::remove_file(&node)?;
    project.write("stays", &settings(1))?;
    bed.docker(&format!(
        "run --detach --name stays --label desktopstream.dev/attach=stays --label desktopstream.dev/recreate=true --volume /nameless --user 1000 {PROBE} wait"
    ))?;
    let before = bed.inspect("stays")?;
    let message = project.await_reason("stays", "DevicesReady", "ContainerConfigError")?;
    ensure!(message.contains("taken back") && message.contains("renderD128"), "{message}");
    let after = bed.inspect("stays")?;
    ensure!(after["Id"] == before["Id"], "the old one");
    ensure!(after["State"]["Running"] == true, "it runs again: {}", after["State"]);
    ensure!(after["Mounts"] == before["Mounts"], "its volumes: {}", after["Mounts"]);
    ensure!(!bed.docker("ps --all --format={{.Names}}")?.contains("before"), "nothing is left");
    device_file(&node, TUN)
}
