//! The VM's payload. Images are those of docker/*.Dockerfile, but not copied: their large layers are the lab's disks, which are
//! built from the same folders, and the programs are folders of the payload.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use cluster::Image;
use cluster::product::images::Programs as Own;
use e2e::{Desktop, Programs};
use lab::repository;
use tempfile::TempDir;

use crate::bring_up::{CONTAINERD_2, daemon_config};
use crate::engine::Version;
use crate::tools;

/// Programs of the engine and its clients.
const PROGRAMS: [&str; 7] =
    ["containerd", "containerd-shim-runc-v2", "runc", "dockerd", "docker-proxy", "docker", "compose"];
const SCRIPT: &str = include_str!("engine.sh");
/// Folder in the payload and in the guest's `/payload`.
const FOLDER: &str = "engine";
/// Folder in the payload that stands in for a clone of the repository.
const CLONE: &str = "desktopstream";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const TINI: &str = "/usr/bin/tini";

/// Creates the payload.
pub fn make(programs: &Programs, desktops: &[Desktop]) -> Result<TempDir> {
    let payload = tempfile::tempdir()?;
    let folder = payload.path().join(FOLDER);
    fs::create_dir(&folder)?;
    let tools = tools::build(Version::Current)?;
    for name in PROGRAMS {
        fs::copy(tools.program(name)?, folder.join(name)).with_context(|| format!("copying {name}"))?;
    }
    write_program(&folder.join("engine"), SCRIPT)?;
    fs::write(folder.join("containerd.toml"), CONTAINERD_2)?;
    let proxy = format!("/payload/{FOLDER}/docker-proxy");
    fs::write(folder.join("daemon.json"), daemon_config("/docker", &proxy))?;
    let operator = stripped(&Own::build(&[&["operator"]])?.operator)?;
    let images = images(programs.payload(), &operator.1, desktops);
    Image::write_for_vm(&images, &folder, &format!("/payload/{FOLDER}"))?;
    let docker = payload.path().join(CLONE).join("docker");
    fs::create_dir_all(&docker)?;
    let mut copy = Command::new("cp");
    copy.current_dir(repository().join("docker")).args(["-r", "compose.yaml", "streams"]).arg(docker);
    lab::host::run(&mut copy)?;
    Ok(payload)
}

fn write_program(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text)?;
    Ok(fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o755))?)
}

/// Copies a program without debug information. The copy is valid as long as the folder.
fn stripped(program: &Path) -> Result<(TempDir, PathBuf)> {
    let folder = tempfile::tempdir()?;
    let to = folder.path().join("program");
    let status = Command::new("strip").arg("-o").args([&to, program]).status().context("starting strip")?;
    ensure!(status.success(), "strip {} failed", program.display());
    Ok((folder, to))
}

/// The images under the names that compose.yaml and docker/streams use. `programs` is a folder with the stripped programs.
fn images(programs: &Path, operator: &Path, desktops: &[Desktop]) -> Vec<Image> {
    let on = |name: &str, disk: &str| {
        Image::of_disk(&format!("docker.io/desktopstream/{name}:latest"), disk).env("PATH", PATH)
    };
    let run =
        |image: Image| image.env("XDG_RUNTIME_DIR", "/run/desktop").env("HOME", "/home/desktop").user(1000);
    let desktop = [TINI, "-g", "--", "/usr/local/bin/desktop"];
    let mut all = vec![
        on("operator", "sidecar")
            .with_programs(&[("usr/local/bin/operator", operator)])
            .entrypoint(&["/usr/local/bin/operator"])
            .user(65532),
        on("sidecar", "sidecar")
            .with_programs(&[("usr/local/bin/sidecar", &programs.join("sidecar"))])
            .entrypoint(&[TINI, "--", "/usr/local/bin/sidecar"])
            .env("GST_REGISTRY", "/usr/share/desktopstream/gstreamer-registry.bin")
            .env("GST_REGISTRY_UPDATE", "no")
            .user(1000),
    ];
    all.extend(desktops.iter().map(|it| {
        let image = run(on(it.image(), it.image())).entrypoint(&desktop);
        let starter = repository().join("docker/desktop-pattern/desktop");
        match it {
            Desktop::Pattern => image.with_programs(&[
                ("usr/local/bin/desktop", &starter),
                ("usr/local/bin/pattern", &programs.join("pattern")),
            ]),
            _ => image,
        }
    }));
    all
}
