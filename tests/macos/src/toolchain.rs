//! Rust's standard library for macOS and the LLD of the Rust toolchain.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

/// Target triple of Apple silicon.
pub const TARGET: &str = "aarch64-apple-darwin";

/// Linker of the toolchain.
#[derive(Debug)]
pub struct Toolchain {
    /// Path of `rust-lld`.
    pub linker: PathBuf,
}

impl Toolchain {
    /// Locates the linker and installs the target with rustup if it is missing.
    ///
    /// # Errors
    /// Fails if the target cannot be installed.
    pub fn ready() -> Result<Self> {
        let sysroot = PathBuf::from(rustc(&["--print", "sysroot"])?.trim());
        let libraries = sysroot.join("lib/rustlib");
        if !libraries.join(TARGET).join("lib").exists() {
            println!("x: installing Rust's target {TARGET}");
            let added = Command::new("rustup")
                .current_dir(crate::repository())
                .args(["target", "add", TARGET])
                .status()
                .with_context(|| {
                    format!("rustup is missing; install the Rust standard library for {TARGET}")
                })?;
            ensure!(added.success(), "rustup target add {TARGET} failed; check the network");
        }
        let version = rustc(&["-vV"])?;
        let Some(host) = version.lines().find_map(|line| line.strip_prefix("host: ")) else {
            bail!("rustc -vV prints no host");
        };
        let linker = libraries.join(host).join("bin/rust-lld");
        ensure!(linker.exists(), "{} is missing; use a toolchain installed by rustup", linker.display());
        Ok(Self { linker })
    }
}

fn rustc(arguments: &[&str]) -> Result<String> {
    let out = Command::new("rustc")
        .current_dir(crate::repository())
        .args(arguments)
        .output()
        .context("starting rustc")?;
    ensure!(out.status.success(), "rustc {} failed", arguments.join(" "));
    Ok(String::from_utf8(out.stdout)?)
}
