//! `./x check-macos`: a program of its own, so that not everybody who tests streams has to compile it.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

pub fn run() -> Result<ExitCode> {
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(lab::repository())
        .args(["run", "--quiet", "--release", "-p", "check-macos"])
        .status()
        .context("starting cargo")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
