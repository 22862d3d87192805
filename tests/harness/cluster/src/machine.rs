//! A machine: namespaces for network, processes, mounts, host name and IPC, held by one first process.
//!
//! When the first process ends, the kernel ends all processes of the machine and unmounts its mounts; nothing else has to be
//! cleaned up. A machine shares the host's kernel, programs and devices, and has its own `/var/lib`, `/var/log` and `/run`, as
//! kubelets use fixed paths there, for example for the sockets of device plugins.

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

/// Limit of the start and of the end of a machine.
const TIMEOUT: Duration = Duration::from_secs(30);
const INIT: &str = include_str!("machine/init.sh");

/// A machine, by the processes that hold it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    /// Name, which is also the host name.
    pub name: String,
    /// Folder on the host that holds the machine's own folders.
    pub folder: PathBuf,
    /// `unshare`, which holds the namespaces. Its only child is the first process inside.
    holder: ProcessId,
}

impl Machine {
    /// Starts a machine. The returned child is to be reaped after the machine's end.
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
        let ready = Self::await_ready(&mut child, folder, &log);
        let holder = ready.and_then(|()| ProcessId::of(child.id()));
        match holder {
            Ok(holder) => Ok((Self { name: name.to_owned(), folder: folder.to_owned(), holder }, child)),
            Err(error) => {
                // Ends all processes of the machine, too.
                let _ = child.kill();
                let _ = child.wait();
                Err(error.context(format!("starting machine {name}")))
            }
        }
    }

    fn await_ready(child: &mut Child, folder: &Path, log: &Path) -> Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        while !folder.join("ready").exists() {
            if let Some(status) = child.try_wait()? {
                bail!(
                    "the first process ended with {status}: {}\n(namespaces and mounts need root and a kernel that permits them: \
                     start the container that this runs in with --privileged)",
                    host::tail(log, 5)
                );
            }
            if Instant::now() > deadline {
                bail!("not ready after {} s: {}", TIMEOUT.as_secs(), host::tail(log, 5));
            }
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// A command in the machine.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let pid = self.holder.pid();
        let mut command = Command::new("nsenter");
        command
            // Without --root, a process that is itself in a chroot would leave it: setns(2) resets the root to the namespace's.
            .args(["--target", &pid.to_string(), "--mount", "--root", "--net", "--uts", "--ipc"])
            // The holder is outside of the process namespace that it created.
            .arg(format!("--pid=/proc/{pid}/ns/pid_for_children"))
            .arg("--")
            .arg(program);
        command
    }

    /// Runs a command in the machine to its end.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let (program, arguments) = words.split_first().context("no command")?;
        host::run(self.command(program).args(arguments))
            .with_context(|| format!("{} on machine {}", words.join(" "), self.name))
    }

    /// Path of the network namespace.
    pub(crate) fn network_file(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.holder.pid()).into()
    }

    /// The network namespace, for [`crate::forward`].
    pub fn network(&self) -> Result<File> {
        File::open(self.network_file())
            .with_context(|| format!("opening the network of machine {}", self.name))
    }

    /// Path on the host of one of the machine's own folders.
    pub fn outside(&self, path: &str) -> PathBuf {
        self.folder.join(path.trim_start_matches('/'))
    }

    /// True while the machine runs.
    pub fn is_alive(&self) -> bool {
        self.holder.is_alive()
    }

    /// Ends the machine with all its processes and mounts.
    pub fn end(&self) {
        let children = children_of(self.holder.pid());
        let children: Vec<ProcessId> =
            if self.is_alive() { children.into_iter().flat_map(ProcessId::of).collect() } else { Vec::new() };
        // A first process ignores SIGTERM without a handler, so there is no grace period.
        self.holder.end(Duration::ZERO);
        // The kernel ends all other processes of the namespace before the first one.
        let deadline = Instant::now() + TIMEOUT;
        while children.iter().any(|child| child.is_alive()) && Instant::now() < deadline {
            sleep(Duration::from_millis(10));
        }
    }
}

/// Creates the hub's bridge.
pub fn bridge(hub: &Machine) -> Result<()> {
    let address = format!("{}/{}", addresses::HUB, addresses::MACHINES_PREFIX);
    hub.run(&["ip", "link", "add", "br0", "type", "bridge"])?;
    hub.run(&["ip", "address", "add", &address, "dev", "br0"])?;
    hub.run(&["ip", "link", "set", "br0", "up"])?;
    Ok(())
}

/// Connects a node to the bridge, and routes its pods' network to it.
pub fn connect(hub: &Machine, node: &Machine, number: u8) -> Result<()> {
    let (interface, own) = (format!("to-{}", node.name), addresses::node(number));
    let (hub_pid, pid) = (hub.holder.pid().to_string(), node.holder.pid().to_string());
    // Only the network namespace: `netns` takes a process ID of the host.
    let mut connect = Command::new("nsenter");
    connect.args(["--target", &hub_pid, "--net", "--", "ip", "link", "add", &interface, "master", "br0"]);
    connect.args(["type", "veth", "peer", "name", "eth0", "netns", &pid]);
    host::run(&mut connect).with_context(|| format!("connecting machine {}", node.name))?;
    hub.run(&["ip", "link", "set", &interface, "up"])?;
    node.run(&["ip", "address", "add", &format!("{own}/{}", addresses::MACHINES_PREFIX), "dev", "eth0"])?;
    node.run(&["ip", "link", "set", "eth0", "up"])?;
    node.run(&["ip", "route", "add", "default", "via", &addresses::HUB.to_string()])?;
    hub.run(&["ip", "route", "add", &addresses::pods(number), "via", &own.to_string()])?;
    Ok(())
}

/// Process IDs of the children of `parent`, from `/proc`.
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
