//! An X server that shows nothing to nobody.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::host;

const PATIENCE: Duration = Duration::from_secs(20);

/// Starts one on a display number that is free, and returns that.
pub(super) fn start(log: &Path) -> Result<(Child, u32)> {
    let number = log.with_extension("display");
    let err = File::create(log)?;
    let mut command = Command::new("Xvfb");
    command
        .args([
            "-displayfd",
            "1",
            "-screen",
            "0",
            "1280x1024x24",
            "-nolisten",
            "tcp",
            "-noreset",
            "+extension",
            "GLX",
        ])
        .stdin(Stdio::null())
        // A file: a pipe would break when this process ends before the server.
        .stdout(File::create(&number)?)
        .stderr(err)
        .process_group(0);
    let mut child = command.spawn().context("starting Xvfb: ./x installs it")?;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline && child.try_wait()?.is_none() {
        // It writes the number and a line end once it listens.
        if let Some(number) = fs::read_to_string(&number)?.strip_suffix('\n') {
            return Ok((child, number.trim().parse().context("Xvfb's display number")?));
        }
        sleep(Duration::from_millis(20));
    }
    super::end_child(&mut child);
    bail!("Xvfb didn't start: {}", host::tail(log, 10));
}
