//! Our images, as docker/*.Dockerfile make them, on an engine without a registry: bases from the lab's cached Debian roots,
//! programs from cargo.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use lab::{Arch, repository};

use crate::{Engine, say};

/// What bake knows, the lab's root that holds all its packages, and our programs that are put into it. The operator takes
/// any root.
pub const ALL: [(&str, &str, &[&str]); 6] = [
    ("operator", "sidecar", &["operator", "kubectl-desktopstream"]),
    ("sidecar", "sidecar", &["sidecar"]),
    ("host-agent", "sidecar", &["host-agent"]),
    ("desktop-pattern", "desktop-pattern", &["pattern"]),
    ("desktop-sway", "desktop-sway", &[]),
    ("desktop-gnome", "desktop-gnome", &[]),
];
/// Packages that are built together, as what they share then is the same, and their programs.
const PACKAGES: [(&[&str], &[&str]); 3] = [
    (&["operator"], &["operator", "kubectl-desktopstream"]),
    (&["sidecar", "host-agent"], &["sidecar", "host-agent"]),
    (&["pattern"], &["pattern"]),
];

/// Those of that name, all if none is named.
pub(crate) fn wanted(names: &[&str]) -> Result<Vec<(&'static str, &'static str, &'static [&'static str])>> {
    if let Some(name) = names.iter().find(|name| !ALL.iter().any(|(known, ..)| known == *name)) {
        anyhow::bail!("no image {name}; there are: {}", ALL.map(|(name, ..)| name).join(", "));
    }
    Ok(ALL.into_iter().filter(|(name, ..)| names.is_empty() || names.contains(name)).collect())
}

/// What an image is called on the engine that it was built on: `desktopstream/NAME:latest`, or `:latest-arm64` beside it.
pub fn reference(name: &str, arch: Arch) -> String {
    format!("desktopstream/{name}:{}", tag(arch))
}

fn tag(arch: Arch) -> String {
    if arch.is_native() { "latest".to_owned() } else { format!("latest-{arch}") }
}

/// Builds images by name (`sidecar`), all if none is named, under their [`reference`]s. For another processor than the
/// machine's, our programs are cross-compiled, and those of Debian that an image's recipe runs are emulated.
pub fn build(engine: &Engine, arch: Arch, names: &[&str]) -> Result<()> {
    let wanted = wanted(names)?;
    let needed: Vec<&str> = wanted.iter().flat_map(|(.., programs)| *programs).copied().collect();
    let programs = Programs::make(&engine.folder()?.join(format!("programs-{arch}")), arch, &needed)?;
    lab::image::emulate(arch, &engine.folder()?)?;
    let mut bases = BTreeMap::new();
    for (name, root, _) in &wanted {
        let variable = format!("BASE_{}", name.to_uppercase().replace('-', "_"));
        bases.insert(variable, base(engine, arch, root)?);
    }
    let mut docker = engine.command("docker")?;
    docker
        .current_dir(repository())
        .args(["buildx", "bake", "--file", "docker/bake.hcl", "--progress", "plain", "--load"])
        // Our programs lie outside of what is built, and that is meant.
        .args(["--allow", &format!("fs.read={}", programs.folder.display())])
        .args(["--set", &format!("*.platform=linux/{arch}")])
        .args(wanted.iter().map(|(name, ..)| name))
        .envs(bases)
        .env("TAG", tag(arch))
        .env("PROGRAMS", "prebuilt")
        .env("PROGRAMS_FOLDER", &programs.folder)
        // Where the programs come from is all that it could say, and it would ask a registry for more.
        .env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1");
    let log = engine.folder()?.join("bake.log");
    lab::host::run_logged(&mut docker, &log).context("building our images")?;
    for (name, ..) in &wanted {
        let reference = reference(name, arch);
        let size = engine.docker(&["image", "inspect", "--format={{.Size}}", &reference])?;
        let size = lab::cache::Size(size.trim().parse().with_context(|| format!("{reference}: {size}"))?);
        say!("{reference}: {size}");
    }
    Ok(())
}

/// The lab's root as an image, imported once.
fn base(engine: &Engine, arch: Arch, root: &str) -> Result<String> {
    let tar = lab::image::Image::named(root)?.root(arch)?;
    let id = tar.parent().and_then(Path::file_name).context("an entry has a name")?.to_string_lossy();
    let reference = format!("docker.io/local/{id}:latest");
    if !engine.try_docker(&["image", "inspect", &reference])?.success() {
        say!("importing {id}");
        engine.import(&tar, arch, &reference)?;
    }
    Ok(reference)
}

/// A folder with our programs, without their debug information.
struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Compiles what has changed; `DESKTOPSTREAM_PROGRAMS` is a folder where they lie already.
    fn make(folder: &Path, arch: Arch, names: &[&str]) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let this = Self { folder: folder.canonicalize()? };
        if !arch.is_native() {
            this.cross_compile(arch, names)?;
            return Ok(this);
        }
        let from = match std::env::var_os("DESKTOPSTREAM_PROGRAMS") {
            Some(given) => PathBuf::from(given),
            None => compile()?,
        };
        for name in names {
            let mut strip = Command::new("strip");
            strip.arg("-o").arg(folder.join(name)).arg(from.join(name));
            lab::host::run(&mut strip).context("stripping our programs: apt install binutils")?;
        }
        Ok(this)
    }

    fn cross_compile(&self, arch: Arch, names: &[&str]) -> Result<()> {
        for (packages, programs) in PACKAGES {
            let programs: Vec<&&str> = programs.iter().filter(|it| names.contains(it)).collect();
            if programs.is_empty() {
                continue;
            }
            let from = e2e::cross_build(arch, packages)?;
            for name in programs {
                fs::copy(from.join(name), self.folder.join(name))
                    .with_context(|| format!("copying {name}"))?;
            }
        }
        Ok(())
    }
}

/// The folder with what cargo made.
fn compile() -> Result<PathBuf> {
    for (packages, _) in PACKAGES {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(repository()).stdin(Stdio::null()).args([
            "build",
            "--release",
            "--quiet",
            "--bins",
        ]);
        cargo.args(packages.iter().flat_map(|package| ["-p", package]));
        let status = cargo.status().context("starting cargo")?;
        ensure!(status.success(), "cargo could not build {packages:?}; its messages are above");
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    Ok(repository().canonicalize()?.join(target).join("release"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bake_knows_what_we_know() {
        let docker = repository().join("docker");
        let bake = fs::read_to_string(docker.join("bake.hcl")).expect("it is there");
        for (name, root, _) in ALL {
            assert!(bake.contains(&format!("\ntarget \"{name}\" {{")), "{name}");
            let variable = format!("variable \"BASE_{}\"", name.to_uppercase().replace('-', "_"));
            assert!(bake.contains(&variable), "{variable}");
            assert!(docker.join(root).join("packages").is_file(), "{root}");
        }
        assert_eq!(bake.matches("\n  dockerfile = ").count(), ALL.len(), "all are in the list");
    }

    /// The host-agent's image is built on the sidecar's root: offline it must find its packages there.
    #[test]
    fn the_host_agents_packages_are_among_the_sidecars() {
        let words = |file: &str| -> Vec<String> {
            let text = fs::read_to_string(repository().join("docker").join(file)).expect("it is there");
            text.lines()
                .filter(|line| !line.starts_with('#') && !line.is_empty())
                .map(str::to_owned)
                .collect()
        };
        let sidecars = words("sidecar/packages");
        for package in words("host-agent.packages") {
            assert!(sidecars.contains(&package), "{package}");
        }
    }
}
