//! `./x demo`: streams a desktop in a VM to the browser, and reports how its frames travelled.

pub(crate) mod report;

use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use contract::{FramePath, SidecarStatus};
use e2e::rig::{Rig, RigOptions, Stream, StreamOptions, VIEWER_TOKEN};
use e2e::{Desktop, Programs};
use lab::Arch;
use lab::image::Image;

use crate::interrupt;
use report::Report;

/// Longest time from the start of both containers to the third encoded frame, under emulation.
const FIRST_FRAMES_TIMEOUT: Duration = Duration::from_mins(8);

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DesktopChoice {
    Gnome,
    Sway,
    Labwc,
    Pattern,
}

/// Stream a desktop in a VM to the browser
#[derive(Args)]
pub struct Arguments {
    /// Desktop to run
    #[arg(long, value_enum, default_value = "gnome")]
    desktop: DesktopChoice,
    /// Run GNOME or sway with browser, files, editor and settings, also if that image must be built first (minutes, 1 to 2
    /// GiB); the default once it is built
    #[arg(long = "full")]
    with_programs: bool,
    /// Processor of the VM: amd64 or arm64 [default: this machine's]
    #[arg(long, default_value_t, hide_default_value = true)]
    arch: Arch,
    /// Size of the desktop, each side from 64 to 4096 pixels
    #[arg(long, value_name = "WIDTHxHEIGHT", default_value = "1280x720", value_parser = size)]
    size: (u32, u32),
    /// Seconds of streaming after which the demo ends [default: until Ctrl-C]
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<u64>,
    /// MP4 file to record to
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// JSON file to write the report to
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Encoder of the host-agent: auto, or a name such as x264enc
    #[arg(long, default_value = "auto")]
    encoder: String,
    /// Run GNOME and sway in a Kubernetes whose node is the VM (needs root)
    #[arg(long, conflicts_with_all = ["desktop", "with_programs", "arch", "size", "record", "json", "encoder", "no_tap"])]
    kubernetes: bool,
    /// Run the VM without the tap: frames travel as pixels
    #[arg(long)]
    no_tap: bool,
}

/// Parses `WIDTHxHEIGHT`.
pub(crate) fn size(text: &str) -> Result<(u32, u32), String> {
    let parse = |side: &str| side.parse::<u32>().ok().filter(|side| (64..=4096).contains(side));
    text.split_once('x')
        .and_then(|(width, height)| Some((parse(width)?, parse(height)?)))
        .ok_or_else(|| format!("{text:?} is not a size: write WIDTHxHEIGHT, each between 64 and 4096"))
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Arguments { desktop, with_programs, arch, size, seconds, record, json, encoder, kubernetes, no_tap } =
        arguments;
    if *kubernetes {
        let limit = seconds.map(|seconds| format!("--for={seconds}"));
        return crate::programs::run("topology", ["demo".to_owned()].into_iter().chain(limit));
    }
    let desktop = match desktop {
        DesktopChoice::Gnome => Desktop::Gnome,
        DesktopChoice::Sway => Desktop::Sway,
        DesktopChoice::Labwc => Desktop::Labwc,
        DesktopChoice::Pattern => Desktop::Pattern,
    };
    let full = desktop.full();
    let desktop =
        if *with_programs || Image::named(full.image())?.is_cached(*arch)? { full } else { desktop };
    interrupt::install_handler()?;

    progress("compiling host-agent, tap, sidecar and desktop pattern");
    let programs = Programs::build_for(*arch)?;
    progress("booting the VM (images that are not cached are built first)");
    let mut options = RigOptions::new("demo", &[desktop]);
    options.host_agent = vec!["--encoder".to_owned(), encoder.clone()];
    options.tap = !no_tap;
    let mut rig = Rig::up(&programs, &options)?;
    interrupt::check()?;
    progress(&format!("starting {} and its sidecar", desktop.image()));
    let stream = rig.start("demo", StreamOptions::new(desktop, *size))?;
    let first = wait_for_frames(&stream)?;
    progress(&format!("streaming, frame path {}", name(first.frame_path)));
    println!("\n    {}\n", stream.page());
    if seconds.is_none() {
        println!("    Press Ctrl-C to end.\n");
    }

    let recording = record.as_deref().map(|file| record_to(file, &stream.url)).transpose()?;
    let (before, begin) = (stream.status()?, Instant::now());
    let limit = seconds.map(Duration::from_secs);
    while !interrupt::requested() && limit.is_none_or(|limit| begin.elapsed() < limit) {
        std::thread::sleep(Duration::from_millis(500));
        show(&stream.status()?)?;
    }
    println!();
    let report = Report::between(&before, &stream.status()?, begin.elapsed());
    interrupt::request();
    if let Some(recording) = recording {
        let bytes = recording.join().map_err(|_| anyhow::anyhow!("the recording thread panicked"))??;
        progress(&format!("recorded {bytes} bytes"));
    }
    let text = serde_json::to_string_pretty(&report)?;
    println!("{text}");
    if let Some(file) = json {
        std::fs::write(file, text + "\n").with_context(|| format!("writing {}", file.display()))?;
    }
    if report.frames.encoded == 0 {
        eprintln!("x: no frame was encoded\n{}", stream.logs());
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn progress(message: &str) {
    eprintln!("x: {message}");
}

fn name(path: Option<FramePath>) -> &'static str {
    path.map_or("unknown", FramePath::name)
}

fn wait_for_frames(stream: &Stream) -> Result<SidecarStatus> {
    let begin = Instant::now();
    loop {
        interrupt::check()?;
        if let Ok(status) = stream.status()
            && status.frames.encoded > 2
        {
            return Ok(status);
        }
        if begin.elapsed() > FIRST_FRAMES_TIMEOUT {
            bail!("no frame within {} s\n{}", FIRST_FRAMES_TIMEOUT.as_secs(), stream.logs());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Overwrites one line of the terminal.
fn show(status: &SidecarStatus) -> Result<()> {
    if !io::stdout().is_terminal() {
        return Ok(());
    }
    print!(
        "\r    {} {}x{}  {:5.1} fps  {:6.0} kbit/s  latency {:5.1} ms  {:6.0} bytes/frame to host   ",
        name(status.frame_path),
        status.width,
        status.height,
        status.fps,
        status.bitrate_kbps,
        status.latency_ms.p50,
        status.bytes_per_frame_to_host,
    );
    Ok(io::stdout().flush()?)
}

/// Copies the live MP4 to a file until the demo ends; the thread returns the number of bytes.
fn record_to(file: &Path, url: &str) -> Result<JoinHandle<Result<u64>>> {
    let mut out = File::create(file).with_context(|| format!("creating {}", file.display()))?;
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_connect(Some(Duration::from_secs(5))).build().into();
    let response = agent
        .get(format!("{url}/stream.mp4"))
        .header("Authorization", format!("Bearer {VIEWER_TOKEN}"))
        .call()
        .context("requesting the live MP4")?;
    Ok(std::thread::spawn(move || {
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 64 << 10];
        let mut total = 0;
        while !interrupt::requested() {
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
