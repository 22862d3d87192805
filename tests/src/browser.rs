//! Chromium as a viewer, and the frame numbers in the pixels that it drew.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lab::repository;
use serde_json::Value;
use tempfile::TempDir;

/// Installs the npm packages of the browser driver, once per clone.
///
/// # Errors
/// Fails if npm fails.
pub fn install() -> Result<()> {
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

/// Longest wait for the frames of a page.
const TIMEOUT: Duration = Duration::from_mins(3);

/// A running browser with one or more viewer pages.
pub struct Watch {
    child: Child,
    folder: TempDir,
}

impl Watch {
    /// Opens `viewers` pages of the sidecar at `url`. The browser ends when each has drawn `frames` different frames and has
    /// seen the desktop restart `restarts` times, or after [`TIMEOUT`].
    ///
    /// # Errors
    /// Fails if Node.js does not start.
    pub fn start(url: &str, token: &str, frames: u32, viewers: u32, restarts: u32) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let child = Command::new("node")
            .arg(script())
            .args(["watch", "--url", url, "--token", token, "--read-pattern"])
            .args(["--until-frames", &frames.to_string(), "--viewers", &viewers.to_string()])
            .args([
                "--timeout",
                &TIMEOUT.as_secs().to_string(),
                "--restarts",
                &restarts.to_string(),
                "--json",
            ])
            .arg(folder.path().join("seen.json"))
            .stdin(Stdio::null())
            .spawn()
            .context("starting node")?;
        Ok(Self { child, folder })
    }

    /// Waits for the browser and returns its report: per viewer, the frames that it drew.
    ///
    /// # Errors
    /// Fails if the browser failed.
    pub fn finish(mut self) -> Result<Value> {
        let status = self.child.wait()?;
        let text = std::fs::read_to_string(self.folder.path().join("seen.json"));
        ensure!(status.success(), "the browser failed: {status}; {}", text.unwrap_or_default());
        Ok(serde_json::from_str(&text?)?)
    }
}

/// Asserts that every viewer drew at least `least` different frames, none torn, in order except at `restarts` of the desktop.
///
/// # Errors
/// Names the violation.
pub fn in_order(seen: &Value, least: usize, restarts: usize) -> Result<()> {
    let viewers = seen["viewers"].as_array().context("the report has no viewers")?;
    ensure!(!viewers.is_empty(), "the report has no viewer");
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

/// Frame numbers that a viewer drew.
///
/// # Errors
/// Fails on a torn picture.
pub fn numbers(viewer: &Value) -> Result<Vec<u64>> {
    let frames = viewer["frames"].as_array().context("the viewer has no frames")?;
    frames
        .iter()
        .map(|frame| frame["number"].as_u64().with_context(|| format!("torn picture: {frame}")))
        .collect()
}

/// Count of numbers that are lower than their predecessor.
pub fn falls(numbers: &[u64]) -> usize {
    numbers.windows(2).filter(|pair| pair[1] < pair[0]).count()
}
