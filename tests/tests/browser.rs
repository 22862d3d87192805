//! What a person sees: the viewer page in a real Chromium, with the numbers in the pixels it drew.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::rig::{RigOptions, Stream, StreamOptions, VIEWER_TOKEN};
use e2e::{Desktop, Programs, Rig};
use lab::repository;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

const SIZE: (u32, u32) = (640, 360);

#[test]
fn a_browser_sees_the_right_numbers() -> Result<()> {
    install()?;
    let programs = Programs::build()?;
    let mut rig = Rig::up(&programs, &RigOptions::new("browser", &[Desktop::Pattern]))?;
    let mut options = StreamOptions::new(Desktop::Pattern, SIZE);
    options.desktop_args = ["--fps", "30"].map(str::to_owned).into();
    let stream = rig.start("pattern", options)?;
    stream.wait_for_rung("ResourceId")?;

    let seen = Watch::start(&stream, 8, 1, 0)?.finish()?;
    in_order(&seen, 40, 0)?;

    // Two at once; both join a stream that has run for a while, the second while the first watches.
    let seen = Watch::start(&stream, 8, 2, 0)?.finish()?;
    in_order(&seen, 20, 0)
}

/// The page goes on without reload (its notes would be lost) when host-agent, sidecar and desktop die and come back.
#[test]
fn the_page_survives_what_is_killed() -> Result<()> {
    install()?;
    let programs = Programs::build()?;
    let mut rig = Rig::up(&programs, &RigOptions::new("browser", &[Desktop::Pattern]))?;
    let mut stream = rig.start("pattern", StreamOptions::new(Desktop::Pattern, SIZE))?;
    stream.wait_for_rung("ResourceId")?;
    let watch = Watch::start(&stream, 45, 1, 1)?;
    std::thread::sleep(Duration::from_secs(5));
    rig.host_agent.kill()?;
    rig.host_agent.restart()?;
    stream.wait_for_rung("ResourceId")?;
    stream.sidecar.kill(Signal::KILL)?;
    stream.sidecar.wait(Duration::from_secs(10))?;
    stream.restart_sidecar(&rig)?;
    stream.wait_for_rung("ResourceId")?;
    stream.desktop.kill(Signal::KILL)?;
    stream.desktop.wait(Duration::from_secs(10))?;
    stream.restart_desktop(&rig)?;
    let seen = watch.finish()?;
    in_order(&seen, 40, 1)?;
    let falls = falls(&numbers(&seen["viewers"][0])?);
    ensure!(falls == 1, "the page drew nothing of the desktop's second life");
    Ok(())
}

/// npm packages of the browser driver, once.
fn install() -> Result<()> {
    let folder = script().parent().map(Path::to_owned).unwrap_or_default();
    if folder.join("node_modules").is_dir() {
        return Ok(());
    }
    let status = Command::new("npm")
        .args(["ci", "--no-audit", "--no-fund", "--loglevel=error"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .status()
        .context("starting npm")?;
    ensure!(status.success(), "npm ci failed");
    Ok(())
}

fn script() -> PathBuf {
    repository().join("tests/browser/viewer.mjs")
}

/// A browser at work.
struct Watch {
    child: Child,
    folder: TempDir,
}

impl Watch {
    fn start(stream: &Stream, seconds: u32, viewers: u32, restarts: u32) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let child = Command::new("node")
            .arg(script())
            .args(["watch", "--url", &stream.url, "--token", VIEWER_TOKEN, "--read-pattern"])
            .args(["--seconds", &seconds.to_string(), "--viewers", &viewers.to_string()])
            .args(["--restarts", &restarts.to_string(), "--json"])
            .arg(folder.path().join("seen.json"))
            .stdin(Stdio::null())
            .spawn()
            .context("starting node")?;
        Ok(Self { child, folder })
    }

    fn finish(mut self) -> Result<Value> {
        let status = self.child.wait()?;
        let text = std::fs::read_to_string(self.folder.path().join("seen.json"));
        ensure!(status.success(), "the browser failed: {status}; {}", text.unwrap_or_default());
        Ok(serde_json::from_str(&text?)?)
    }
}

/// Every viewer drew at least `least` different pictures, whole, in order but for the desktop's `restarts`.
fn in_order(seen: &Value, least: usize, restarts: usize) -> Result<()> {
    let viewers = seen["viewers"].as_array().context("no viewers")?;
    ensure!(!viewers.is_empty(), "nobody watched");
    for viewer in viewers {
        let mut numbers = numbers(viewer)?;
        let (all, falls) = (numbers.len(), falls(&numbers));
        ensure!(falls <= restarts, "out of order {falls} times: {numbers:?}");
        numbers.dedup();
        println!("browser: {all} pictures drawn, {} different", numbers.len());
        ensure!(numbers.len() >= least, "only {} different pictures were drawn", numbers.len());
    }
    Ok(())
}

/// The numbers in the pictures that a viewer drew; an error if one was torn.
fn numbers(viewer: &Value) -> Result<Vec<u64>> {
    let frames = viewer["frames"].as_array().context("no frames")?;
    frames
        .iter()
        .map(|frame| frame["number"].as_u64().with_context(|| format!("a torn picture: {frame}")))
        .collect()
}

/// How often a number is lower than the one before.
fn falls(numbers: &[u64]) -> usize {
    numbers.windows(2).filter(|pair| pair[1] < pair[0]).count()
}
