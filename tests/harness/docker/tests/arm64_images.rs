//! The images for ARM, as a Mac's VM runs them: built by the Dockerfiles, and started in an emulated ARM VM as their
//! configurations say.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cluster::suite::{Fixture, Suite};
use cluster::tests;
use contract::{FramePath, SidecarStatus};
use e2e::rig::VIEWER_TOKEN;
use e2e::{HostAgent, Programs, http, wait};
use engine::{Engine, Version, images};
use lab::{Arch, Container, Spec, Vm, VmConfig};
use serde_json::Value;
use tempfile::TempDir;

const ARCH: Arch = Arch::Arm64;
/// Limit of each wait; programs run on an emulated processor.
const TIMEOUT: Duration = Duration::from_mins(8);
/// Bytes that a frame may send across the VM's boundary.
const MAX_BYTES_PER_FRAME: f64 = 128.0;

fn main() -> ExitCode {
    Suite::new()
        .fixture(
            Lab::up,
            tests![
                programs_print_their_version,
                desktop_pattern_streams_by_resource_id,
                desktop_sway_streams_by_resource_id,
                desktop_gnome_streams_by_resource_id,
            ],
        )
        .main()
}

/// An ARM VM with all images as disks, and a host-agent.
struct Lab {
    /// Declared first, as it has to end before the host-agent.
    vm: Vm,
    host_agent: HostAgent,
    images: Vec<BuiltImage>,
    _folder: TempDir,
}

impl Fixture for Lab {}

impl Lab {
    fn up() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let images = build(folder.path())?;
        let programs = Programs::build_for(ARCH)?;
        let host_agent = HostAgent::start(&programs.host_agent, &[])?;
        let mut config = VmConfig::new("arm64-images", &[]);
        config.arch = ARCH;
        config.more_images = images.iter().map(|it| (it.name.to_owned(), it.disk.clone())).collect();
        config.tap = Some(e2e::rig::tap(&programs, &config.name, &host_agent.link()));
        Ok(Self { vm: Vm::boot(config)?, host_agent, images, _folder: folder })
    }

    fn image(&self, name: &str) -> Result<&BuiltImage> {
        self.images.iter().find(|it| it.name == name).with_context(|| format!("image {name} was not built"))
    }

    /// Starts a desktop and a sidecar, and checks that frames arrive by resource ID at the promised cost.
    fn check_desktop(&self, name: &str) -> Result<()> {
        let desktop = self.image(name)?.spec(name, &[]).share(name).env("DESKTOP_SIZE", "640x360");
        let upstream = self.host_agent.upstream();
        let arguments = ["run", "--name", name, "--listen", "0.0.0.0:8080", "--upstream", &upstream];
        let sidecar = self
            .image("sidecar")?
            .spec("viewers", &arguments)
            .share(name)
            .env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/run/desktop/bus")
            .env("WAYLAND_DISPLAY", "wayland-1")
            .env("DESKTOPSTREAM_TOKEN", &self.host_agent.token(&format!("lab/{name}"), &[])?)
            .env("DESKTOPSTREAM_VIEWER_TOKEN", VIEWER_TOKEN);
        let desktop = Container::start(self.vm.guest(), &desktop)?;
        let sidecar = Container::start(self.vm.guest(), &sidecar)?;
        let checked = self
            .check_frames(name)
            .with_context(|| [&desktop, &sidecar].map(|it| it.logs().unwrap_or_default()).join("\n"));
        sidecar.remove()?;
        desktop.remove()?;
        checked
    }

    fn check_frames(&self, name: &str) -> Result<()> {
        let url = format!("http://127.0.0.1:{}/status", self.vm.host_port(8080)?);
        let after = |count: u64| {
            wait::until(&format!("{count} frames by resource ID"), TIMEOUT, || {
                let status: SidecarStatus = http::json(&url, Some(VIEWER_TOKEN))?;
                let by_resource_id = status.frame_path == Some(FramePath::ResourceId);
                ensure!(by_resource_id && status.frames.encoded >= count, "{status:?}");
                Ok(status)
            })
        };
        let before = after(2)?;
        let after = after(before.frames.encoded + 10)?;
        let frames = after.frames.encoded - before.frames.encoded;
        let bytes = (after.bytes_to_host - before.bytes_to_host) as f64 / frames as f64;
        println!("{name}: {bytes:.1} bytes per frame, {:?}", after.capture);
        ensure!(bytes <= MAX_BYTES_PER_FRAME, "{bytes} bytes per frame: {after:?}");
        Ok(())
    }
}

/// Builds all images; writes their disks to `folder`.
fn build(folder: &Path) -> Result<Vec<BuiltImage>> {
    let engine = Engine::up("arm64-images", Version::Current)?;
    images::build(&engine, ARCH, &[])?;
    let built = images::wanted(&[])?.into_iter().map(|(name, ..)| BuiltImage::export(&engine, name, folder));
    let built = built.collect::<Result<_>>()?;
    engine.down()?;
    Ok(built)
}

/// An image as a disk for the lab.
struct BuiltImage {
    name: &'static str,
    disk: PathBuf,
    /// The image's configuration: entrypoint, environment, user.
    config: Value,
}

impl BuiltImage {
    fn export(engine: &Engine, name: &'static str, folder: &Path) -> Result<Self> {
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

    /// A container of the image; `arguments` follow its entrypoint.
    fn spec(&self, name: &str, arguments: &[&str]) -> Spec {
        let list = |key: &str| {
            let all = self.config[key].as_array().map_or(&[][..], Vec::as_slice);
            all.iter().filter_map(Value::as_str).collect::<Vec<_>>()
        };
        let mut spec = Spec::new(name, self.name, &[&list("Entrypoint")[..], arguments].concat());
        for (name, value) in list("Env").iter().filter_map(|pair| pair.split_once('=')) {
            spec = spec.env(name, value);
        }
        let user = self.config["User"].as_str().and_then(|user| user.split(':').next()?.parse().ok());
        spec.uid = user.unwrap_or_default();
        spec.gid = spec.uid;
        spec
    }
}

fn programs_print_their_version(lab: &Lab) -> Result<()> {
    for name in ["operator", "host-agent", "sidecar"] {
        let (status, log) =
            Container::run(lab.vm.guest(), &lab.image(name)?.spec(name, &["--version"]), TIMEOUT)?;
        println!("{name}: {}", log.trim());
        ensure!(status == 0 && log.contains(env!("CARGO_PKG_VERSION")), "{name}: status {status}: {log}");
    }
    Ok(())
}

fn desktop_pattern_streams_by_resource_id(lab: &Lab) -> Result<()> {
    lab.check_desktop("desktop-pattern")
}

fn desktop_sway_streams_by_resource_id(lab: &Lab) -> Result<()> {
    lab.check_desktop("desktop-sway")
}

fn desktop_gnome_streams_by_resource_id(lab: &Lab) -> Result<()> {
    lab.check_desktop("desktop-gnome")
}
