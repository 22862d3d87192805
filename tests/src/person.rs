//! A person at the viewers' page: steps that `tests/browser/interact.mjs` plays in Chromium.

use std::ffi::OsStr;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use lab::repository;
use serde_json::Value;
use tempfile::TempDir;

use crate::rig::{Stream, VIEWER_TOKEN};

/// A browser that plays steps in a page of a stream.
#[derive(Debug)]
pub struct Browser {
    /// Process that drives the browser.
    pub node: Child,
    folder: TempDir,
}

impl Browser {
    /// Starts the browser.
    ///
    /// # Errors
    /// Node or the folder of its files cannot be made.
    pub fn start(stream: &Stream, steps: &Value) -> Result<Self> {
        Self::start_with(stream, steps, &[])
    }

    /// As [`Self::start`], with more arguments of interact.mjs.
    ///
    /// # Errors
    /// Those of [`Self::start`].
    pub fn start_with(stream: &Stream, steps: &Value, more: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("steps.json"), steps.to_string())?;
        let node = Command::new("node")
            .arg(repository().join("tests/browser/interact.mjs"))
            .args(["--url", &stream.url, "--token", VIEWER_TOKEN, "--read-pattern"])
            .args([OsStr::new("--steps"), at("steps.json").as_os_str()])
            .args([OsStr::new("--json"), at("out.json").as_os_str()])
            .args([OsStr::new("--screenshot"), at("shot.png").as_os_str()])
            .args(more)
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(at("errors"))?)
            .spawn()
            .context("starting node")?;
        Ok(Self { node, folder })
    }

    /// Errors that the driver printed: the failed step.
    #[must_use]
    pub fn errors(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("errors")).unwrap_or_default()
    }

    /// Waits for the end. Returns the page's report, or null if a step ended the browser.
    ///
    /// # Errors
    /// A step failed.
    pub fn wait(mut self) -> Result<Value> {
        let status = self.node.wait()?;
        ensure!(status.success(), "the browser failed: {status}\n{}", self.errors());
        let out = std::fs::read(self.folder.path().join("out.json")).unwrap_or_else(|_| b"null".to_vec());
        Ok(serde_json::from_slice(&out)?)
    }
}

/// Plays steps in a page of the stream.
///
/// # Errors
/// A step failed.
pub fn interact(stream: &Stream, steps: &Value) -> Result<Value> {
    Browser::start(stream, steps)?.wait()
}
