//! Background process that owns an environment (VM, cluster, engine) after the command that started it has ended.
//!
//! ```text
//!  up ── spawns ──▶ holder: starts the environment ── ready ──▶ up returns
//!  down ─ SIGTERM ─▶ holder: stops the environment, exits ────▶ down returns
//! ```

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::cache;
use crate::host::ProcessId;

/// Time limit of the start, including the first build of images.
const START_TIMEOUT: Duration = Duration::from_mins(40);
/// Time limit of the stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// An environment, by its name among those of this user.
#[derive(Debug, Clone, Copy)]
pub struct Held(pub &'static str);

impl Held {
    fn file(self, what: &str) -> Result<PathBuf> {
        let folder = cache::folder()?.join(".held");
        fs::create_dir_all(&folder)?;
        Ok(folder.join(format!("{}.{what}", self.0)))
    }

    /// Starts this program with `arguments` as the holder, prints its output, and returns when it is ready.
    pub fn up(self, arguments: &[&str]) -> Result<()> {
        ensure!(self.holder()?.is_none(), "it is already running");
        let (log, ready) = (self.file("log")?, self.file("ready")?);
        // A missing file is fine.
        let _ = fs::remove_file(&ready);
        let out = File::create(&log)?;
        let mut hold = Command::new(std::env::current_exe()?);
        hold.args(arguments).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).process_group(0);
        let mut child = hold.spawn().context("starting the holder")?;
        fs::write(self.file("json")?, serde_json::to_vec(&ProcessId::of(child.id())?)?)?;
        let (deadline, mut printed) = (Instant::now() + START_TIMEOUT, 0);
        loop {
            let ended = child.try_wait()?;
            let text = fs::read_to_string(&log).unwrap_or_default();
            for line in text.lines().skip(printed) {
                eprintln!("{line}");
            }
            printed = printed.max(text.lines().count());
            if ready.exists() {
                return Ok(());
            }
            if let Some(status) = ended {
                bail!("the start failed ({status}); see {}", log.display());
            }
            ensure!(Instant::now() < deadline, "not ready after {} s", START_TIMEOUT.as_secs());
            sleep(Duration::from_millis(500));
        }
    }

    /// Called by the holder when the environment is ready.
    pub fn ready(self) -> Result<()> {
        Ok(fs::write(self.file("ready")?, b"")?)
    }

    fn holder(self) -> Result<Option<ProcessId>> {
        let Ok(bytes) = fs::read(self.file("json")?) else { return Ok(None) };
        let holder: ProcessId = serde_json::from_slice(&bytes)?;
        Ok(Some(holder).filter(|it| it.is_alive()))
    }

    /// True if a holder runs.
    pub fn is_up(self) -> Result<bool> {
        Ok(self.holder()?.is_some())
    }

    /// Stops the environment. Returns false if no holder runs.
    pub fn down(self) -> Result<bool> {
        let Some(holder) = self.holder()? else { return Ok(false) };
        holder.end(STOP_TIMEOUT);
        ensure!(!holder.is_alive(), "still running after {} s", STOP_TIMEOUT.as_secs());
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_without_a_holder_is_not_running() {
        let unknown = Held("test-without-holder");
        assert!(!unknown.is_up().expect("readable"));
        assert!(!unknown.down().expect("nothing to stop"));
    }
}
