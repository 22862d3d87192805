//! `./x demo`: from nothing to a moving desktop in the browser, and a report of how it travelled.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use e2e::http::number;
use e2e::rig::{Rig, RigOptions, Stream, StreamOptions, VIEWER_TOKEN};
use e2e::{Desktop, Programs};
use lab::Arch;
use serde_json::{Value, json};

use crate::stop;

/// Which desktop to show
#[derive(Debug, Clone, Copy, ValueEnum)]
enum DesktopChoice {
    Gnome,
    Sway,
    Pattern,
}

/// Show a desktop of a VM in the browser
#[derive(Args)]
pub struct Arguments {
    /// Which desktop
    #[arg(long, value_enum, default_value = "gnome")]
    desktop: DesktopChoice,
    /// The VM's processor: amd64, arm64 (a Mac's guest has that) [default: this machine's]
    #[arg(long, default_value_t, hide_default_value = true)]
    arch: Arch,
    /// Its size
    #[arg(long, default_value = "1280x720", value_parser = size)]
    size: (u32, u32),
    /// End by itself after so many seconds of streaming
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Record to an MP4 file
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Encoder on the host: auto, x264enc, …
    #[arg(long, default_value = "auto")]
    encoder: String,
    /// In a Kubernetes whose node is the VM, by kubectl apply: GNOME and sway; needs root
    #[arg(long, conflicts_with_all = ["desktop", "arch", "size", "record", "json", "encoder", "no_tap"])]
    kubernetes: bool,
    /// Do not load the tap: shows the ladder's rung Pixels
    #[arg(long)]
    no_tap: bool,
}

pub(crate) fn size(text: &str) -> Result<(u32, u32), String> {
    let parse = |side: &str| side.parse::<u32>().ok().filter(|side| (64..=4096).contains(side));
    text.split_once('x')
        .and_then(|(width, height)| Some((parse(width)?, parse(height)?)))
        .ok_or_else(|| format!("{text:?} is no size: write WIDTHxHEIGHT, 64 to 4096"))
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Arguments { desktop, arch, size, seconds, record, json, encoder, kubernetes, no_tap } = arguments;
    if *kubernetes {
        let limit = seconds.map(|seconds| format!("--for={seconds}"));
        return crate::lab::topology(["demo".to_owned()].into_iter().chain(limit));
    }
    let desktop = match desktop {
        DesktopChoice::Gnome => Desktop::Gnome,
        DesktopChoice::Sway => Desktop::Sway,
        DesktopChoice::Pattern => Desktop::Pattern,
    };
    stop::listen()?;

    say("building our programs");
    let programs = Programs::build_for(*arch)?;
    say("booting the VM (its images are built first if they are not cached yet)");
    let mut options = RigOptions::new("demo", &[desktop]);
    options.host_agent = vec!["--encoder".to_owned(), encoder.clone()];
    options.tap = !no_tap;
    let mut rig = Rig::up(&programs, &options)?;
    stop::check()?;
    say(&format!("starting the {} desktop and its sidecar", desktop.image()));
    let stream = rig.start("demo", StreamOptions::new(desktop, *size))?;
    let first = wait_for_frames(&stream)?;
    say(&format!("frames flow by rung {}", first["rung"].as_str().unwrap_or("?")));
    println!("\n    {}\n", stream.page());
    if seconds.is_none() {
        println!("    Ctrl-C ends it.\n");
    }

    let recording = record.as_deref().map(|file| record_to(file, &stream.url)).transpose()?;
    let (before, begin) = (stream.status()?, Instant::now());
    let limit = seconds.map(Duration::from_secs);
    while !stop::wanted() && limit.is_none_or(|limit| begin.elapsed() < limit) {
        std::thread::sleep(Duration::from_millis(500));
        show(&stream.status()?)?;
    }
    println!();
    let report = report(&before, &stream.status()?, begin.elapsed())?;
    stop::now();
    if let Some(recording) = recording {
        let bytes = recording.join().map_err(|_| anyhow::anyhow!("the recording failed"))??;
        say(&format!("recorded {bytes} bytes"));
    }
    let text = serde_json::to_string_pretty(&report)?;
    println!("{text}");
    if let Some(file) = json {
        std::fs::write(file, text + "\n").with_context(|| format!("writing {}", file.display()))?;
    }
    if report["frames"]["encoded"].as_u64() == Some(0) {
        eprintln!("x: no frame was encoded\n{}", stream.logs());
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn say(what: &str) {
    eprintln!("x: {what}");
}

fn wait_for_frames(stream: &Stream) -> Result<Value> {
    let begin = Instant::now();
    loop {
        stop::check()?;
        if let Ok(status) = stream.status()
            && status["frames"]["encoded"].as_u64() > Some(2)
        {
            return Ok(status);
        }
        if begin.elapsed() > Duration::from_secs(180) {
            bail!("no frames within 3 minutes\n{}", stream.logs());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// One line that is written over.
fn show(status: &Value) -> Result<()> {
    if !io::stdout().is_terminal() {
        return Ok(());
    }
    print!(
        "\r    {} {}x{}  {:5.1} fps  {:6.0} kbit/s  latency {:5.1} ms  {:6.0} bytes/frame to host   ",
        status["rung"].as_str().unwrap_or("?"),
        status["width"],
        status["height"],
        number(status, "/fps")?,
        number(status, "/bitrate_kbps")?,
        number(status, "/latency_ms/p50")?,
        number(status, "/bytes_per_frame_to_host")?,
    );
    Ok(io::stdout().flush()?)
}

/// What happened between two statuses of the sidecar.
pub(crate) fn report(before: &Value, after: &Value, time: Duration) -> Result<Value> {
    let rise = |pointer| -> Result<f64> { Ok(number(after, pointer)? - number(before, pointer)?) };
    let encoded = rise("/frames/encoded")?;
    let bytes = rise("/bytes_to_host")?;
    Ok(json!({
        "rung": after["rung"],
        "rung_reason": after["rung_reason"],
        "encoder": after["encoder"],
        "capture": after["capture"]["taken"],
        "width": after["width"],
        "height": after["height"],
        "frames": {
            "captured": rise("/frames/captured")?,
            "encoded": encoded,
            "dropped": rise("/frames/dropped")?,
            "repeated": rise("/frames/repeated")?,
        },
        "seconds": time.as_secs_f64(),
        "fps": encoded / time.as_secs_f64(),
        "bytes_per_frame_to_host": if encoded > 0.0 { bytes / encoded } else { 0.0 },
        "latency_ms": after["latency_ms"],
        "tap_ms": after["tap_ms"],
    }))
}

/// Copies the live MP4 to a file until told to stop.
fn record_to(file: &Path, url: &str) -> Result<JoinHandle<Result<u64>>> {
    let mut out = File::create(file).with_context(|| format!("creating {}", file.display()))?;
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_connect(Some(Duration::from_secs(5))).build().into();
    let response = agent
        .get(format!("{url}/stream.mp4"))
        .header("Authorization", format!("Bearer {VIEWER_TOKEN}"))
        .call()
        .context("asking for the live MP4")?;
    Ok(std::thread::spawn(move || {
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 64 << 10];
        let mut total = 0;
        while !stop::wanted() {
            let read = io::Read::read(&mut body, &mut buffer)?;
            if read == 0 {
                break;
            }
            out.write_all(&buffer[..read])?;
            total += read as u64;
        }
        out.sync_all()?;
        Ok(total)
    }))
}
