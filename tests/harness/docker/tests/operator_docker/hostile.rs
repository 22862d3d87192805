//! Names and labels that an image or an argument brings along, containers that must not be recreated, and operators that must
//! keep apart.
//!
//! Tests with labels that ask for a sidecar take `&mut`, as those of `attach` do.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use engine::engine::PROBE;
use serde_json::json;
use tempfile::TempDir;

use crate::attach::{Foreign, settings};
use crate::testbed::{GPU, Project, Testbed, pattern};

/// A folder with a file, which no operator may touch.
struct Untouched(TempDir);

impl Untouched {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("file"), "mine")?;
        Ok(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn check(&self) -> Result<()> {
        let entries: Vec<_> =
            fs::read_dir(self.path())?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
        ensure!(entries == ["file"], "{} has {entries:?}", self.path().display());
        Ok(())
    }
}

/// An image with these labels, made from the probe's.
fn image_with_labels(bed: &Testbed, name: &str, labels: &[(&str, &str)]) -> Result<String> {
    let image = format!("hostile/{name}:1");
    bed.docker(&format!("create --name {name}-source {PROBE} wait"))?;
    let changes: Vec<String> =
        labels.iter().map(|(key, value)| format!("--change=LABEL {key}={value}")).collect();
    let source = format!("{name}-source");
    let mut arguments = vec!["commit"];
    arguments.extend(changes.iter().map(String::as_str));
    arguments.extend([source.as_str(), image.as_str()]);
    bed.engine.docker(&arguments)?;
    bed.docker(&format!("rm {source}"))?;
    Ok(image)
}

/// Waits until the operator has begun and finished a pass after this call.
fn await_whole_pass(project: &Project<'_>) -> Result<()> {
    let before = project.passes().len();
    project.eventually("another whole pass", || {
        let passes = project.passes().len();
        ensure!(passes >= before + 2, "{passes} passes, {before} before");
        Ok(())
    })
}

pub fn names_that_are_paths_are_refused_and_nothing_is_removed(bed: &Testbed) -> Result<()> {
    let mut project = bed.project("paths")?;
    project.start_with("desk", &pattern(&json!({})))?;
    project.end()?;
    let untouched = Untouched::new()?;
    let key = project.state().join("signing-key.pem");
    let key_before = fs::read(&key)?;
    for name in [&untouched.path().display().to_string(), "..", "../..", "desk/../..", ".", ""] {
        for command in ["rm", "status", "logs", "open", "doctor"] {
            let error = project.fails(&[command, name])?;
            ensure!(error.contains("not a stream name"), "{command} {name:?}: {error}");
        }
    }
    untouched.check()?;
    ensure!(fs::read(&key)? == key_before, "another signing key");
    let error = project.fails(&["rm", "unknown"])?;
    ensure!(error.contains("no stream \"unknown\"") && error.contains("desk"), "{error}");
    Ok(())
}

/// The image claims to be a stream's desktop, of the project and of each kind of name.
pub fn image_that_claims_to_be_a_desktop_is_ignored(bed: &Testbed) -> Result<()> {
    let mut project = bed.project("claims")?;
    let untouched = Untouched::new()?;
    let mut containers = Vec::new();
    for (number, name) in [&untouched.path().display().to_string(), "..", "ghost", "desk"].iter().enumerate()
    {
        let labels = [
            ("desktopstream.dev/project", "claims"),
            ("desktopstream.dev/role", "desktop"),
            ("desktopstream.dev/name", *name),
        ];
        let image = image_with_labels(bed, &format!("claims{number}"), &labels)?;
        let container = format!("claims-evil{number}");
        bed.docker(&format!("run --detach --name {container} {image} wait"))?;
        containers.push((bed.id(&container)?, container));
    }
    project.write("desk", &pattern(&json!({})))?;
    project.start(&["--prune"])?;
    project.await_phase("desk", "Streaming")?;
    await_whole_pass(&project)?;
    untouched.check()?;
    ensure!(project.state().join("signing-key.pem").exists(), "the state folder was emptied");
    for (id, container) in &containers {
        let found = bed.inspect(container).with_context(|| format!("{container} was removed"))?;
        ensure!(found["Id"] == json!(id) && found["State"]["Running"] == true, "{container}: {found}");
    }
    let desktop = bed.inspect(&project.desktop("desk"))?;
    ensure!(desktop["Config"]["Image"] == PROBE, "{}", desktop["Config"]);
    for (_, container) in containers {
        bed.docker(&format!("rm --force {container}"))?;
    }
    Ok(())
}

