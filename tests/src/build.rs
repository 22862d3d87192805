//! Compiles the programs under test and lays out the payload folder of the VM.

mod cross;
mod plugin;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use lab::{Arch, repository};
use tempfile::TempDir;

/// Programs under test, compiled in the release profile that ships.
#[derive(Debug)]
pub struct Programs {
    /// Path of `host-agent`.
    pub host_agent: PathBuf,
    /// Path of `libtap.so`.
    pub tap: PathBuf,
    /// Architecture of the guest programs in the payload.
    pub arch: Arch,
    payload: TempDir,
}

/// Packages that run on the host.
const HOST_PROGRAMS: [&str; 2] = ["host-agent", "tap"];
/// Packages that run in the guest.
const GUEST_PROGRAMS: [&str; 3] = ["sidecar", "pattern", "attacker"];

impl Programs {
    /// Compiles the programs for guests of the machine's own architecture.
    ///
    /// # Errors
    /// Fails if cargo fails.
    pub fn build() -> Result<Self> {
        Self::build_for(Arch::default())
    }

    /// Compiles the programs for guests of architecture `arch`.
    ///
    /// # Errors
    /// Fails if cargo fails.
    pub fn build_for(arch: Arch) -> Result<Self> {
        let native = if arch.is_native() { &GUEST_PROGRAMS[..] } else { &[] };
        let status = cargo()
            .args(["build", "--release"])
            .args(HOST_PROGRAMS.iter().chain(native).flat_map(|program| ["-p", program]))
            .status()
            .context("starting cargo")?;
        ensure!(status.success(), "cargo could not build the programs under test; see its messages above");
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

    /// Payload folder of the VM.
    pub fn payload(&self) -> &Path {
        self.payload.path()
    }
}

/// Cross-compiles packages for `arch`. Returns the folder with the stripped programs.
///
/// # Errors
/// Fails if cargo fails.
pub fn cross_build(arch: Arch, packages: &[&str]) -> Result<PathBuf> {
    cross::build(arch, packages, &target()?)
}

/// The cargo that started this program, in the workspace root.
fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(repository()).stdin(Stdio::null());
    cargo
}

/// Target folder of the workspace, from `CARGO_TARGET_DIR` or the default.
fn target() -> Result<PathBuf> {
    if let Some(target) = std::env::var_os("CARGO_TARGET_DIR") {
        return Ok(repository().join(target));
    }
    Ok(repository().canonicalize()?.join("target"))
}

/// Copies a program without debug information: the guest's disk is small and slow.
fn strip(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("strip").arg("-o").args([to, from]).status().context("starting strip")?;
    ensure!(status.success(), "strip {} failed", from.display());
    Ok(())
}
