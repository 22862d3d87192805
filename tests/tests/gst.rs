//! The GStreamer plugin in a container beside a desktop: recordings contain the frames that the desktop drew.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::rig::RigOptions;
use e2e::video::{self, Decoder};
use e2e::{Desktop, Programs, Rig};
use lab::container::{self, Container, RUNTIME_DIR, Spec};
use lab::payload;

const SIZE: (u32, u32) = (640, 360);
/// Time limit of one recording in an emulated guest.
const LIMIT: Duration = Duration::from_secs(180);

#[test]
fn pipeline_records_frames_of_the_desktop() -> Result<()> {
    let programs = Programs::build()?.with_plugin()?;
    let rig = Rig::up(&programs, &RigOptions::new("gst", &[Desktop::Pattern]))?;
    let mut desktop = Spec::desktop("gst", Desktop::Pattern.image(), SIZE);
    desktop.argv = [&format!("{}/pattern", payload::IN_CONTAINER), "serve", "--size", "640x360"]
        .map(str::to_owned)
        .into();
    Container::start(rig.vm.guest(), &desktop)?;

    let log = records(&rig, "by-id", 120, "desktopstreamsrc num-buffers=120", "require=zero-copy")?;
    ensure!(log.contains("frame-path = ResourceId") && log.contains("memory:DMABuf"), "{log}");
    // DMA_DRM is GStreamer's newer format for the same buffers; system memory travels as pixels.
    let newer = "desktopstreamsrc num-buffers=40 ! video/x-raw(memory:DMABuf),format=DMA_DRM";
    let log = records(&rig, "dma-drm", 40, newer, "require=zero-copy")?;
    ensure!(log.contains("frame-path = ResourceId") && log.contains("drm-format=(string)XR24"), "{log}");
    let pixels = "desktopstreamsrc num-buffers=40 ! video/x-raw";
    let log = records(&rig, "pixels", 40, pixels, "require=any")?;
    ensure!(log.contains("frame-path = Pixels"), "{log}");
    Ok(())
}

/// Records `frames` frames to a file. More than half must be present, whole and in order. Returns the log.
fn records(rig: &Rig, name: &str, frames: usize, source: &str, how: &str) -> Result<String> {
    let host_agent = rig.host_agent.upstream();
    let pipeline = format!(
        "gst-launch-1.0 -e -v {source} ! desktopstreamenc host-agent={host_agent} {how} ! h264parse ! mp4mux ! \
         filesink location={RUNTIME_DIR}/{name}.mp4"
    );
    let words: Vec<&str> = pipeline.split(' ').collect();
    let spec = Spec::sidecar(name, "gst", &words)
        .env("DESKTOPSTREAM_TOKEN", &rig.host_agent.token(&format!("lab/{name}"), &[])?)
        .env("GST_PLUGIN_PATH", payload::IN_CONTAINER)
        // The image's registry is read-only and lacks the plugin; a new one takes over a minute to build.
        .env("GST_REGISTRY", &format!("{RUNTIME_DIR}/gstreamer-registry.bin"))
        .env("GST_REGISTRY_UPDATE", "yes")
        .env("GST_DEBUG", "desktopstreamsrc:4,desktopstreamenc:4")
        .env("GST_DEBUG_NO_COLOR", "1");
    let (code, log) = Container::run(rig.vm.guest(), &spec, LIMIT)?;
    ensure!(code == 0, "{name}: gst-launch ended with {code}\n{log}\n{}", rig.host_agent.log());

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("recording.mp4");
    rig.vm.guest().copy_from(&format!("{}/{name}.mp4", container::runtime_dir("gst")), &file)?;
    let numbers = video::numbers(&file, SIZE, Decoder::Ffmpeg).with_context(|| log.clone())?;
    let (wrong, distinct) = (video::wrong(&numbers), video::distinct(&numbers));
    println!("{name}: {} pictures of {frames}, {distinct} different numbers", numbers.len());
    for line in log.lines().filter(|line| line.contains(" WARN ")) {
        println!("{line}");
    }
    ensure!(wrong.is_empty(), "{name}: {wrong:?}\n{log}");
    ensure!(distinct > frames / 2, "{name}: only {distinct} different pictures of {frames}\n{log}");
    Ok(log)
}
