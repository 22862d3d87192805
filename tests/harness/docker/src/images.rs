//! The images of docker/*.Dockerfile, built on an engine without a registry: bases are the lab's cached Debian roots, programs
//! come from cargo.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use lab::{Arch, repository};

use crate::{Engine, progress};

/// Target in docker/bake.hcl, the lab's root that holds its packages, and the programs that are copied into it. The operator
/// works on any root.
pub const ALL: [(&str, &str, &[&str]); 9] = [
    ("operator", "sidecar", &["operator", "kubectl-desktopstream"]),
    ("sidecar", "sidecar", &["sidecar"]),
    ("host-agent", "sidecar", &["host-agent"]),
    ("desktop-pattern", "desktop-pattern", &["pattern"]),
    ("desktop-sway", "desktop-sway", &[]),
    ("desktop-gnome", "desktop-gnome", &[]),
    ("desktop-labwc", "desktop-labwc", &[]),
    ("desktop-sway-full", "desktop-sway-full", &[]),
    ("desktop-gnome-full", "desktop-gnome-full", &[]),
];
/// Packages that are built in one call of cargo, so that they share dependencies' features, and their programs.
const PACKAGES: [(&[&str], &[&str]); 3] = [
    (&["operator", "kubectl-desktopstream"], &["operator", "kubectl-desktopstream"]),
    (&["sidecar", "host-agent"], &["sidecar", "host-agent"]),
    (&["pattern"], &["pattern"]),
];

/// Suffix of images with the programs of a daily desktop, which are built only if they are named.
const FULL: &str = "-full";

/// The images of these names; all but the full ones if `names` is empty.
pub fn wanted(names: &[&str]) -> Result<Vec<(&'static str, &'static str, &'static [&'static str])>> {
    if let Some(name) = names.iter().find(|name| !ALL.iter().any(|(known, ..)| known == *name)) {
        anyhow::bail!("image {name} does not exist; choose one of {}", ALL.map(|(name, ..)| name).join(", "));
    }
    Ok(ALL
        .into_iter()
        .filter(|(name, ..)| names.contains(name) || names.is_empty() && !name.ends_with(FULL))
        .collect())
}

/// Reference of an image on the engine that it was built on: `desktopstream/NAME:latest`, or `:latest-ARCH` if it is not for
/// the host's architecture.
pub fn reference(name: &str, arch: Arch) -> String {
    format!("desktopstream/{name}:{}", tag(arch))
}

fn tag(arch: Arch) -> String {
    if arch.is_native() { "latest".to_owned() } else { format!("latest-{arch}") }
}

/// Builds images (`sidecar`), all but the full ones if `names` is empty, under their [`reference`]s. For another architecture than the host's,
/// the programs are cross-compiled, and Debian's programs that a Dockerfile runs are emulated.
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
        // The programs are outside of the build context.
        .args(["--allow", &format!("fs.read={}", programs.folder.display())])
        .args(["--set", &format!("*.platform=linux/{arch}")])
        .args(wanted.iter().map(|(name, ..)| name))
        .envs(bases)
        .env("TAG", tag(arch))
        .env("PROGRAMS", "prebuilt")
        .env("PROGRAMS_FOLDER", &programs.folder)
        // Provenance attestations would need a registry.
        .env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1");
    let log = engine.folder()?.join("bake.log");
    lab::host::run_logged(&mut docker, &log).context("building the images")?;
    for (name, ..) in &wanted {
        let reference = reference(name, arch);
        let size = engine.docker(&["image", "inspect", "--format={{.Size}}", &reference])?;
        let size = lab::cache::Size(size.trim().parse().with_context(|| format!("{reference}: {size}"))?);
        progress!("{reference}: {size}");
    }
    Ok(())
}

/// Reference of a lab's root as an image, which is imported by the first call.
fn base(engine: &Engine, arch: Arch, root: &str) -> Result<String> {
    let tar = lab::image::Image::named(root)?.root(arch)?;
    let id = tar.parent().and_then(Path::file_name).context("the cache entry has no name")?.to_string_lossy();
    let reference = format!("docker.io/local/{id}:latest");
    if !engine.try_docker(&["image", "inspect", &reference])?.success() {
        progress!("importing {id}");
        engine.import(&tar, arch, &reference)?;
    }
    Ok(reference)
}

/// A folder with programs without debug information.
struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Builds the programs with cargo, or takes them from the folder that `DESKTOPSTREAM_PROGRAMS` names.
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
            lab::host::run(&mut strip).context("stripping the programs: apt install binutils")?;
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

/// Builds all packages with cargo; returns the folder of the programs.
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
        ensure!(status.success(), "cargo could not build {packages:?}; see its messages above");
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    Ok(repository().canonicalize()?.join(target).join("release"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_image_is_a_bake_target_with_a_root() {
        let docker = repository().join("docker");
        let bake = fs::read_to_string(docker.join("bake.hcl")).expect("bake.hcl exists");
        for (name, root, _) in ALL {
            assert!(bake.contains(&format!("\ntarget \"{name}\" {{")), "{name}");
            let variable = format!("variable \"BASE_{}\"", name.to_uppercase().replace('-', "_"));
            assert!(bake.contains(&variable), "{variable}");
            assert!(docker.join(root).join("packages").is_file(), "{root}");
        }
        assert_eq!(
            bake.matches("\n  dockerfile = ").count(),
            ALL.len(),
            "a target of bake.hcl is not in the list"
        );
    }

    /// The host-agent's image is built on the sidecar's root without a network.
    #[test]
    fn packages_of_the_host_agent_are_among_the_sidecars() {
        let words = |file: &str| -> Vec<String> {
            let text = fs::read_to_string(repository().join("docker").join(file)).expect("file exists");
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
