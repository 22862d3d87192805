//! `./x bench input`: time from an input event in the page to the drawn frame that shows its effect.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use e2e::rig::{Rig, RigOptions, Stream, StreamOptions, VIEWER_TOKEN};
use e2e::{Desktop, Programs, wait};
use lab::repository;
use serde_json::{Value, json};

use crate::interrupt;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Compositor {
    Sway,
    Gnome,
}

#[derive(Args)]
pub struct Input {
    /// Folder for input.json and input.md
    #[arg(long, default_value = "bench")]
    out: PathBuf,
    /// Samples per row
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    samples: u32,
    /// Size of the desktop
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = crate::demo::size, default_value = "1280x720")]
    size: (u32, u32),
    /// Desktops to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["sway", "gnome"])]
    desktops: Vec<Compositor>,
}

/// Frame paths to measure, as arguments of `--frame-path`.
const PATHS: [&str; 2] = ["resource-id", "pixels"];
const EVENTS: [&str; 2] = ["key", "click"];
/// Exists once the terminal's program reads its input.
const READY: &str = "/run/desktop/ready";
const READY_TIMEOUT: Duration = Duration::from_mins(5);

/// Terminal whose colours are exchanged by each space: by the space bar, and by the press of the left button, whose report
/// (mode 1000) has a space as its button.
fn terminal() -> String {
    let program = format!(
        r#"stty raw -echo; printf "\e[?25l\e[?1000h"; : > {READY}; on=h; while IFS= read -r -d "" -n 1 c; do [ "$c" = " " ] || continue; printf "\e[?5$on"; [ $on = h ] && on=l || on=h; done"#
    );
    format!("foot --log-level=error bash -c '{program}'")
}

/// Runs the benchmark.
///
/// # Errors
/// If the VM, a desktop or the browser fails, or an event has no effect.
pub fn run(Input { out, samples, size, desktops }: &Input) -> Result<ExitCode> {
    interrupt::install_handler()?;
    fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    e2e::browser::install()?;
    let programs = Programs::build()?;
    let mut rows = Vec::new();
    let mut host = Value::Null;
    for desktop in desktops {
        let image = match desktop {
            Compositor::Sway => Desktop::Sway,
            Compositor::Gnome => Desktop::Gnome,
        };
        let mut rig = Rig::up(&programs, &RigOptions::new("bench-input", &[image]))?;
        host = super::host(&rig)?;
        for path in PATHS {
            let mut options = StreamOptions::new(image, *size);
            options.desktop_env.push(("DESKTOP_APPS".to_owned(), terminal()));
            options.sidecar_args = ["--frame-path", path].map(str::to_owned).into();
            let stream = rig.start(&format!("{}-{path}", image.image()), options)?;
            for event in EVENTS {
                interrupt::check()?;
                let row = measure(&stream, event, *samples).with_context(|| stream.logs())?;
                eprintln!("x: {row}");
                rows.push(row);
            }
            stream.stop()?;
        }
    }
    let report = json!({"host": host, "rows": rows});
    fs::write(out.join("input.json"), serde_json::to_string_pretty(&report)? + "\n")?;
    let table = markdown(&report);
    fs::write(out.join("input.md"), &table)?;
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}

fn measure(stream: &Stream, event: &str, samples: u32) -> Result<Value> {
    wait::until("the terminal", READY_TIMEOUT, || {
        let found = stream.desktop.exec_in(&["test", "-e", READY])?;
        ensure!(found.success(), "{READY} does not exist");
        ensure!(!stream.status()?.input.protocol.is_empty(), "input is not connected");
        Ok(())
    })?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("latency.json");
    let status = Command::new("node")
        .arg(repository().join("tests/browser/latency.mjs"))
        .args(["--url", &stream.url, "--token", VIEWER_TOKEN, "--event", event])
        .args(["--samples", &samples.to_string(), "--json"])
        .arg(&file)
        .stdin(Stdio::null())
        .status()
        .context("starting node")?;
    ensure!(status.success(), "the browser failed: {status}");
    let report: Value = serde_json::from_slice(&fs::read(file)?)?;
    let mut times: Vec<f64> = serde_json::from_value(report["ms"].clone())?;
    times.sort_by(f64::total_cmp);
    let status = stream.status()?;
    Ok(json!({
        "desktop": stream.options.desktop.image(),
        "path": status.frame_path,
        "event": event,
        "samples": times.len(),
        "width": status.width,
        "height": status.height,
        "event_to_drawn_ms": {"p50": quantile(&times, 0.5), "p95": quantile(&times, 0.95), "max": quantile(&times, 1.0)},
        "capture_to_drawn_ms": report["stats"]["latency_ms"],
    }))
}

/// Quantile of sorted values, by the nearest rank.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

fn markdown(report: &Value) -> String {
    let host = &report["host"];
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let mut out = format!(
        "# Input latency\n\nMachine: {} x {}, {}, {}. Time from the event in the page (Chromium on the same machine) to the end of drawing of the \
         first frame that shows its effect, in a terminal that exchanges its colours; and the part of it from capture to drawing.\n\n\
         | desktop | path | event | size | samples | event to drawn p50 / p95 / max ms | capture to drawn p50 ms |\n|---|---|---|---|---|---|---|\n",
        host["cpus"],
        text(&host["cpu"]),
        text(&host["accelerator"]),
        text(&host["host_gl"]),
    );
    for row in report["rows"].as_array().into_iter().flatten() {
        let all = &row["event_to_drawn_ms"];
        // Writing to a String does not fail.
        let _ = writeln!(
            out,
            "| {} | {} | {} | {}x{} | {} | {:.0} / {:.0} / {:.0} | {:.0} |",
            text(&row["desktop"]),
            text(&row["path"]),
            text(&row["event"]),
            row["width"],
            row["height"],
            row["samples"],
            number(&all["p50"]),
            number(&all["p95"]),
            number(&all["max"]),
            number(&row["capture_to_drawn_ms"]["p50"]),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantile_is_the_nearest_rank() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        let found = [0.5, 0.95, 1.0].map(|part| quantile(&values, part));
        assert!(found.map(f64::to_bits) == [50.0, 95.0, 100.0].map(f64::to_bits), "{found:?}");
        assert_eq!(quantile(&[7.0], 0.5).to_bits(), 7.0_f64.to_bits());
        assert!(quantile(&[], 0.5).is_nan());
    }
}
