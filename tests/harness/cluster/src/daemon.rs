//! Long-running programs of a machine, which tests may stop and start again.

use std::ffi::OsString;
use std::fmt;
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::host::{self, ProcessId};

use crate::machine::{Machine, children_of};

/// Time between SIGTERM and SIGKILL.
const GRACE_PERIOD: Duration = Duration::from_secs(10);

/// A daemon. Nodes are counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daemon {
    /// Key-value store of the apiserver: `etcd`.
    Etcd,
    /// API server: `kube-apiserver`.
    Apiserver,
    /// Built-in controllers: `kube-controller-manager`.
    Controllers,
    /// Pod scheduler: `kube-scheduler`.
    Scheduler,
    /// DNS server of the cluster: CoreDNS.
    Dns,
    /// containerd of a node. Its containers outlive it.
    Containerd(u8),
    /// kubelet of a node.
    Kubelet(u8),
    /// kube-proxy of a node.
    Proxy(u8),
    /// dockerd of an engine of tests/harness/docker. Its containers end with it.
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

/// Command line of a daemon, and the machine that it runs on.
pub struct Launch {
    daemon: Daemon,
    machine: Machine,
    arguments: Vec<OsString>,
}

/// A daemon that was started.
pub struct Running {
    launch: Launch,
    path: OsString,
    child: Child,
}

impl Launch {
    /// A daemon on `machine` with these arguments.
    pub fn new(daemon: Daemon, machine: &Machine, arguments: &[String]) -> Self {
        Self { daemon, machine: machine.clone(), arguments: arguments.iter().map(OsString::from).collect() }
    }

    /// Starts the daemon with this `PATH`. Does not wait until the daemon serves.
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
            // Ctrl-C at a terminal must reach the test process only.
            .process_group(0);
        command.spawn().context("starting nsenter: apt install util-linux")
    }

    fn log(&self) -> PathBuf {
        self.machine.folder.join(format!("{}.log", self.daemon))
    }
}

impl Running {
    /// The daemon.
    pub fn daemon(&self) -> Daemon {
        self.launch.daemon
    }

    /// Path of the log, which holds stdout and stderr.
    pub fn log(&self) -> PathBuf {
        self.launch.log()
    }

    /// Checks that the daemon is running.
    ///
    /// # Errors
    /// If the daemon has ended, with the end of its log.
    pub fn check(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let log = self.log();
        bail!(
            "{} ended with {status}; the end of {}:\n{}",
            self.daemon(),
            log.display(),
            host::tail(&log, 15)
        )
    }

    /// Sends SIGTERM, and SIGKILL after a grace period.
    pub fn stop(&mut self) -> Result<()> {
        for pid in children_of(self.child.id()) {
            if let Ok(process) = ProcessId::of(pid) {
                process.end(GRACE_PERIOD);
            }
        }
        // The child is nsenter, which only waits for the daemon.
        let _ = self.child.kill();
        self.child.wait()?;
        Ok(())
    }

    /// Starts a stopped daemon with the same arguments.
    ///
    /// # Errors
    /// If the daemon is running.
    pub fn start_again(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            bail!("{} is running: stop it first", self.daemon());
        }
        self.child = self.launch.spawn(&self.path)?;
        Ok(())
    }

    /// Process IDs of the daemon, as the host numbers them.
    pub fn processes(&self) -> Vec<u32> {
        children_of(self.child.id())
    }

    /// Reaps the process after its machine ended.
    pub fn reap(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
