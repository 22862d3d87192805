//! Images of the programs: each holds a program, the libraries that it loads, and nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::{Cluster, Image};

/// Image of operator and node-agent.
pub const OPERATOR: &str = "docker.io/local/desktopstream-operator:dev";
/// Image of the sidecar.
pub const SIDECAR: &str = "docker.io/local/desktopstream-sidecar:dev";
/// Image of a desktop that draws nothing, for streams whose picture is the sidecar's test pattern.
pub const DESKTOP: &str = crate::image::PROBE;

/// GStreamer plugins of the frame path `Local`: encoder, parser, and a decoder for snapshots (openh264 does not decode x264's
/// output).
const PLUGINS: [&str; 6] = ["app", "coreelements", "libav", "videoparsersbad", "videoconvertscale", "x264"];

/// Programs in the profile in which they ship.
pub struct Programs {
    /// The operator, which is also the node-agent.
    pub operator: PathBuf,
    /// The sidecar.
    pub sidecar: PathBuf,
    /// The host-agent.
    pub host_agent: PathBuf,
}

impl Programs {
    /// Builds packages with cargo, each list in one call so that its packages share dependencies' features. If
    /// `DESKTOPSTREAM_PROGRAMS` names a folder, its programs are used instead.
    pub fn build(lists: &[&[&str]]) -> Result<Self> {
        if let Some(folder) = std::env::var_os("DESKTOPSTREAM_PROGRAMS") {
            return Ok(Self::in_folder(Path::new(&folder)));
        }
        for packages in lists {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut cargo = Command::new(cargo);
            cargo.current_dir(lab::repository()).stdin(Stdio::null()).args(["build", "--release", "--quiet"]);
            cargo.args(packages.iter().flat_map(|package| ["-p", package]));
            let status = cargo.status().context("starting cargo")?;
            ensure!(status.success(), "cargo could not build {packages:?}; see its messages above");
        }
        let folder = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(target) => lab::repository().join(target),
            None => lab::repository().canonicalize()?.join("target"),
        };
        Ok(Self::in_folder(&folder.join("release")))
    }

    fn in_folder(folder: &Path) -> Self {
        let program = |name: &str| folder.join(name);
        Self { operator: program("operator"), sidecar: program("sidecar"), host_agent: program("host-agent") }
    }
}

/// The image of operator and node-agent. It is valid as long as the folder.
pub fn operator(programs: &Programs) -> Result<(TempDir, Image)> {
    let root = Root::new()?;
    root.program(&programs.operator)?;
    let image = Image::of_folder(OPERATOR, root.0.path()).env("PATH", "/usr/bin").user(65532);
    Ok((root.0, image))
}

/// Imports both images on all nodes.
pub fn import(cluster: &Cluster, programs: &Programs) -> Result<()> {
    let (_root, operator) = operator(programs)?;
    cluster.import(&operator)?;

    let (_root, image) = sidecar(programs)?;
    cluster.import(&image)
}

/// The image of the sidecar. It is valid as long as the folder.
pub fn sidecar(programs: &Programs) -> Result<(TempDir, Image)> {
    let root = Root::new()?;
    root.program(&programs.sidecar)?;
    root.plugins()?;
    let image = Image::of_folder(SIDECAR, root.0.path())
        .entrypoint(&["/usr/bin/sidecar"])
        .env("PATH", "/usr/bin")
        .env("GST_PLUGIN_SYSTEM_PATH_1_0", "/usr/lib/gstreamer-1.0")
        .env("GST_REGISTRY", "/tmp/gstreamer.bin")
        .env("GST_REGISTRY_FORK", "no")
        .user(1000);
    Ok((root.0, image))
}

/// A root file system under construction.
struct Root(TempDir);

impl Root {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        for name in ["usr/bin", "usr/lib/gstreamer-1.0", "tmp", "dev", "proc", "sys", "run", "etc"] {
            fs::create_dir_all(folder.path().join(name))?;
        }
        Ok(Self(folder))
    }

    /// Adds a program without debug information, and its libraries.
    fn program(&self, program: &Path) -> Result<()> {
        let name = program.file_name().context("the program's path has no file name")?;
        let to = self.0.path().join("usr/bin").join(name);
        let status =
            Command::new("strip").arg("-o").arg(&to).arg(program).status().context("starting strip")?;
        ensure!(status.success(), "strip {} failed", program.display());
        self.libraries(program)
    }

    fn plugins(&self) -> Result<()> {
        let output = Command::new("pkg-config").args(["--variable=pluginsdir", "gstreamer-1.0"]).output()?;
        let folder = PathBuf::from(String::from_utf8(output.stdout)?.trim());
        for plugin in PLUGINS {
            let name = format!("libgst{plugin}.so");
            let from = folder.join(&name);
            let to = self.0.path().join("usr/lib/gstreamer-1.0").join(&name);
            fs::copy(&from, to).with_context(|| {
                format!(
                    "{} is not installed: apt install gstreamer1.0-plugins-{{base,bad,ugly}} gstreamer1.0-libav",
                    from.display()
                )
            })?;
            self.libraries(&from)?;
        }
        Ok(())
    }

    /// Adds the shared libraries that `ldd` lists.
    fn libraries(&self, file: &Path) -> Result<()> {
        let output = Command::new("ldd").arg(file).output().context("starting ldd")?;
        for line in String::from_utf8(output.stdout)?.lines() {
            ensure!(!line.contains("not found"), "{}: {line}", file.display());
            let Some(library) = line.split_whitespace().find(|word| word.starts_with('/')) else { continue };
            let to = self.0.path().join(library.trim_start_matches('/'));
            if !to.exists() {
                fs::create_dir_all(to.parent().context("the library's path has no folder")?)?;
                fs::copy(library, &to).with_context(|| format!("copying {library}"))?;
            }
        }
        Ok(())
    }
}
