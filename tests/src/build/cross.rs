//! Cross-compilation for a guest of another architecture, with rustup's standard library for the target and the lab's
//! sysroot. Uses its own target folder because cargo locks a target folder while it builds.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use lab::sysroot::Sysroot;
use lab::{Arch, repository};

/// Compiles `packages`. Returns the folder with the stripped binaries and libraries.
pub(super) fn build(arch: Arch, packages: &[&str], target_folder: &Path) -> Result<PathBuf> {
    let target = arch.rust_target();
    ensure_standard_library(target)?;
    let sysroot = Sysroot::build(arch)?;
    let folder = target_folder.join(arch.debian());
    let mut cargo = super::cargo();
    cargo.args(["build", "--release", "--target", target]).arg("--target-dir").arg(&folder);
    cargo.args(packages.iter().flat_map(|package| ["-p", package]));
    // The native strip does not support the target's format; the linker does.
    cargo.envs(sysroot.cargo_environment()).env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    let status = cargo.status().context("starting cargo")?;
    ensure!(
        status.success(),
        "cargo could not build for {arch}; see its messages above. If clang or lld is missing, pass --arch {arch} to ./x, \
         which installs them"
    );
    Ok(folder.join(target).join("release"))
}

/// Installs the standard library of `target`, which rustup does not include by default.
fn ensure_standard_library(target: &str) -> Result<()> {
    let output = Command::new("rustc")
        .current_dir(repository())
        .args(["--print", "target-libdir", "--target", target])
        .output()
        .context("starting rustc")?;
    let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && Path::new(&folder).is_dir() {
        return Ok(());
    }
    eprintln!("e2e: rustup target add {target}");
    let added = Command::new("rustup")
        .current_dir(repository())
        .args(["target", "add", target])
        .stdin(Stdio::null())
        .status();
    ensure!(
        added.is_ok_and(|status| status.success()),
        "no Rust standard library for {target} in {folder}: run `rustup target add {target}` in this repository, or use a \
         rustc that includes it"
    );
    Ok(())
}
