//! Xvfb, the display that QEMU needs for GL.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::host;

/// Time limit of the start.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Starts an X server on a free display number and returns the number.
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
        // Not a pipe, which would break when this process ends before the server.
        .stdout(File::create(&number)?)
        .stderr(err)
        .process_group(0);
    let mut child = command.spawn().context("starting Xvfb; run ./x to install it")?;
    let deadline = Instant::now() + START_TIMEOUT;
    while Instant::now() < deadline && child.try_wait()?.is_none() {
        // Xvfb writes the number and a newline once it listens.
        if let Some(number) = fs::read_to_string(&number)?.strip_suffix('\n') {
            return Ok((child, number.trim().parse().context("display number of Xvfb")?));
        }
        sleep(Duration::from_millis(20));
    }
    super::end_child(&mut child);
    bail!("Xvfb did not start: {}", host::tail(log, 10));
}
