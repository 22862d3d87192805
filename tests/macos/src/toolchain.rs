//! Rust's own target and its own LLD: nothing of the machine's.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

/// What a Mac of today is.
pub const TARGET: &str = "aarch64-apple-darwin";

/// See the module.
#[derive(Debug)]
pub struct Toolchain {
    /// LLD.
    pub linker: PathBuf,
}

impl Toolchain {
    /// Finds it; has rustup install the target if need be.
    pub fn ready() -> Result<Self> {
        let sysroot = PathBuf::from(said(&["--print", "sysroot"])?.trim());
        let libraries = sysroot.join("lib/rustlib");
        if !libraries.join(TARGET).join("lib").exists() {
            println!("x: installing Rust's target {TARGET}");
            let added = Command::new("rustup")
                .current_dir(crate::repository())
                .args(["target", "add", TARGET])
                .status()
                .with_context(|| format!("no rustup; install rustc's standard library for {TARGET}"))?;
            ensure!(added.success(), "rustup target add {TARGET} failed; is the network there?");
        }
        let version = said(&["-vV"])?;
        let Some(host) = version.lines().find_map(|line| line.strip_prefix("host: ")) else {
            bail!("rustc -vV names no host");
        };
        let linker = libraries.join(host).join("bin/rust-lld");
        ensure!(linker.exists(), "{} is missing; it comes with rustup's toolchains", linker.display());
        Ok(Self { linker })
    }
}

fn said(arguments: &[&str]) -> Result<String> {
    let out = Command::new("rustc")
        .current_dir(crate::repository())
        .args(arguments)
        .output()
        .context("starting rustc")?;
    ensure!(out.status.success(), "rustc {} failed", arguments.join(" "));
    Ok(String::from_utf8(out.stdout)?)
}
