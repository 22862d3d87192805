//! A machine: namespaces of its own for network, processes, mounts, host name and IPC, held by one first process.
//!
//! The kernel ends all that runs in it, and unmounts all that is mounted in it, when that process ends; that is the whole of
//! taking one down. It shares the computer's kernel, programs and devices, and has folders of its own at `/var/lib`,
//! `/var/log` and `/run`: what a kubelet keeps at fixed places, such as the device plugins' sockets, is each node's own.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::host::{self, ProcessId};
use serde::{Deserialize, Serialize};

use crate::addresses;

const PATIENCE: Duration = Duration::from_secs(30);
const INIT: &str = include_str!("machine/init.sh");

/// Where to find one that runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    /// Its name, and its host name.
    pub name: String,
    /// What is its own, outside.
    pub folder: PathBuf,
    /// Holds its namespaces; its only child is the first process within.
    holder: ProcessId,
}

impl Machine {
    /// Makes one; the child is for reaping.
    pub fn start(name: &str, folder: &Path) -> Result<(Self, Child)> {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        let init = folder.join("init.sh");
        fs::write(&init, INIT)?;
        let log = folder.join("init.log");
        let out = File::create(&log)?;
        let mut command = Command::new("unshare");
        command
            .args([
                "--mount",
                "--pid",
                "--net",
                "--uts",
                "--ipc",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "sh",
            ])
            .args([init.as_os_str(), folder.as_os_str(), name.as_ref()])
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0);
        let mut child = command.spawn().context("starting unshare: apt install util-linux")?;
        let made = Self::await_ready(&mut child, folder, &log);
        let holder = made.and_then(|()| ProcessId::of(child.id()));
        match holder {
            Ok(holder) => Ok((Self { name: name.to_owned(), folder: folder.to_owned(), holder }, child)),
            Err(error) => {
                // With it goes all that is in it.
                let _ = child.kill();
                let _ = child.wait();
                Err(error.context(format!("making machine {name}")))
            }
        }
    }

    fn await_ready(child: &mut Child, folder: &Path, log: &Path) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !folder.join("ready").exists() {
            if let Some(status) = child.try_wait()? {
                bail!(
                    "its first process ended with {status}: {}\n(it needs root, and a kernel that lets it make \
                     namespaces and mounts: in a container, run that with --privileged)",
                    host::tail(log, 5)
                );
            }
            if Instant::now() > deadline {
                bail!("it isn't ready after {} s: {}", PATIENCE.as_secs(), host::tail(log, 5));
            }
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// A command in it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let pid = self.holder.pid();
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &pid.to_string(), "--mount", "--net", "--uts", "--ipc"])
            // The holder itself is outside of the process namespace that it made.
            .arg(format!("--pid=/proc/{pid}/ns/pid_for_children"))
            .arg("--")
            .arg(program);
        command
    }

    /// Runs a command in it to the end.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let (program, arguments) = words.split_first().context("no command")?;
        host::run(self.command(program).args(arguments))
            .with_context(|| format!("{} on machine {}", words.join(" "), self.name))
    }

    /// Its network's namespace.
    pub(crate) fn network_file(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.holder.pid()).into()
    }

    /// Its network, for [`crate::forward`].
    pub fn network(&self) -> Result<File> {
        File::open(self.network_file())
            .with_context(|| format!("opening the network of machine {}", self.name))
    }

    /// Where a path of its own folders is, outside.
    pub fn outside(&self, path: &str) -> PathBuf {
        self.folder.join(path.trim_start_matches('/'))
    }

    /// Whether its first process runs.
    pub fn is_alive(&self) -> bool {
        self.holder.is_alive()
    }

    /// Ends it with all that is in it.
    pub fn end(&self) {
        let children = children_of(self.holder.pid());
        let children: Vec<ProcessId> =
            if self.is_alive() { children.into_iter().flat_map(ProcessId::of).collect() } else { Vec::new() };
        // A first process ignores SIGTERM unless it asked for it, and needs no time to think.
        self.holder.end(Duration::ZERO);
        // The kernel has ended everything within before it lets the first process go.
        let deadline = Instant::now() + PATIENCE;
        while children.iter().any(|child| child.is_alive()) && Instant::now() < deadline {
            sleep(Duration::from_millis(10));
        }
    }
}

/// The hub's bridge.
pub fn bridge(hub: &Machine) -> Result<()> {
    let address = format!("{}/{}", addresses::HUB, addresses::MACHINES_PREFIX);
    hub.run(&["ip", "link", "add", "br0", "type", "bridge"])?;
    hub.run(&["ip", "address", "add", &address, "dev", "br0"])?;
    hub.run(&["ip", "link", "set", "br0", "up"])?;
    Ok(())
}

/// A node's cable to the bridge; the hub knows where its pods are.
pub fn connect(hub: &Machine, node: &Machine, number: u8) -> Result<()> {
    let (cable, own) = (format!("to-{}", node.name), addresses::node(number));
    let (hub_pid, pid) = (hub.holder.pid().to_string(), node.holder.pid().to_string());
    // By its network alone, as the node's process ID is one of the outside.
    let mut plug = Command::new("nsenter");
    plug.args(["--target", &hub_pid, "--net", "--", "ip", "link", "add", &cable, "master", "br0"]);
    plug.args(["type", "veth", "peer", "name", "eth0", "netns", &pid]);
    host::run(&mut plug).with_context(|| format!("connecting machine {}", node.name))?;
    hub.run(&["ip", "link", "set", &cable, "up"])?;
    node.run(&["ip", "address", "add", &format!("{own}/{}", addresses::MACHINES_PREFIX), "dev", "eth0"])?;
    node.run(&["ip", "link", "set", "eth0", "up"])?;
    node.run(&["ip", "route", "add", "default", "via", &addresses::HUB.to_string()])?;
    hub.run(&["ip", "route", "add", &addresses::pods(number), "via", &own.to_string()])?;
    Ok(())
}

/// The processes that a process started, by a look at all.
pub fn children_of(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map(|(_, fields)| fields).unwrap_or_default();
        fields.split_ascii_whitespace().nth(1).and_then(|it| it.parse().ok()) == Some(parent)
    })
    .collect()
}
