//! `./x bench frame`: the path against pushing pixels, in one run, on one VM. `./x bench control` is tests/harness/cluster's.

mod report;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Subcommand};
use e2e::http::number;
use e2e::rig::{Rig, RigOptions, Stream, StreamOptions};
use e2e::{Desktop, Programs, wait};
use serde_json::{Value, json};

use crate::stop;

/// Measure
#[derive(Subcommand)]
pub enum Command {
    /// The path of a frame against pushing pixels
    Frame(Frame),
    /// The operator with a thousand streams, against a real apiserver: needs root
    Control(Control),
}

/// Where to write it
#[derive(Args)]
pub struct Control {
    /// Folder for control.json, control.md and control.svg
    #[arg(long, default_value = "bench")]
    out: PathBuf,
    /// How many streams
    #[arg(long, default_value_t = 1000)]
    streams: usize,
}

/// What to measure, and where to write it
#[derive(Args)]
pub struct Frame {
    /// Folder for frame.json, frame.md and frame.svg
    #[arg(long, default_value = "bench")]
    out: PathBuf,
    /// Seconds per row
    #[arg(long, default_value_t = 6)]
    seconds: u64,
    /// Sizes
    #[arg(long, value_parser = crate::demo::size, value_delimiter = ',', default_values = ["640x360", "1280x720", "1920x1080"])]
    sizes: Vec<(u32, u32)>,
    /// Ways for frames
    #[arg(long, value_delimiter = ',', default_values = WAYS.map(|way| way.path))]
    paths: Vec<String>,
    /// Encoders
    #[arg(long, value_delimiter = ',', default_values = ["null", "x264enc"])]
    encoders: Vec<String>,
}

/// A way for frames: its name in the report, the sidecar's arguments, and the encoder.
struct Way {
    path: &'static str,
    arguments: &'static [&'static str],
    encoders: &'static [&'static str],
}

/// The incumbent captures shared memory and pushes NV12.
const WAYS: [Way; 4] = [
    Way { path: "resource-id", arguments: &["--rung", "resource-id"], encoders: &["null", "x264enc"] },
    Way { path: "pixels-nv12", arguments: &["--rung", "pixels"], encoders: &["null", "x264enc"] },
    Way { path: "pixels-bgrx", arguments: &["--rung", "pixels", "--push", "native"], encoders: &["null"] },
    Way {
        path: "shm-nv12",
        arguments: &["--memory", "shm", "--rung", "pixels"],
        encoders: &["null", "x264enc"],
    },
];

pub fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Frame(options) => frame(options),
        Command::Control(options) => control(options),
    }
}

