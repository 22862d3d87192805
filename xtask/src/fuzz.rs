//! `./x test slow`: every fuzz target for its share of the time.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

/// Runs all targets, `total` together; the number of targets that found nothing.
pub fn run(total: Duration) -> Result<u32> {
    let folder = lab::repository().join("fuzz");
    let cargo = || {
        let mut command = Command::new("cargo");
        command.current_dir(lab::repository()).stdin(Stdio::null());
        command
    };
    if !cargo().args(["fuzz", "--version"]).stdout(Stdio::null()).status()?.success() {
        let installed = cargo().args(["install", "--locked", "cargo-fuzz"]).status()?;
        ensure!(installed.success(), "cargo-fuzz could not be installed");
    }
    let list = cargo().args(["fuzz", "list"]).output().context("cargo fuzz list")?;
    ensure!(list.status.success(), "no fuzz targets in {}", folder.display());
    let names = String::from_utf8(list.stdout)?;
    let targets: Vec<&str> = names.split_whitespace().collect();
    ensure!(!targets.is_empty(), "no fuzz targets in {}", folder.display());
    let share = total.as_secs() / targets.len() as u64 + 1;
    for target in &targets {
        println!("x: fuzzing {target} for {share} s");
        let status = cargo()
            .args(["fuzz", "run", "--sanitizer", "none", target, "--"])
            .args([format!("-max_total_time={share}"), "-print_final_stats=1".to_owned()])
            .status()?;
        ensure!(status.success(), "{target} found something: see fuzz/artifacts/{target}");
    }
    Ok(targets.len() as u32)
}
