//! Programs for a guest with another processor: the same cargo and the same profile, with that target's standard library
//! and the lab's sysroot. A target folder of its own, as cargo locks a folder while it builds in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use lab::sysroot::Sysroot;
use lab::{Arch, repository};

/// Compiles `packages`; the folder with their binaries and libraries, stripped.
pub(super) fn build(arch: Arch, packages: &[&str], target_folder: &Path) -> Result<PathBuf> {
    let target = arch.rust_target();
    ensure_standard_library(target)?;
    let sysroot = Sysroot::build(arch)?;
    let folder = target_folder.join(arch.debian());
    let mut cargo = super::cargo();
    cargo.args(["build", "--release", "--quiet", "--target", target]).arg("--target-dir").arg(&folder);
    cargo.args(packages.iter().flat_map(|package| ["-p", package]));
    // The machine's own strip doesn't know the format, the linker does.
    cargo.envs(sysroot.cargo_environment()).env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    let status = cargo.status().context("starting cargo")?;
    ensure!(
        status.success(),
        "cargo could not build our programs for {arch}; its messages are above. When it lacks clang or lld: ./x installs \
         them when its arguments name --arch {arch}"
    );
    Ok(folder.join(target).join("release"))
}

/// rustup's toolchains come with the machine's own only.
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
        "no Rust standard library for {target}: `rustup target add {target}` must succeed in this repository, or rustc come \
         from elsewhere together with that library ({folder})"
    );
    Ok(())
}