/// The option to recreate the containers does not make the labels count.
pub fn image_that_asks_for_a_sidecar_gets_none(bed: &mut Testbed) -> Result<()> {
    let bed = &*bed;
    let mut project = bed.project("asks")?;
    let untouched = Untouched::new()?;
    let path = untouched.path().display().to_string();
    let attach = "desktopstream.dev/attach";
    let to_path = image_with_labels(bed, "topath", &[(attach, &path)])?;
    let to_kiosk = image_with_labels(bed, "tokiosk", &[(attach, "kiosk")])?;
    let _path = Foreign::start(bed, "topath", &format!("--user 1000 {to_path}"))?;
    let _kiosk = Foreign::start(bed, "tokiosk", &format!("--user 1000 {to_kiosk}"))?;
    // A path as the label of the container itself is no stream's name either.
    let _label = Foreign::start(bed, "labelled", &format!("--label {attach}={path} --user 1000 {PROBE}"))?;
    let before: Vec<String> =
        ["topath", "tokiosk", "labelled"].into_iter().map(|name| bed.id(name)).collect::<Result<_>>()?;
    project.start(&["--prune", "--recreate=topath,tokiosk,labelled"])?;
    await_whole_pass(&project)?;
    project.eventually("a warning about the label", || {
        let log = project.log();
        ensure!(log.contains("not a stream name") && log.contains("labelled"), "no warning");
        Ok(())
    })?;
    untouched.check()?;
    for (name, id) in ["topath", "tokiosk", "labelled"].into_iter().zip(before) {
        ensure!(bed.id(name)? == id, "{name} was recreated");
        let devices = bed.inspect(name)?["HostConfig"]["Devices"].to_string();
        ensure!(!devices.contains(GPU), "{name} got {devices}");
    }
    let status = project.print(&["status", "--json"])?;
    ensure!(!status.contains("kiosk"), "{status}");
    Ok(())
}

/// Stopping such a container removes it, so that it could not be restored.
pub fn container_that_the_engine_removes_on_exit_is_not_recreated(bed: &mut Testbed) -> Result<()> {
    let bed = &*bed;
    let mut project = bed.project("onexit")?;
    project.write("once", &settings(1))?;
    project.start(&["--recreate=once"])?;
    let once = Foreign::run(bed, "once", " --rm --user 1000")?;
    let before = bed.id("once")?;
    let message = project.await_reason("once", "DevicesReady", "ContainerConfigError")?;
    ensure!(message.contains("--rm"), "{message}");
    await_whole_pass(&project)?;
    ensure!(bed.id("once")? == before, "the container was recreated");
    once.remove()
}

