//! Programs of the workspace that `./x` hands over to. They are separate so that other commands need not compile them.

use std::ffi::OsStr;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};

use crate::workspace;

/// Compiles the binary of `package`, with cargo's progress on stderr, and runs it; its exit status becomes ours.
pub fn run<A: AsRef<OsStr>>(package: &str, arguments: impl IntoIterator<Item = A>) -> Result<ExitCode> {
    build(&["--package", package])?;
    start(package, arguments)
}

/// Like [`run`], for an example of a package.
pub fn run_example<A: AsRef<OsStr>>(
    package: &str,
    example: &str,
    arguments: impl IntoIterator<Item = A>,
) -> Result<ExitCode> {
    build(&["--package", package, "--example", example])?;
    start(&format!("examples/{example}"), arguments)
}

fn build(what: &[&str]) -> Result<()> {
    let status =
        workspace::cargo().args(["build", "--release"]).args(what).status().context("starting cargo")?;
    ensure!(status.success(), "cargo build --release {} failed", what.join(" "));
    Ok(())
}

fn start<A: AsRef<OsStr>>(binary: &str, arguments: impl IntoIterator<Item = A>) -> Result<ExitCode> {
    let path = workspace::target()?.join("release").join(binary);
    let status = Command::new(&path)
        .args(arguments)
        .status()
        .with_context(|| format!("starting {}", path.display()))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
