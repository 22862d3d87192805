//! Fuzz targets in `./x test slow`.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::workspace::{self, cargo};

/// Most seconds that one input may take.
const INPUT_SECONDS: u32 = 10;

/// Runs every target for an equal share of `total`.
///
/// # Errors
/// If a target crashes; its input is then in `fuzz/artifacts/TARGET`.
pub fn run(total: Duration) -> Result<()> {
    if !cargo().args(["fuzz", "--version"]).stdout(Stdio::null()).status()?.success() {
        let installed = cargo().args(["install", "--locked", "cargo-fuzz"]).status()?;
        ensure!(installed.success(), "cargo install cargo-fuzz failed");
    }
    let list = cargo().args(["fuzz", "list"]).output().context("starting cargo fuzz list")?;
    let names = String::from_utf8(list.stdout)?;
    let targets: Vec<&str> = names.split_whitespace().collect();
    ensure!(list.status.success() && !targets.is_empty(), "no fuzz targets in fuzz/");
    let share = total.as_secs() / targets.len() as u64 + 1;
    let mut crashed = Vec::new();
    for target in &targets {
        println!("x: fuzzing {target} for {share} s");
        let corpus = workspace::root()?.join("fuzz/corpus").join(target);
        std::fs::create_dir_all(&corpus).with_context(|| format!("creating {}", corpus.display()))?;
        // New inputs are written to the first folder only.
        let seeds = workspace::root()?.join("fuzz/seeds").join(target);
        let status = cargo()
            .args(["fuzz", "run", "--sanitizer", "none", target])
            .arg(&corpus)
            .args(seeds.is_dir().then_some(&seeds))
            .args(["--", &format!("-timeout={INPUT_SECONDS}"), &format!("-max_total_time={share}")])
            .arg("-print_final_stats=1")
            .status()?;
        if !status.success() {
            crashed.push(*target);
        }
    }
    ensure!(crashed.is_empty(), "crashed: {}; see fuzz/artifacts/", crashed.join(", "));
    Ok(())
}