/// The lock of the state folder does not keep them apart: each has its own.
pub fn operator_with_another_state_folder_is_refused_until_the_first_ends(bed: &Testbed) -> Result<()> {
    let mut first = bed.project("states")?;
    let mut second = bed.project("states")?;
    second.write("desk", &pattern(&json!({})))?;
    first.start_with("desk", &pattern(&json!({})))?;
    let before = bed.id(&first.desktop("desk"))?;
    for arguments in [&[][..], &["--prune", "--take-down"]] {
        let (succeeded, log) = second.try_once(arguments)?;
        ensure!(!succeeded && log.contains("--state") && log.contains("--project"), "{log}");
    }
    await_whole_pass(&first)?;
    ensure!(bed.id(&first.desktop("desk"))? == before, "the desktop was replaced");
    first.end()?;
    second.start_with("desk", &pattern(&json!({})))?;
    // An operator that was killed is followed at once by one with the same state folder, and by no other.
    second.kill()?;
    let (succeeded, log) = first.try_once(&[])?;
    ensure!(!succeeded && log.contains("docker volume rm states_operator"), "{log}");
    second.once(&[])?;
    first.once(&[])?;
    ensure!(bed.id(&first.desktop("desk"))? == before, "the desktop was replaced");
    let volumes = bed.docker("volume ls --format={{.Name}}")?;
    ensure!(!volumes.contains("states_operator"), "the mark is left: {volumes}");
    Ok(())
}

/// A container whose recreation takes at least ten seconds, as its process ignores the stop signal. Returns its ID once the
/// operator has begun and was killed.
fn kill_during_recreation(bed: &Testbed, project: &mut Project<'_>, name: &'static str) -> Result<String> {
    let options =
        format!("--label desktopstream.dev/attach={name} --stop-signal SIGUSR1 --user 1000 {PROBE}");
    bed.docker(&format!("run --detach --name {name} {options} wait"))?;
    let id = bed.id(name)?;
    project.write(name, &settings(1))?;
    project.start(&[&format!("--recreate={name}")])?;
    let before = format!("{name}-desktopstream-before");
    project.eventually("the old container has another name", || {
        ensure!(bed.id(&before)? == id, "another container");
        Ok(())
    })?;
    project.kill()?;
    ensure!(bed.id(&before)? == id, "the operator was killed too late");
    Ok(id)
}

pub fn recreation_of_a_killed_operator_is_finished_by_the_next(bed: &mut Testbed) -> Result<()> {
    let bed = &*bed;
    let mut project = bed.project("interrupted")?;
    let old = kill_during_recreation(bed, &mut project, "half")?;
    // Permission is no longer needed to finish, and not given to begin again.
    project.start(&[])?;
    project.eventually("the old container is back, or replaced", || {
        let found = bed.inspect("half")?;
        ensure!(found["State"]["Running"] == true, "{}", found["State"]);
        let names = bed.docker("ps --all --format={{.Names}}")?;
        ensure!(!names.contains("before"), "{names}");
        let has_device = found["HostConfig"]["Devices"].to_string().contains(GPU);
        ensure!(has_device || found["Id"] == json!(old), "neither the old container nor its replacement");
        Ok(())
    })?;
    bed.docker("rm --force --volumes half").map(drop)
}

/// The user makes a container of that name between the two operators.
pub fn container_that_took_the_name_meanwhile_is_not_touched(bed: &mut Testbed) -> Result<()> {
    let bed = &*bed;
    let mut project = bed.project("meanwhile")?;
    let old = kill_during_recreation(bed, &mut project, "mine")?;
    // The replacement, if it exists already.
    bed.engine.try_docker(&["rm", "--force", "mine"])?;
    let label = "--label desktopstream.dev/attach=mine";
    bed.docker(&format!("run --detach --name mine {label} --user 1000 {PROBE} wait"))?;
    let foreign = bed.id("mine")?;
    project.start(&[])?;
    project.eventually("the old container runs under its other name", || {
        let found = bed.inspect("mine-desktopstream-before")?;
        ensure!(found["Id"] == json!(old) && found["State"]["Running"] == true, "{}", found["State"]);
        ensure!(project.log().contains("rename or remove it"), "no warning");
        Ok(())
    })?;
    await_whole_pass(&project)?;
    ensure!(bed.id("mine")? == foreign, "the user's container was replaced");
    ensure!(bed.inspect("mine")?["State"]["Running"] == true, "the user's container was stopped");
    bed.docker("rm --force --volumes mine mine-desktopstream-before").map(drop)
}
