//! Compiles our programs, once per run, and lays out the folder that goes into the VM.

mod plugin;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use lab::repository;
use tempfile::TempDir;

/// Our programs, compiled for release: what is tested is what is shipped.
#[derive(Debug)]
pub struct Programs {
    /// The host's daemon.
    pub host_agent: PathBuf,
    /// The library for the VMM.
    pub tap: PathBuf,
    payload: TempDir,
}

/// What runs in the guest.
const GUEST_PROGRAMS: [&str; 3] = ["sidecar", "pattern", "attacker"];

impl Programs {
    /// Compiles what has changed.
    pub fn build() -> Result<Self> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .current_dir(repository())
            .args(["build", "--release", "--quiet"])
            .args(["-p", "host-agent", "-p", "tap", "-p", "sidecar", "-p", "pattern", "-p", "attacker"])
            .stdin(Stdio::null())
            .status()
            .context("starting cargo")?;
        ensure!(status.success(), "cargo could not build our programs; its messages are above");
        let release = target()?.join("release");
        let payload = tempfile::tempdir()?;
        for program in GUEST_PROGRAMS {
            strip(&release.join(program), &payload.path().join(program))?;
        }
        Ok(Self { host_agent: release.join("host-agent"), tap: release.join("libtap.so"), payload })
    }

    /// The folder that the VM gets as its payload.
    pub fn payload(&self) -> &Path {
        self.payload.path()
    }
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
