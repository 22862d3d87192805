//! What outlives the command that asked for it and is more than a VM: a process of its own holds it, and ends it when told to.
//!
//! ```text
//!  up ── starts ──▶ PROGRAM …, which puts it up ── ready ──▶ up returns
//!  down ─ SIGTERM ─▶ it takes it down, and ends ───────────▶ down returns
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

/// Images are built the first time.
const PATIENCE: Duration = Duration::from_mins(40);
/// How long a VM and what runs there may take to end.
const GRACE: Duration = Duration::from_secs(60);

/// One such thing, by its name among this user's.
#[derive(Debug, Clone, Copy)]
pub struct Held(pub &'static str);

impl Held {
    fn file(self, what: &str) -> Result<PathBuf> {
        let folder = cache::folder()?.join(".held");
        fs::create_dir_all(&folder)?;
        Ok(folder.join(format!("{}.{what}", self.0)))
    }

    /// Starts this program again with these arguments, shows what it says, and returns when it is ready.
    pub fn up(self, arguments: &[&str]) -> Result<()> {
        ensure!(self.holder()?.is_none(), "it is up already");
        let (log, ready) = (self.file("log")?, self.file("ready")?);
        // It may never have been there.
        let _ = fs::remove_file(&ready);
        let out = File::create(&log)?;
        let mut hold = Command::new(std::env::current_exe()?);
        hold.args(arguments).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).process_group(0);
        let mut child = hold.spawn().context("starting its holder")?;
        fs::write(self.file("json")?, serde_json::to_vec(&ProcessId::of(child.id())?)?)?;
        let (deadline, mut told) = (Instant::now() + PATIENCE, 0);
        loop {
            let ended = child.try_wait()?;
            let text = fs::read_to_string(&log).unwrap_or_default();
            for line in text.lines().skip(told) {
                eprintln!("{line}");
            }
            told = told.max(text.lines().count());
            if ready.exists() {
                return Ok(());
            }
            if let Some(status) = ended {
                bail!("it did not come up ({status}); {} has all that it said", log.display());
            }
            ensure!(Instant::now() < deadline, "it is not up after {} s", PATIENCE.as_secs());
            sleep(Duration::from_millis(500));
        }
    }

    /// The holder's word that it is up.
    pub fn ready(self) -> Result<()> {
        Ok(fs::write(self.file("ready")?, b"")?)
    }

    fn holder(self) -> Result<Option<ProcessId>> {
        let Ok(bytes) = fs::read(self.file("json")?) else { return Ok(None) };
        let holder: ProcessId = serde_json::from_slice(&bytes)?;
        Ok(Some(holder).filter(|it| it.is_alive()))
    }

    /// Whether somebody holds it.
    pub fn is_up(self) -> Result<bool> {
        Ok(self.holder()?.is_some())
    }

    /// Has it ended; `false` if nobody held it.
    pub fn down(self) -> Result<bool> {
        let Some(holder) = self.holder()? else { return Ok(false) };
        holder.end(GRACE);
        ensure!(!holder.is_alive(), "it has not ended after {} s", GRACE.as_secs());
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_holds_is_not_up() {
        let nobody = Held("nobody-holds-this");
        assert!(!nobody.is_up().expect("it can be told"));
        assert!(!nobody.down().expect("there is nothing to end"));
    }
}
