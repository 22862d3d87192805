//! Programs that run as long as the cluster does, and that a test may stop and start again.

use std::ffi::OsString;
use std::fmt;
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::host::{self, ProcessId};

use crate::machine::{Machine, children_of};

const GRACE: Duration = Duration::from_secs(10);

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daemon {
    /// The store.
    Etcd,
    /// kube-apiserver.
    Apiserver,
    /// kube-controller-manager.
    Controllers,
    /// kube-scheduler.
    Scheduler,
    /// CoreDNS.
    Dns,
    /// containerd of a node, counted from 1. Containers outlive it.
    Containerd(u8),
    /// kubelet of a node.
    Kubelet(u8),
    /// kube-proxy of a node.
    Proxy(u8),
    /// dockerd, in an engine of tests/harness/docker. Containers end with it.
    Dockerd,
}

impl fmt::Display for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Etcd => f.write_str("etcd"),
            Self::Apiserver => f.write_str("kube-apiserver"),
            Self::Controllers => f.write_str("kube-controller-manager"),
            Self::Scheduler => f.write_str("kube-scheduler"),
            Self::Dns => f.write_str("coredns"),
            Self::Containerd(_) => f.write_str("containerd"),
            Self::Kubelet(_) => f.write_str("kubelet"),
            Self::Proxy(_) => f.write_str("kube-proxy"),
            Self::Dockerd => f.write_str("dockerd"),
        }
    }
}

/// How it is started; its program is called as it is.
pub struct Launch {
    daemon: Daemon,
    machine: Machine,
    arguments: Vec<OsString>,
}

/// One that was started.
pub struct Running {
    launch: Launch,
    path: OsString,
    child: Child,
}

impl Launch {
    /// In that machine, with these arguments.
    pub fn new(daemon: Daemon, machine: &Machine, arguments: &[String]) -> Self {
        Self { daemon, machine: machine.clone(), arguments: arguments.iter().map(OsString::from).collect() }
    }

    /// Starts it with this `PATH`. It can be on its way still.
    pub fn start(self, path: &std::ffi::OsStr) -> Result<Running> {
        let child = self.spawn(path)?;
        Ok(Running { launch: self, path: path.to_owned(), child })
    }

    fn spawn(&self, path: &std::ffi::OsStr) -> Result<Child> {
        let log = OpenOptions::new().create(true).append(true).open(self.log())?;
        let mut command = self.machine.command(self.daemon.to_string());
        command
            .args(&self.arguments)
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C at a terminal is for us.
            .process_group(0);
        command.spawn().context("starting nsenter: apt install util-linux")
    }

    fn log(&self) -> PathBuf {
        self.machine.folder.join(format!("{}.log", self.daemon))
    }
}

impl Running {
    /// Which one.
    pub fn daemon(&self) -> Daemon {
        self.launch.daemon
    }

    /// What it writes.
    pub fn log(&self) -> PathBuf {
        self.launch.log()
    }

    /// An error, with the end of its log, if it has ended.
    pub fn check(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let log = self.log();
        bail!("{} ended with {status}; the end of {}:\n{}", self.daemon(), log.display(), end_of(&log))
    }

    /// Ends it as an operator of the machine would: asks, and insists after a while.
    pub fn stop(&mut self) -> Result<()> {
        for pid in children_of(self.child.id()) {
            if let Ok(process) = ProcessId::of(pid) {
                process.end(GRACE);
            }
        }
        // It only waited for the other.
        let _ = self.child.kill();
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again with the same arguments.
    pub fn start_again(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            bail!("{} runs: stop it first", self.daemon());
        }
        self.child = self.launch.spawn(&self.path)?;
        Ok(())
    }

    /// Reaps it after its machine ended.
    pub fn reap(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn end_of(log: &Path) -> String {
    host::tail(log, 15)
}
