//! Processes on the host: commands with logged output, and long-lived processes identified by PID and start time.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use crate::progress::say;

/// Interval between progress lines of a long command.
const REPORT_EVERY: Duration = Duration::from_secs(30);

/// Runs a command with its output in `log` and prints the last line periodically. The error contains the last lines.
pub fn run_logged(command: &mut Command, log: &Path) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = File::create(log).with_context(|| format!("creating {}", log.display()))?;
    let err = out.try_clone()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .with_context(|| format!("starting {name}; run ./x to install missing packages"))?;
    let (started, mut reports) = (Instant::now(), 1);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if started.elapsed() > REPORT_EVERY * reports {
            reports += 1;
            let line = Some(tail(log, 1)).filter(|line| !line.is_empty()).unwrap_or_else(|| "…".to_owned());
            say!("{:5} s  {line}", started.elapsed().as_secs());
        }
        sleep(Duration::from_millis(50));
    };
    if !status.success() {
        bail!("{name} failed: {status}; end of its log:\n{}", tail(log, 30));
    }
    Ok(())
}

/// Wraps `command` to run in a network namespace, given as a file. The process ID stays that of the command.
pub fn in_network(command: Command, namespace: Option<&Path>) -> Command {
    let Some(namespace) = namespace else { return command };
    let mut there = Command::new("nsenter");
    there.arg(format!("--net={}", namespace.display())).arg("--").arg(command.get_program());
    there.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => there.env(name, value),
            None => there.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        there.current_dir(folder);
    }
    there
}

/// Runs `action` on a thread in a network namespace, or directly if none is given.
pub fn within_network<T: Send + 'static>(
    namespace: Option<impl AsFd + Send + 'static>,
    action: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let Some(namespace) = namespace else { return action() };
    let thread = thread::Builder::new().spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        drop(namespace);
        action()
    })?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
}

/// Runs a command and returns its stdout.
pub fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {name}; run ./x to install missing packages"))?;
    if !output.status.success() {
        bail!("{name} failed: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Last lines of a text file, or the error of reading it.
pub fn tail(file: &Path, lines: usize) -> String {
    match fs::read(file) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("({}: {error})", file.display()),
    }
}

/// A process, identified by PID and start time because PIDs are reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pid: u32,
    start_time: u64,
}

impl ProcessId {
    /// Identifies a running process.
    pub fn of(pid: u32) -> Result<Self> {
        let (_, start_time) = stat(pid).with_context(|| format!("process {pid} does not exist"))?;
        Ok(Self { pid, start_time })
    }

    /// Process ID.
    pub fn pid(self) -> u32 {
        self.pid
    }

    /// True while the process runs; false for a zombie.
    pub fn is_alive(self) -> bool {
        stat(self.pid)
            .is_some_and(|(state, start_time)| start_time == self.start_time && state != 'Z' && state != 'X')
    }

    /// Sends SIGTERM, then SIGKILL after `grace`.
    pub fn end(self, grace: Duration) {
        for (signal, timeout) in [(Signal::TERM, grace), (Signal::KILL, Duration::from_secs(5))] {
            let Some(pid) = Pid::from_raw(self.pid.cast_signed()) else { return };
            if !self.is_alive() || kill_process(pid, signal).is_err() {
                return;
            }
            let deadline = Instant::now() + timeout;
            while self.is_alive() && Instant::now() < deadline {
                sleep(Duration::from_millis(20));
            }
        }
    }
}

/// State and start time from `/proc/PID/stat`. The second field may contain parentheses.
fn stat(pid: u32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let start_time = fields.nth(18)?.parse().ok()?;
    Some((state, start_time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_is_alive_until_it_ends_and_differs_from_a_reused_pid() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep starts");
        let id = ProcessId::of(child.id()).expect("runs");
        assert!(id.is_alive());
        assert!(!ProcessId { start_time: id.start_time + 1, ..id }.is_alive(), "same PID, other start time");
        id.end(Duration::from_secs(5));
        assert!(!id.is_alive(), "a zombie");
        child.wait().expect("reaps");
    }
}
