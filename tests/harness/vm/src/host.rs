//! Programs on the host: run to the end with an error that tells, or long-lived and found again by their ID.

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

/// How often a long command's last words are shown.
const REPORT_EVERY: Duration = Duration::from_secs(30);

/// Runs to the end with all output in `log`, whose last line is shown now and then. An error carries its last lines.
pub fn run_logged(command: &mut Command, log: &Path) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = File::create(log).with_context(|| format!("creating {}", log.display()))?;
    let err = out.try_clone()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .with_context(|| format!("starting {name}: is it installed? ./x installs what is missing"))?;
    let (started, mut reports) = (Instant::now(), 1);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if started.elapsed() > REPORT_EVERY * reports {
            reports += 1;
            // A script's commands may have nothing to say.
            let words = Some(tail(log, 1)).filter(|line| !line.is_empty()).unwrap_or_else(|| "…".to_owned());
            say!("{:5} s  {words}", started.elapsed().as_secs());
        }
        sleep(Duration::from_millis(50));
    };
    if !status.success() {
        bail!("{name} ended with {status}; the end of its log:\n{}", tail(log, 30));
    }
    Ok(())
}

/// The same command in another network, given by its namespace's file. Its process is the command's own.
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

/// Runs `action` in a thread of its own that is in that network; in this process's if none is given.
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

/// Runs to the end and returns what it wrote to stdout.
pub fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {name}: is it installed? ./x installs what is missing"))?;
    if !output.status.success() {
        bail!("{name} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The last lines of a text file, or why there are none.
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

/// A process that stays the same one: IDs are reused, the time of birth isn't.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pid: u32,
    born: u64,
}

impl ProcessId {
    /// Of a process that runs now.
    pub fn of(pid: u32) -> Result<Self> {
        let (_, born) = stat(pid).with_context(|| format!("process {pid} is gone"))?;
        Ok(Self { pid, born })
    }

    /// Its number.
    pub fn pid(self) -> u32 {
        self.pid
    }

    /// Whether it runs still; one that only waits to be reaped doesn't.
    pub fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|(state, born)| born == self.born && state != 'Z' && state != 'X')
    }

    /// Asks it to end; makes it end when it hasn't after `grace`.
    pub fn end(self, grace: Duration) {
        for (signal, patience) in [(Signal::TERM, grace), (Signal::KILL, Duration::from_secs(5))] {
            let Some(pid) = Pid::from_raw(self.pid.cast_signed()) else { return };
            if !self.is_alive() || kill_process(pid, signal).is_err() {
                return;
            }
            let deadline = Instant::now() + patience;
            while self.is_alive() && Instant::now() < deadline {
                sleep(Duration::from_millis(20));
            }
        }
    }
}

/// State and birth from `/proc/PID/stat`, whose second field may hold anything, even parentheses.
fn stat(pid: u32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let born = fields.nth(18)?.parse().ok()?;
    Some((state, born))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_itself_until_it_ends() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep starts");
        let id = ProcessId::of(child.id()).expect("it runs");
        assert!(id.is_alive());
        assert!(!ProcessId { born: id.born + 1, ..id }.is_alive(), "another process with the same ID");
        id.end(Duration::from_secs(5));
        assert!(!id.is_alive(), "a zombie is not alive");
        child.wait().expect("it is ours to reap");
    }
}
