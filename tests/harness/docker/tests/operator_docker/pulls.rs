//! Images that have to be pulled, and disks without room.

use anyhow::{Context as _, Result, ensure};
use cluster::product::samples;
use engine::registry::Registry;
use engine::{Engine, Image};
use serde_json::json;

use crate::testbed::{Project, Testbed, pattern};

/// Port of the registry on the engine's loopback.
const PORT: u16 = 5000;
/// Size of an image, in bytes, that does not fit on the small disk.
const BIG_IMAGE: usize = 80 << 20;

/// A registry with an image whose layers the engine does not have.
fn registry(engine: &Engine) -> Result<Registry> {
    let folder = tempfile::tempdir()?;
    std::fs::copy(engine.tools().program("probe")?, folder.path().join("probe"))?;
    std::fs::write(folder.path().join("message"), "from the registry")?;
    let image = Image::of_folder("docker.io/local/desk:1", folder.path()).entrypoint(&["/probe"]);
    Registry::start(engine, PORT, "desk", &image)
}

pub fn refused_pull_quotes_the_registry_until_it_succeeds(bed: &Testbed) -> Result<()> {
    let mut project = bed.project("pulls")?;
    let registry = registry(&bed.engine)?;
    registry.refuse(true);
    project.write("desk", &pattern(&json!({"desktop": {"image": registry.reference()}})))?;
    project.start(&[])?;
    let message = project.await_reason("desk", "DevicesReady", "ImageCannotBePulled")?;
    println!("{message}");
    for part in [registry.reference().as_str(), "access to this registry is denied", "docker login"] {
        ensure!(message.contains(part), "no {part:?} in {message}");
    }
    let status = project.status("desk")?;
    ensure!(status["phase"] == "Degraded", "{status}");
    registry.refuse(false);
    project.await_phase("desk", "Streaming")?;
    let blobs = registry.requests().iter().filter(|it| it.contains("/blobs/")).count();
    ensure!(blobs >= 2, "config and layer: {:?}", registry.requests());
    Ok(())
}

/// The table of expectations is shared with the cluster's suite. The smallest sample then gets its image.
pub fn samples_reach_their_conditions(bed: &Testbed) -> Result<()> {
    let mut project = bed.project("samples")?;
    for entry in std::fs::read_dir(lab::repository().join("docs/samples"))? {
        let path = entry?.path();
        let name = path.file_stem().context("the file has no name")?.to_string_lossy().into_owned();
        std::fs::copy(&path, project.file(&name))?;
    }
    project.start(&[])?;
    for sample in samples::ALL {
        let (condition, reason, part) = sample.on_docker();
        let message = project.await_reason(sample.stream, condition, reason)?;
        println!("{}: {reason}: {message}", sample.stream);
        ensure!(message.contains(part), "{}: {message}", sample.stream);
    }
    let program = bed.engine.tools().program("probe")?;
    let reference = "docker.io/desktopstream/desktop-pattern:latest";
    bed.engine.load(&Image::of_program(reference, &program).entrypoint(&["/probe", "wait"]))?;
    let status = project.await_phase("pattern", "Streaming")?;
    ensure!(status["capture"]["framePath"] == "Local", "{status}");
    Ok(())
}

fn await_full_disk(project: &Project<'_>) -> Result<String> {
    let message = project.await_reason("desk", "DevicesReady", "DiskFull")?;
    println!("{message}");
    ensure!(message.contains("docker system prune"), "{message}");
    Ok(message)
}

pub fn full_disk_during_a_pull_is_reported(bed: &mut Testbed) -> Result<()> {
    let bed = &*bed;
    let mut project = bed.project("image")?;
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("big"), vec![7; BIG_IMAGE])?;
    let image = Image::of_folder("docker.io/local/big:1", folder.path()).entrypoint(&["/big"]);
    let registry = Registry::start(&bed.engine, PORT, "big", &image)?;
    project.write("desk", &pattern(&json!({"desktop": {"image": registry.reference()}})))?;
    project.start(&[])?;
    let message = await_full_disk(&project)?;
    ensure!(message.contains("no space left on device"), "{message}");
    ensure!(message.contains(&registry.reference()), "{message}");
    project.remove_file("desk")?;
    project.await_objects(&[])
}

/// The disk has no room for a container's settings.
pub fn full_disk_without_a_pull_is_reported_until_freed(bed: &mut Testbed) -> Result<()> {
    let bed = &*bed;
    let mut project = bed.project("container")?;
    let filler = "/var/lib/filler";
    // dd fails when the disk is full.
    let filled =
        bed.engine.inside("dd")?.args(["if=/dev/zero", &format!("of={filler}"), "bs=64k"]).output()?;
    ensure!(!filled.status.success(), "the disk has no limit");
    let reported = (|| {
        project.write("desk", &pattern(&json!({})))?;
        project.start(&[])?;
        await_full_disk(&project)
    })();
    let removed = bed.engine.inside("rm")?.arg(filler).status().context("starting rm")?;
    ensure!(removed.success(), "rm: {removed}");
    reported?;
    project.eventually("both containers are created", || {
        let created = bed.objects("container_")?;
        for name in [project.desktop("desk"), project.sidecar("desk")] {
            ensure!(created.contains(&name), "{created:?}");
        }
        Ok(())
    })
}