/// A program of its own: not everybody who measures frames has to compile it.
fn control(Control { out, streams }: &Control) -> Result<ExitCode> {
    let out = std::path::absolute(out)?;
    let status = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(lab::repository())
        .args(["run", "--quiet", "--release", "-p", "cluster", "--example", "control", "--", "--out"])
        .arg(out)
        .args(["--streams", &streams.to_string()])
        .status()
        .context("starting cargo")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn frame(Frame { out, seconds, sizes, paths, encoders }: &Frame) -> Result<ExitCode> {
    stop::listen()?;
    fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    let programs = Programs::build()?;
    let mut rig = Rig::up(&programs, &RigOptions::new("bench", &[Desktop::Pattern]))?;
    let (mut rows, mut reads) = (Vec::new(), Vec::new());
    for encoder in encoders.iter().map(String::as_str) {
        rig.host_agent.restart_with(&["--encoder", encoder])?;
        for &size in sizes {
            let asked = |way: &&Way| paths.iter().any(|path| path == way.path);
            for way in WAYS.iter().filter(asked).filter(|way| way.encoders.contains(&encoder)) {
                stop::check()?;
                let (row, read) = measure(&mut rig, way, encoder, size, Duration::from_secs(*seconds))
                    .with_context(|| format!("{} with {encoder} at {}x{}", way.path, size.0, size.1))?;
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

fn measure(
    rig: &mut Rig,
    way: &Way,
    encoder: &str,
    size: (u32, u32),
    time: Duration,
) -> Result<(Value, Option<Value>)> {
    let mut options = StreamOptions::new(Desktop::Pattern, size);
    options.sidecar_args =
        way.arguments.iter().chain(&["--max-fps", "240"]).map(ToString::to_string).collect();
    let stream = rig.start(&format!("{}-{}-{encoder}", way.path, size.1), options)?;
    let result = watch(rig, &stream, way, encoder, time).with_context(|| stream.logs());
    stream.stop()?;
    result
}

fn watch(
    rig: &Rig,
    stream: &Stream,
    way: &Way,
    encoder: &str,
    time: Duration,
) -> Result<(Value, Option<Value>)> {
    wait::until("frames", Duration::from_secs(60), || {
        ensure!(number(&stream.status()?, "/frames/encoded")? > 4.0, "no frames yet");
        Ok(())
    })?;
    let (before, begin) = (stream.status()?, Instant::now());
    let cpu = Cpu::now(rig, stream)?;
    stop::sleep(time)?;
    let (after, seconds) = (stream.status()?, begin.elapsed().as_secs_f64());
    let cpu = Cpu::now(rig, stream)?.since(&cpu, seconds);
    let rise = |what| -> Result<f64> { Ok(number(&after, what)? - number(&before, what)?) };
    let frames = rise("/frames/encoded")?;
    let latency = &after["latency_ms"];
    let row = json!({
        "path": way.path,
        "encoder": encoder.trim_end_matches("enc"),
        "width": after["width"],
        "height": after["height"],
        "fps": frames / seconds,
        "latency_ms": {"p50": latency["p50"], "p95": latency["p95"], "p99": latency["p99"]},
        "bytes_per_frame_to_host": if frames > 0.0 { rise("/bytes_to_host")? / frames } else { 0.0 },
        "dropped": rise("/frames/dropped")?,
        "cpu_percent": cpu,
    });
    let session = &rig.host_agent.status()?["sessions"][0];
    let read = (way.path == "resource-id").then(|| {
        let tap = &after["tap_ms"];
        let ms = |quantile: &str| session["read_us"][quantile].as_f64().map(|us| us / 1000.0);
        json!({
            "width": after["width"],
            "height": after["height"],
            "tap": {"p50": tap["p50"], "p99": tap["p99"], "max": tap["max"]},
            "bare": {"p50": ms("p50"), "p99": ms("p99"), "max": ms("max")},
        })
    });
    Ok((row, read))
}

/// CPU time used so far, in ticks.
struct Cpu {
    vmm: u64,
    sidecar: u64,
    host_agent: u64,
}

/// `USER_HZ`: what `/proc/PID/stat` counts in, on every Linux.
const TICKS: f64 = 100.0;

impl Cpu {
    fn now(rig: &Rig, stream: &Stream) -> Result<Self> {
        let host = |pid: u32| -> Result<u64> { ticks(&fs::read_to_string(format!("/proc/{pid}/stat"))?) };
        let in_guest = rig.vm.guest().check(&format!("cat /proc/{}/stat", stream.sidecar.pid()?))?;
        Ok(Self {
            vmm: host(rig.vm.qemu_pid())?,
            sidecar: ticks(&in_guest)?,
            host_agent: host(rig.host_agent.pid())?,
        })
    }

    fn since(&self, before: &Self, seconds: f64) -> Value {
        let percent = |now: u64, before: u64| (now - before) as f64 / TICKS / seconds * 100.0;
        json!({
            "vmm": percent(self.vmm, before.vmm),
            "sidecar": percent(self.sidecar, before.sidecar),
            "host_agent": percent(self.host_agent, before.host_agent),
        })
    }
}

/// User and system time of a `/proc/PID/stat`: fields 14 and 15 of proc(5), counted behind the name.
fn ticks(stat: &str) -> Result<u64> {
    let (_, rest) = stat.rsplit_once(')').context("no process name")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field =
        |at: usize| fields.get(at).context("a short stat line")?.parse::<u64>().context("not a number");
    Ok(field(11)? + field(12)?)
}
