//! Images that have to come from somewhere, and a disk that has no room for them.

use anyhow::{Context as _, Result, ensure};
use cluster::product::samples;
use engine::registry::Registry;
use engine::{Engine, Image, Version};
use serde_json::json;

use crate::bed::{self, Bed, with};

/// On the engine's loopback.
const PORT: u16 = 5000;

/// Its image is one of which the engine has nothing yet.
fn registry(engine: &Engine) -> Result<Registry> {
    let folder = tempfile::tempdir()?;
    std::fs::copy(engine.tools().program("probe")?, folder.path().join("probe"))?;
    std::fs::write(folder.path().join("message"), "from the registry")?;
    let image = Image::of_folder("docker.io/local/desk:1", folder.path()).entrypoint(&["/probe"]);
    Registry::start(engine, PORT, "desk", &image)
}

/// A registry that lets nobody in is quoted, with what to do; once it does, the desktop comes.
pub fn pulled(bed: &Bed) -> Result<()> {
    let mut project = bed.project("pulls")?;
    let registry = registry(&bed.engine())?;
    registry.refuse(true);
    project.write("desk", &with(&json!({"desktop": {"image": registry.reference()}})))?;
    project.start(&[])?;
    let message = project.await_reason("desk", "DevicesReady", "ImageCannotBePulled")?;
    println!("{message}");
    let quoted = message.contains(&registry.reference()) && message.contains("lets nobody in");
    ensure!(quoted && message.contains("docker login"), "{message}");
    let status = project.status("desk")?;
    ensure!(status["phase"] == "Degraded", "as in a cluster: {status}");
    registry.refuse(false);
    project.await_phase("desk", "Streaming")?;
    let layers = registry.asked().iter().filter(|it| it.contains("/blobs/")).count();
    ensure!(layers >= 2, "config and layer: {:?}", registry.asked());
    Ok(())
}

/// By the table that the cluster's suite reads, too. Then the smallest of them gets its image.
pub fn samples_become_what_they_do_in_a_cluster(bed: &Bed) -> Result<()> {
    let mut project = bed.project("samples")?;
    for entry in std::fs::read_dir(lab::repository().join("docs/samples"))? {
        let path = entry?.path();
        let name = path.file_stem().context("a name")?.to_string_lossy().into_owned();
        std::fs::copy(&path, project.file(&name))?;
    }
    project.start(&[])?;
    for sample in samples::ALL {
        let (condition, reason, names) = sample.on_docker();
        let message = project.await_reason(sample.stream, condition, reason)?;
        ensure!(message.contains(names), "{}: {message}", sample.stream);
        println!("{}: {reason}: {message}", sample.stream);
    }
    let program = bed.engine().tools().program("probe")?;
    let reference = "docker.io/desktopstream/desktop-pattern:latest";
    bed.engine().load(&Image::of_program(reference, &program).entrypoint(&["/probe", "wait"]))?;
    let status = project.await_phase("pattern", "Streaming")?;
    ensure!(status["capture"]["rung"] == "Local", "{status}");
    Ok(())
}

/// A disk of this size holds the small images, and not the one of the registry besides.
const DISK: u32 = 96;
const BIG: usize = 80 << 20;

/// On an engine of its own.
pub fn full(version: Version) -> Result<()> {
    let bed = Bed::with_a_disk_of(DISK, "full", version)?;
    full_for_an_image(&bed).context("full for an image")?;
    full_for_a_container(&bed).context("full for a container")
}

fn full_for_an_image(bed: &Bed) -> Result<()> {
    let mut project = bed.project("image")?;
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("big"), vec![7; BIG])?;
    let image = Image::of_folder("docker.io/local/big:1", folder.path()).entrypoint(&["/big"]);
    let registry = Registry::start(&bed.engine(), PORT, "big", &image)?;
    project.write("desk", &with(&json!({"desktop": {"image": registry.reference()}})))?;
    project.start(&[])?;
    let message = project.await_reason("desk", "DevicesReady", "DiskFull")?;
    println!("{message}");
    ensure!(
        message.contains("no space left on device") && message.contains("docker system prune"),
        "{message}"
    );
    ensure!(message.contains(&registry.reference()), "{message}");
    std::fs::remove_file(project.file("desk"))?;
    project.eventually("it is taken away", || {
        let things = bed.things("image_")?;
        ensure!(things.is_empty(), "{things:?}");
        Ok(())
    })
}

/// Nothing is left to write a container's settings; when there is, it is made.
fn full_for_a_container(bed: &Bed) -> Result<()> {
    let mut project = bed.project("container")?;
    let filler = "/var/lib/filler";
    let engine = bed.engine();
    // It ends when nothing goes in any more.
    let filled = engine.inside("dd")?.args(["if=/dev/zero", &format!("of={filler}"), "bs=64k"]).output()?;
    ensure!(!filled.status.success(), "the disk has room for all of /dev/zero");
    project.write("desk", &bed::pattern())?;
    project.start(&[])?;
    let message = project.await_reason("desk", "DevicesReady", "DiskFull")?;
    println!("{message}");
    ensure!(message.contains("docker system prune"), "{message}");
    let removed = engine.inside("rm")?.arg(filler).status().context("starting rm")?;
    ensure!(removed.success(), "rm: {removed}");
    project.eventually("both containers are made", || {
        let made = bed.things("container_")?;
        ensure!(
            ["container_desk_desktop", "container_desk_sidecar"]
                .iter()
                .all(|it| made.iter().any(|is| is == it)),
            "{made:?}"
        );
        Ok(())
    })
}
