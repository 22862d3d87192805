//! A real Chromium that watches streams, and what the pixels that it drew say.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use lab::repository;
use serde_json::Value;
use tempfile::TempDir;

/// npm packages of the browser driver, once.
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

/// A browser at work.
pub struct Watch {
    child: Child,
    folder: TempDir,
}

impl Watch {
    /// Has `viewers` pages open for so long, at the sidecar there; they may see the stream start anew `restarts` times.
    pub fn start(url: &str, token: &str, seconds: u32, viewers: u32, restarts: u32) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let child = Command::new("node")
            .arg(script())
            .args(["watch", "--url", url, "--token", token, "--read-pattern"])
            .args(["--seconds", &seconds.to_string(), "--viewers", &viewers.to_string()])
            .args(["--restarts", &restarts.to_string(), "--json"])
            .arg(folder.path().join("seen.json"))
            .stdin(Stdio::null())
            .spawn()
            .context("starting node")?;
        Ok(Self { child, folder })
    }

    /// Waits for its end; what it saw.
    pub fn finish(mut self) -> Result<Value> {
        let status = self.child.wait()?;
        let text = std::fs::read_to_string(self.folder.path().join("seen.json"));
        ensure!(status.success(), "the browser failed: {status}; {}", text.unwrap_or_default());
        Ok(serde_json::from_str(&text?)?)
    }
}

/// Every viewer drew at least `least` different pictures, whole, in order but for the desktop's `restarts`.
pub fn in_order(seen: &Value, least: usize, restarts: usize) -> Result<()> {
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
pub fn numbers(viewer: &Value) -> Result<Vec<u64>> {
    let frames = viewer["frames"].as_array().context("no frames")?;
    frames
        .iter()
        .map(|frame| frame["number"].as_u64().with_context(|| format!("a torn picture: {frame}")))
        .collect()
}

/// How often a number is lower than the one before.
pub fn falls(numbers: &[u64]) -> usize {
    numbers.windows(2).filter(|pair| pair[1] < pair[0]).count()
}
