//! Streams that cannot run: each is reported as a condition with a remedy.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::testbed::{self, Testbed, pattern};

/// Checks that a stream with these changes gets a condition with this reason, whose message contains `part`.
fn is_reported(bed: &Testbed, project: &str, changes: &Value, expected: [&str; 3]) -> Result<()> {
    let [condition, reason, part] = expected;
    let mut project = bed.project(project)?;
    project.write("desk", &pattern(changes))?;
    project.start(&[])?;
    let message = project.await_reason("desk", condition, reason)?;
    println!("{reason}: {message}");
    ensure!(message.contains(part), "{message}");
    Ok(())
}

pub fn image_that_cannot_be_pulled_is_reported(bed: &Testbed) -> Result<()> {
    let image = "127.0.0.1:1/none:1";
    let changes = json!({"desktop": {"image": image}});
    is_reported(bed, "noimage", &changes, ["DevicesReady", "ImageCannotBePulled", image])
}

pub fn unsupported_field_is_reported(bed: &Testbed) -> Result<()> {
    let changes = json!({"viewers": {"ingress": {"host": "a.b"}}});
    is_reported(bed, "unsupported", &changes, ["Ready", "InvalidSpec", "spec.viewers.ingress"])
}

pub fn crashing_desktop_is_reported(bed: &Testbed) -> Result<()> {
    let changes = json!({"desktop": {"args": ["no such command"]}});
    let remedy = "operator docker logs desk --desktop";
    is_reported(bed, "crashes", &changes, ["Capturing", "DesktopCrashing", remedy])
}

pub fn missing_command_is_reported(bed: &Testbed) -> Result<()> {
    let changes = json!({"desktop": {"command": ["/no/such/file"]}});
    is_reported(bed, "nocommand", &changes, ["DevicesReady", "ContainerConfigError", "/no/such/file"])
}

pub fn missing_gpu_is_reported(bed: &Testbed) -> Result<()> {
    let changes = json!({"gpu": {"count": 2}});
    is_reported(bed, "nogpu", &changes, ["DevicesReady", "NoDeviceOnAnyNode", "--gpu"])
}

pub fn published_port_in_use_is_reported(bed: &Testbed) -> Result<()> {
    let mut project = bed.project("port")?;
    let object = |name: &str| {
        let mut object = testbed::stream(name, &pattern(&json!({})));
        object["metadata"]["annotations"] = json!({"desktopstream.dev/publish": "127.0.0.1:18080"});
        object
    };
    project.write_object("first", &object("first"))?;
    project.start(&[])?;
    project.await_phase("first", "Streaming")?;
    project.write_object("late", &object("late"))?;
    let message = project.await_reason("late", "DevicesReady", "ContainerConfigError")?;
    ensure!(message.contains("18080"), "{message}");
    project.await_phase("first", "Streaming").map(drop)
}

pub fn foreign_container_of_the_same_name_is_reported_until_it_is_removed(bed: &Testbed) -> Result<()> {
    let mut project = bed.project("foreign")?;
    let name = project.sidecar("desk");
    bed.docker(&format!("run --detach --name {name} {} wait", engine::engine::PROBE))?;
    project.write("desk", &pattern(&json!({})))?;
    project.start(&[])?;
    project.await_reason("desk", "DevicesReady", "NameTaken")?;
    bed.docker(&format!("rm --force {name}"))?;
    project.await_phase("desk", "Streaming").map(drop)
}
