//! Compiles our programs, once per run, and lays out the folder that goes into the VM.

mod cross;
mod plugin;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use lab::{Arch, repository};
use tempfile::TempDir;

/// Our programs, compiled for release: what is tested is what is shipped.
#[derive(Debug)]
pub struct Programs {
    /// The host's daemon.
    pub host_agent: PathBuf,
    /// The library for the VMM.
    pub tap: PathBuf,
    /// The processor of the guests that the payload is for.
    pub arch: Arch,
    payload: TempDir,
}

/// What runs on the host.
const HOST_PROGRAMS: [&str; 2] = ["host-agent", "tap"];
/// What runs in the guest.
const GUEST_PROGRAMS: [&str; 3] = ["sidecar", "pattern", "attacker"];

impl Programs {
    /// Compiles what has changed, for guests with the machine's own processor.
    pub fn build() -> Result<Self> {
        Self::build_for(Arch::default())
    }

    /// Compiles what has changed, for guests with this processor.
    pub fn build_for(arch: Arch) -> Result<Self> {
        let native = if arch.is_native() { &GUEST_PROGRAMS[..] } else { &[] };
        let status = cargo()
            .args(["build", "--release", "--quiet"])
            .args(HOST_PROGRAMS.iter().chain(native).flat_map(|program| ["-p", program]))
            .status()
            .context("starting cargo")?;
        ensure!(status.success(), "cargo could not build our programs; its messages are above");
        let release = target()?.join("release");
        let payload = tempfile::tempdir()?;
        if arch.is_native() {
            for program in GUEST_PROGRAMS {
                strip(&release.join(program), &payload.path().join(program))?;
            }
        } else {
            let built = cross::build(arch, &GUEST_PROGRAMS, &target()?)?;
            for program in GUEST_PROGRAMS {
                std::fs::copy(built.join(program), payload.path().join(program))
                    .with_context(|| format!("copying {program}"))?;
            }
        }
        Ok(Self { host_agent: release.join("host-agent"), tap: release.join("libtap.so"), arch, payload })
    }

    /// The folder that the VM gets as its payload.
    pub fn payload(&self) -> &Path {
        self.payload.path()
    }
}

/// Compiles packages for another processor than the machine's; the folder with their programs, stripped.
pub fn cross_build(arch: Arch, packages: &[&str]) -> Result<PathBuf> {
    cross::build(arch, packages, &target()?)
}

/// The cargo that runs us, in the workspace.
fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(repository()).stdin(Stdio::null());
    cargo
}

/// The workspace's target folder: where this very program lies, when it was not given by the environment.
fn target() -> Result<PathBuf> {
    if let Some(target) = std::env::var_os("CARGO_TARGET_DIR") {
        return Ok(repository().join(target));
    }
    Ok(repository().canonicalize()?.join("target"))
}

/// Copies a program without its debug information: the guest's disk is small, and its reads are slow.
fn strip(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("strip").arg("-o").args([to, from]).status().context("starting strip")?;
    ensure!(status.success(), "strip {} failed", from.display());
    Ok(())
}
