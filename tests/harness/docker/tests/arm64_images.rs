//! The images that a Mac's VM runs: built for its processor by the Dockerfiles, and started in such a VM as their
//! configurations say. Their desktops stream by resource ID.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::http::number;
use e2e::rig::VIEWER_TOKEN;
use e2e::{HostAgent, Programs, http, wait};
use engine::{Engine, Version, images};
use lab::{Arch, Container, Spec, Vm, VmConfig};
use serde_json::Value;

const ARCH: Arch = Arch::Arm64;
/// Programs of an emulated processor.
const PATIENCE: Duration = Duration::from_mins(5);

#[test]
#[ignore = "slow: run by ./x test slow"]
fn they_start_and_stream() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let built = build(folder.path())?;
    let programs = Programs::build_for(ARCH)?;
    let host_agent = HostAgent::start(&programs.host_agent, &[])?;
    let mut config = VmConfig::new("arm64-images", &[]);
    config.arch = ARCH;
    config.more_images = built.iter().map(|it| (it.name.to_owned(), it.disk.clone())).collect();
    config.tap = Some(e2e::rig::tap(&programs, &config.name, &host_agent.link()));
    let vm = Vm::boot(config)?;

    let image =
        |name: &str| built.iter().find(|it| it.name == name).with_context(|| format!("no image {name}"));
    for name in ["operator", "host-agent", "sidecar"] {
        let (status, log) = Container::run(vm.guest(), &image(name)?.spec(name, &["--version"]), PATIENCE)?;
        println!("{name}: {}", log.trim());
        ensure!(status == 0 && log.contains(env!("CARGO_PKG_VERSION")), "{name} ended with {status}: {log}");
    }
    for desktop in built.iter().filter(|it| it.name.starts_with("desktop-")) {
        streams(&vm, &host_agent, desktop, image("sidecar")?).with_context(|| desktop.name.to_owned())?;
    }
    Ok(())
}

/// All images, and their disks in `folder`.
fn build(folder: &Path) -> Result<Vec<Built>> {
    let engine = Engine::up("arm64-images", Version::Current)?;
    images::build(&engine, ARCH, &[])?;
    let built =
        images::ALL.iter().map(|(name, ..)| Built::new(&engine, name, folder)).collect::<Result<_>>()?;
    engine.down()?;
    Ok(built)
}

/// An image, as a disk for the lab.
struct Built {
    name: &'static str,
    disk: PathBuf,
    /// What the Dockerfile says of how it is run.
    config: Value,
}

impl Built {
    fn new(engine: &Engine, name: &'static str, folder: &Path) -> Result<Self> {
        let reference = images::reference(name, ARCH);
        let inspected = engine.docker(&["image", "inspect", "--format={{json .}}", &reference])?;
        let image: Value = serde_json::from_str(&inspected)?;
        ensure!(image["Architecture"] == ARCH.debian(), "{reference} is for {}", image["Architecture"]);
        let (tar, root) = (folder.join("root.tar"), folder.join("root"));
        let container =
            engine.docker(&["create", "--platform", &format!("linux/{ARCH}"), &reference, "nothing"])?;
        engine.docker(&["export", "--output", &tar.display().to_string(), container.trim()])?;
        engine.docker(&["rm", container.trim()])?;
        engine.docker(&["image", "rm", &reference])?;
        std::fs::create_dir(&root)?;
        let mut unpack = Command::new("tar");
        lab::host::run(unpack.args(["--numeric-owner", "-xf"]).arg(&tar).arg("-C").arg(&root))?;
        std::fs::remove_file(tar)?;
        let disk = folder.join(name);
        lab::payload::make_disk(&root, &disk)?;
        std::fs::remove_dir_all(root)?;
        Ok(Self { name, disk, config: image["Config"].clone() })
    }

    /// A container of it, with these words behind its entrypoint.
    fn spec(&self, name: &str, words: &[&str]) -> Spec {
        let list = |what: &str| {
            let all = self.config[what].as_array().map_or(&[][..], Vec::as_slice);
            all.iter().filter_map(Value::as_str).collect::<Vec<_>>()
        };
        let mut spec = Spec::new(name, self.name, &[&list("Entrypoint")[..], words].concat());
        for (name, value) in list("Env").iter().filter_map(|pair| pair.split_once('=')) {
            spec = spec.env(name, value);
        }
        let user = self.config["User"].as_str().and_then(|user| user.split(':').next()?.parse().ok());
        spec.uid = user.unwrap_or_default();
        spec.gid = spec.uid;
        spec
    }
}

fn streams(vm: &Vm, host_agent: &HostAgent, desktop: &Built, sidecar: &Built) -> Result<()> {
    let name = desktop.name;
    let desktop = desktop.spec(name, &[]).share(name).env("DESKTOP_SIZE", "640x360");
    let upstream = host_agent.upstream();
    let words = ["run", "--name", name, "--listen", "0.0.0.0:8080", "--upstream", &upstream];
    let sidecar = sidecar
        .spec("viewers", &words)
        .share(name)
        .env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/run/desktop/bus")
        .env("WAYLAND_DISPLAY", "wayland-1")
        .env("DESKTOPSTREAM_TOKEN", &host_agent.token(&format!("lab/{name}"), &[])?)
        .env("DESKTOPSTREAM_VIEWER_TOKEN", VIEWER_TOKEN);
    let desktop = Container::start(vm.guest(), &desktop)?;
    let sidecar = Container::start(vm.guest(), &sidecar)?;
    let url = format!("http://127.0.0.1:{}/status", vm.host_port(8080)?);
    let frames = |status: &Value| number(status, "/frames/encoded");
    let after = |count: f64| {
        wait::until(&format!("{count} pictures by resource ID"), PATIENCE, || {
            let status = http::json(&url, Some(VIEWER_TOKEN))?;
            ensure!(status["rung"] == "ResourceId" && frames(&status)? >= count, "{status}");
            Ok(status)
        })
        .with_context(|| [&desktop, &sidecar].map(|it| it.logs().unwrap_or_default()).join("\n"))
    };
    let before = after(2.0)?;
    let after = after(frames(&before)? + 10.0)?;
    let rise = |what| -> Result<f64> { Ok(number(&after, what)? - number(&before, what)?) };
    let bytes = rise("/bytes_to_host")? / rise("/frames/encoded")?;
    println!("{name}: {bytes:.1} bytes a frame, {}", after["capture"]["taken"]);
    ensure!(bytes <= 128.0, "{bytes} bytes a frame: {after}");
    sidecar.remove()?;
    desktop.remove()
}
