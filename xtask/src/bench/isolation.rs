//! `./x bench isolation`: what a stream and a timer in one VM notice of a hostile container, against harmless work.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use e2e::neighbours::{Neighbours, Observation};
use e2e::rig::RigOptions;
use e2e::{Desktop, Programs};
use serde_json::{Value, json};

use crate::interrupt;

#[derive(Args)]
pub struct Isolation {
    /// Folder for isolation.json and isolation.md
    #[arg(long, default_value = "bench")]
    out: PathBuf,
    /// Seconds per measurement
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(2..=600))]
    seconds: u32,
    /// Rounds of harmless work, flood, and all attacks
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
}

/// Runs the benchmark. Harmless work sends echo requests; the flood requests 4K frames; the attacks are those of
/// `tests/fixtures/attacker`.
///
/// # Errors
/// If the VM or a container fails.
pub fn run(Isolation { out, seconds, rounds }: &Isolation) -> Result<ExitCode> {
    interrupt::install_handler()?;
    fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    let neighbours =
        Neighbours::up(&Programs::build()?, &RigOptions::new("bench-isolation", &[Desktop::Pattern]))?;
    let seconds = seconds.to_string();
    let timer = || neighbours.spec("timer", &["timer", "--seconds", &seconds]);
    let mut rows = Vec::new();
    for round in 1..=*rounds {
        interrupt::check()?;
        let harmless = neighbours.spec("control", &["control", "--seconds", &seconds])?;
        rows.push(row(round, "harmless work", &neighbours.observe(&[harmless, timer()?])?));
        let flood = neighbours.attack("flood", &["flood", "--seconds", &seconds])?;
        rows.push(row(round, "flood of 4K frames", &neighbours.observe(&[flood, timer()?])?));
        let attacks = neighbours.attack("attacker", &["all"])?;
        rows.push(row(round, "all attacks", &neighbours.observe(&[attacks])?));
    }
    for row in &rows {
        eprintln!("x: {row}");
    }
    let report = json!({"host": super::host(&neighbours.rig)?, "rows": rows});
    fs::write(out.join("isolation.json"), serde_json::to_string_pretty(&report)? + "\n")?;
    let table = markdown(&report);
    fs::write(out.join("isolation.md"), &table)?;
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}

fn row(round: u32, beside: &str, observed: &Observation) -> Value {
    json!({
        "round": round,
        "beside": beside,
        "fps": observed.fps,
        "refused": observed.refused,
        "ring_bytes": observed.ring_bytes,
        "timer": observed.reports.get(1),
    })
}

fn markdown(report: &Value) -> String {
    let host = &report["host"];
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let rows = || report["rows"].as_array().into_iter().flatten();
    let harmless = |round: &Value| {
        rows().find(|row| row["round"] == *round && row["beside"] == "harmless work").map_or(f64::NAN, fps)
    };
    let mut out = format!(
        "# Isolation\n\nMachine: {} x {}, {}, {}. Frames of a stream, and lateness of a 60 Hz timer in a container, beside another container of the \
         same VM. The ratio is that of the frame rate to the one beside harmless work in the same round.\n\n\
         | round | beside | frames per second | ratio | refused | rings MiB | timer late p50 / p99 / max ms |\n|---|---|---|---|---|---|---|\n",
        host["cpus"],
        text(&host["cpu"]),
        text(&host["accelerator"]),
        text(&host["host_gl"]),
    );
    for row in rows() {
        let timer = &row["timer"];
        let late = |key: &str| timer[key].as_f64().map_or_else(|| "–".to_owned(), |ms| format!("{ms:.1}"));
        // Writing to a String does not fail.
        let _ = writeln!(
            out,
            "| {} | {} | {:.1} | {:.2} | {} | {:.0} | {} / {} / {} |",
            row["round"],
            text(&row["beside"]),
            fps(row),
            fps(row) / harmless(&row["round"]),
            row["refused"],
            row["ring_bytes"].as_f64().unwrap_or(f64::NAN) / f64::from(1 << 20),
            late("p50_ms"),
            late("p99_ms"),
            late("max_ms"),
        );
    }
    out
}

fn fps(row: &Value) -> f64 {
    row["fps"].as_f64().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_their_ratio_to_harmless_work_of_the_round() {
        let observed = |fps, timer: &[Value]| Observation {
            reports: [&[json!({})][..], timer].concat(),
            fps,
            frames: 100,
            refused: 0,
            ring_bytes: 3 << 20,
        };
        let timer = json!({"p50_ms": 1.0, "p99_ms": 2.5, "max_ms": 4.0});
        let rows =
            [row(1, "harmless work", &observed(10.0, &[])), row(1, "all attacks", &observed(9.0, &[timer]))];
        let table = markdown(&json!({"host": {"cpus": 2}, "rows": rows}));
        assert!(table.contains("| 1 | harmless work | 10.0 | 1.00 | 0 | 3 | – / – / – |"), "{table}");
        assert!(table.contains("| 1 | all attacks | 9.0 | 0.90 | 0 | 3 | 1.0 / 2.5 / 4.0 |"), "{table}");
    }
}
