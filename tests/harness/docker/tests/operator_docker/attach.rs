//! Sidecars for containers that the operator did not create, and containers that it recreates with permission.
//!
//! Each test takes `&mut`: an operator attaches to every container that asks for a sidecar without naming a project, so that no
//! other operator may run.

use std::fs;

use anyhow::{Result, ensure};
use cluster::product::gpus::{GROUP, TUN, device_file};
use engine::engine::PROBE;
use serde_json::{Value, json};

use crate::testbed::{GPU, Testbed};

/// A container that is removed on drop.
pub struct Foreign<'b> {
    bed: &'b Testbed,
    name: &'static str,
}

impl<'b> Foreign<'b> {
    /// Runs the probe with these options of `docker run`; the container asks for the sidecar of the stream of its name.
    pub fn run(bed: &'b Testbed, name: &'static str, options: &str) -> Result<Self> {
        Self::start(bed, name, &format!("--label desktopstream.dev/attach={name}{options} {PROBE}"))
    }

    /// Runs the probe with these options of `docker run`, of which the last is the image.
    pub fn start(bed: &'b Testbed, name: &'static str, options: &str) -> Result<Self> {
        bed.docker(&format!("run --detach --name {name} {options} wait"))?;
        Ok(Self { bed, name })
    }

    pub fn remove(&self) -> Result<()> {
        self.bed.docker(&format!("rm --force --volumes {}", self.name)).map(drop)
    }
}

impl Drop for Foreign<'_> {
    fn drop(&mut self) {
        // A test that succeeded has removed it.
        let _ = self.remove();
    }
}

/// Spec of an attached stream with the test pattern, as no compositor runs.
pub fn settings(gpus: u32) -> Value {
    json!({
        "attach": {"kind": "Pod", "name": "any"}, "gpu": {"count": gpus},
        "capture": {"source": "TestPattern", "width": 320, "height": 240, "maxFramerate": 5},
        "encode": {"placement": "Sidecar", "bitrateKbps": 300},
    })
}

/// Options of a container that has the GPU.
fn with_gpu() -> String {
    format!(" --device {GPU}:/dev/dri/renderD128 --user 1000 --group-add {GROUP}")
}

/// Without a file the defaults apply, which ask for a GPU.
pub fn labelled_container_gets_a_sidecar_without_a_restart(bed: &mut Testbed) -> Result<()> {
    let bed = &*bed;
    let mut project = bed.project("attach")?;
    project.start(&[])?;
    let web = Foreign::run(bed, "web", "")?;
    let message = project.await_reason("web", "DevicesReady", "ContainerConfigError")?;
    ensure!(message.contains("renderD128") && message.contains("a volume at /run/desktop"), "{message}");
    let before = bed.id("web")?;
    project.write("web", &settings(0))?;
    project.await_phase("web", "Streaming")?;
    ensure!(bed.id("web")? == before, "the container was replaced");
    web.remove()?;
    project.await_reason("web", "DevicesReady", "NotInjected")?;
    project.eventually("the sidecar is removed", || {
        let left = bed.objects("attach_web")?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
}

pub fn container_without_a_device_is_reported_until_it_has_it(bed: &mut Testbed) -> Result<()> {
    let bed = &*bed;
    let mut project = bed.project("lacks")?;
    project.write("shell", &settings(1))?;
    project.start(&[])?;
    let shell = Foreign::run(bed, "shell", "")?;
    let message = project.await_reason("shell", "DevicesReady", "ContainerConfigError")?;
    ensure!(message.contains("--recreate shell"), "{message}");
    shell.remove()?;
    let _shell = Foreign::run(bed, "shell", &with_gpu())?;
    project.await_phase("shell", "Streaming").map(drop)
}

/// The new container has the old one's name, configuration, networks and volumes, and the device.
pub fn container_with_permission_is_recreated_with_the_device(bed: &mut Testbed) -> Result<()> {
    let bed = &*bed;
    let mut project = bed.project("recreate")?;
    project.write("old", &settings(1))?;
    for network in ["recreate_front", "recreate_back"] {
        bed.docker(&format!("network create {network}"))?;
    }
    let labels = "--label desktopstream.dev/attach=old";
    let network = "--network recreate_front --network-alias oldie";
    let volumes = "--volume recreate_kept:/kept --volume /nameless";
    bed.docker(&format!(
        "create --name old {labels} --env A=b --user 1000 {network} {volumes} --restart always {PROBE} wait"
    ))?;
    let old = Foreign { bed, name: "old" };
    bed.docker("network connect --alias second recreate_back old")?;
    bed.docker("start old")?;
    project.start(&["--recreate=old"])?;
    project.await_phase("old", "Streaming")?;
    let found = bed.inspect("old")?;
    let host = &found["HostConfig"];
    ensure!(host["Devices"][0]["PathOnHost"] == GPU, "{}", host["Devices"]);
    ensure!(host["RestartPolicy"]["Name"] == "always", "{}", host["RestartPolicy"]);
    ensure!(found["Config"]["Env"].to_string().contains("A=b"), "{}", found["Config"]["Env"]);
    ensure!(found["State"]["Running"] == true, "{}", found["State"]);
    let networks = &found["NetworkSettings"]["Networks"];
    for (network, alias) in [("recreate_front", "oldie"), ("recreate_back", "second")] {
        ensure!(networks[network]["Aliases"].to_string().contains(alias), "{networks}");
    }
    let mounts = found["Mounts"].as_array().cloned().unwrap_or_default();
    for target in ["/kept", "/nameless"] {
        ensure!(mounts.iter().any(|it| it["Destination"] == target), "no {target} in {mounts:?}");
    }
    let opened = bed.engine.docker(&["exec", "old", "/probe", "open", "/dev/dri/renderD128"])?;
    ensure!(opened.trim() == "opened", "{opened}");
    let names = bed.docker("ps --all --format={{.Names}}")?;
    ensure!(!names.contains("before"), "the old container is left: {names}");
    old.remove()
}

/// The device's file disappears after the operator's start, so that the new container does not start.
pub fn failed_recreation_restores_the_container(bed: &mut Testbed) -> Result<()> {
    let bed = &*bed;
    let mut project = bed.project("restore")?;
    project.start(&["--recreate=stays"])?;
    project.write("ready", &crate::testbed::pattern(&json!({})))?;
    project.await_phase("ready", "Streaming")?;
    let node = bed.engine.outside(GPU);
    fs::remove_file(&node)?;
    let restored = (|| {
        project.write("stays", &settings(1))?;
        let options = " --volume /nameless --user 1000";
        let stays = Foreign::run(bed, "stays", options)?;
        let before = bed.inspect("stays")?;
        let message = project.await_reason("stays", "DevicesReady", "ContainerConfigError")?;
        // The Engine's error about the new container.
        ensure!(message.contains("renderD128") && message.contains("no such file"), "{message}");
        let after = bed.inspect("stays")?;
        ensure!(after["Id"] == before["Id"], "another container");
        ensure!(after["State"]["Running"] == true, "{}", after["State"]);
        ensure!(
            after["Mounts"] == before["Mounts"],
            "{} before, {} after",
            before["Mounts"],
            after["Mounts"]
        );
        let names = bed.docker("ps --all --format={{.Names}}")?;
        ensure!(!names.contains("before"), "a container is left: {names}");
        stays.remove()
    })();
    device_file(&node, TUN)?;
    restored
}
