//! `./x bench`: measurements, written as JSON, Markdown and SVG.

mod cpu;
mod input;
mod isolation;
mod report;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Subcommand};
use e2e::rig::{Rig, RigOptions, Stream, StreamOptions};
use e2e::{Desktop, Programs, wait};
use serde_json::{Value, json};

use crate::demo::report::{Frames, bytes_per_frame};
use crate::interrupt;
use cpu::CpuTicks;

/// Run benchmarks
#[derive(Subcommand)]
pub enum Command {
    /// Compare frame paths in one VM
    Frame(Frame),
    /// Measure the time from an input event to the frame that shows its effect
    Input(input::Input),
    /// Measure what a stream notices of a hostile container in its VM
    Isolation(isolation::Isolation),
    /// Compare the operator with a bare client, on a real apiserver (needs root)
    Control(Control),
}

#[derive(Args)]
pub struct Control {
    /// Folder for control.json, control.md and control.svg
    #[arg(long, default_value = "bench")]
    out: PathBuf,
    /// Number of streams
    #[arg(long, default_value_t = 1000)]
    streams: usize,
}

#[derive(Args)]
pub struct Frame {
    /// Folder for frame.json, frame.md and frame.svg
    #[arg(long, default_value = "bench")]
    out: PathBuf,
    /// Seconds per row
    #[arg(long, default_value_t = 6)]
    seconds: u64,
    /// Sizes to measure
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = crate::demo::size, value_delimiter = ',',
          default_values = ["640x360", "1280x720", "1920x1080"])]
    sizes: Vec<(u32, u32)>,
    /// Variants of the frame path to measure
    #[arg(long, value_delimiter = ',', default_values = VARIANTS.map(|variant| variant.name))]
    paths: Vec<String>,
    /// Encoders to measure
    #[arg(long, value_delimiter = ',', default_values = ["null", "x264enc"])]
    encoders: Vec<String>,
}

/// A frame path and how the sidecar is told to use it.
struct Variant {
    /// Name in the report.
    name: &'static str,
    arguments: &'static [&'static str],
    encoders: &'static [&'static str],
}

/// `shm-nv12` is what other remote desktops do: capture to shared memory, push NV12.
const VARIANTS: [Variant; 4] = [
    Variant {
        name: "resource-id",
        arguments: &["--frame-path", "resource-id"],
        encoders: &["null", "x264enc"],
    },
    Variant { name: "pixels-nv12", arguments: &["--frame-path", "pixels"], encoders: &["null", "x264enc"] },
    Variant {
        name: "pixels-bgrx",
        arguments: &["--frame-path", "pixels", "--push", "native"],
        encoders: &["null"],
    },
    Variant {
        name: "shm-nv12",
        arguments: &["--memory", "shm", "--frame-path", "pixels"],
        encoders: &["null", "x264enc"],
    },
];

pub fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Frame(options) => frame(options),
        Command::Input(options) => input::run(options),
        Command::Isolation(options) => isolation::run(options),
        Command::Control(Control { out, streams }) => {
            let arguments = [
                "--out".into(),
                std::path::absolute(out)?.into_os_string(),
                "--streams".into(),
                streams.to_string().into(),
            ];
            crate::programs::run_example("cluster", "control", arguments)
        }
    }
}

fn frame(Frame { out, seconds, sizes, paths, encoders }: &Frame) -> Result<ExitCode> {
    interrupt::install_handler()?;
    fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    let programs = Programs::build()?;
    let mut rig = Rig::up(&programs, &RigOptions::new("bench", &[Desktop::Pattern]))?;
    let (mut rows, mut reads) = (Vec::new(), Vec::new());
    for encoder in encoders.iter().map(String::as_str) {
        rig.host_agent.restart_with(&["--encoder", encoder])?;
        for &size in sizes {
            let selected =
                |it: &&Variant| paths.iter().any(|path| path == it.name) && it.encoders.contains(&encoder);
            for variant in VARIANTS.iter().filter(selected) {
                interrupt::check()?;
                let (row, read) = measure(&mut rig, variant, encoder, size, Duration::from_secs(*seconds))
                    .with_context(|| format!("{} with {encoder} at {}x{}", variant.name, size.0, size.1))?;
                eprintln!("x: {row}");
                rows.push(row);
                if encoder == "null" {
                    reads.extend(read);
                }
            }
        }
    }
    let report = json!({"host": host(&rig)?, "rows": rows, "read_ms": reads});
    fs::write(out.join("frame.json"), serde_json::to_string_pretty(&report)? + "\n")?;
    let table = report::markdown(&report);
    fs::write(out.join("frame.md"), &table)?;
    fs::write(out.join("frame.svg"), report::svg(&report))?;
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}

fn host(rig: &Rig) -> Result<Value> {
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    Ok(json!({
        "cpu": model.trim_start_matches([' ', '\t', ':']),
        "cpus": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "accelerator": rig.vm.accelerator(),
        "host_gl": "llvmpipe",
        "desktop": "pattern",
    }))
}

/// A row of the report, and the tap's read times if it read.
fn measure(
    rig: &mut Rig,
    variant: &Variant,
    encoder: &str,
    size: (u32, u32),
    time: Duration,
) -> Result<(Value, Option<Value>)> {
    let mut options = StreamOptions::new(Desktop::Pattern, size);
    options.sidecar_args =
        variant.arguments.iter().chain(&["--max-fps", "240"]).map(ToString::to_string).collect();
    let stream = rig.start(&format!("{}-{}-{encoder}", variant.name, size.1), options)?;
    let result = watch(rig, &stream, variant, encoder, time).with_context(|| stream.logs());
    stream.stop()?;
    result
}

fn watch(
    rig: &Rig,
    stream: &Stream,
    variant: &Variant,
    encoder: &str,
    time: Duration,
) -> Result<(Value, Option<Value>)> {
    wait::until("frames", Duration::from_secs(60), || {
        ensure!(stream.status()?.frames.encoded > 4, "no frames yet");
        Ok(())
    })?;
    let (before, begin) = (stream.status()?, Instant::now());
    let cpu = CpuTicks::now(rig, stream)?;
    interrupt::sleep(time)?;
    let (after, seconds) = (stream.status()?, begin.elapsed().as_secs_f64());
    let cpu = CpuTicks::now(rig, stream)?.percent_since(&cpu, seconds);
    let frames = Frames::between(&before, &after);
    let latency = after.latency_ms;
    let row = json!({
        "path": variant.name,
        "encoder": encoder.trim_end_matches("enc"),
        "width": after.width,
        "height": after.height,
        "fps": frames.encoded as f64 / seconds,
        "latency_ms": {"p50": latency.p50, "p95": latency.p95, "p99": latency.p99},
        "bytes_per_frame_to_host": bytes_per_frame(&before, &after),
        "dropped": frames.dropped,
        "cpu_percent": cpu,
    });
    let host_agent = rig.host_agent.status()?;
    let session = host_agent.sessions.first().filter(|_| variant.name == "resource-id");
    let read = session.map(|session| {
        let tap = after.tap_ms;
        let ms = |microseconds: u64| microseconds as f64 / 1000.0;
        let bare = session.read_us;
        json!({
            "width": after.width,
            "height": after.height,
            "tap": {"p50": tap.p50, "p99": tap.p99, "max": tap.max},
            "bare": {"p50": ms(bare.p50), "p99": ms(bare.p99), "max": ms(bare.max)},
        })
    });
    Ok((row, read))
}
