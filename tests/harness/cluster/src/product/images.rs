//! Our programs as images: each with the libraries that it loads, and nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::{Cluster, Image};

/// Operator and node-agent.
pub const OPERATOR: &str = "docker.io/local/desktopstream-operator:dev";
/// The sidecar.
pub const SIDECAR: &str = "docker.io/local/desktopstream-sidecar:dev";
/// A desktop that draws nothing; the sidecar makes the picture.
pub const DESKTOP: &str = crate::image::PROBE;

/// What rung Local takes of GStreamer: encoder, parser, a decoder for snapshots (openh264's doesn't take what x264 makes).
const PLUGINS: [&str; 6] = ["app", "coreelements", "libav", "videoparsersbad", "videoconvertscale", "x264"];

/// Compiled as they are shipped.
pub struct Programs {
    /// Operator and node-agent.
    pub operator: PathBuf,
    /// The sidecar.
    pub sidecar: PathBuf,
    /// The host-agent, for the machine beside the cluster.
    pub host_agent: PathBuf,
}

impl Programs {
    /// Compiles what has changed of these packages; those of one list in one go, as what they share then is the same.
    /// `DESKTOPSTREAM_PROGRAMS` is a folder where they lie already.
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
            ensure!(status.success(), "cargo could not build {packages:?}; its messages are above");
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

/// The image of operator and node-agent, and the folder that it is made of.
pub fn operator(programs: &Programs) -> Result<(TempDir, Image)> {
    let root = Root::new()?;
    root.program(&programs.operator)?;
    let image = Image::of_folder(OPERATOR, root.0.path()).env("PATH", "/usr/bin").user(65532);
    Ok((root.0, image))
}

/// Gives all nodes both images.
pub fn import(cluster: &Cluster, programs: &Programs) -> Result<()> {
    let (_root, operator) = operator(programs)?;
    cluster.import(&operator)?;

    let (_root, image) = sidecar(programs)?;
    cluster.import(&image)
}

/// The sidecar's image, as long as its folder is kept.
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

/// A root file system in the making.
struct Root(TempDir);

impl Root {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        for name in ["usr/bin", "usr/lib/gstreamer-1.0", "tmp", "dev", "proc", "sys", "run", "etc"] {
            fs::create_dir_all(folder.path().join(name))?;
        }
        Ok(Self(folder))
    }

    /// A program, without its debug information, and its libraries.
    fn program(&self, program: &Path) -> Result<()> {
        let name = program.file_name().context("a program has a name")?;
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
                    "no {}: apt install gstreamer1.0-plugins-{{base,bad,ugly}} gstreamer1.0-libav",
                    from.display()
                )
            })?;
            self.libraries(&from)?;
        }
        Ok(())
    }

    /// What the loader says that it takes.
    fn libraries(&self, file: &Path) -> Result<()> {
        let output = Command::new("ldd").arg(file).output().context("starting ldd")?;
        for line in String::from_utf8(output.stdout)?.lines() {
            ensure!(!line.contains("not found"), "{}: {line}", file.display());
            let Some(library) = line.split_whitespace().find(|word| word.starts_with('/')) else { continue };
            let to = self.0.path().join(library.trim_start_matches('/'));
            if !to.exists() {
                fs::create_dir_all(to.parent().context("it has a folder")?)?;
                fs::copy(library, &to).with_context(|| format!("copying {library}"))?;
            }
        }
        Ok(())
    }
}
