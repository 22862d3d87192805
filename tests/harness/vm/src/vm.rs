//! VMs: boot, find, end.
//!
//! A VM is one folder of state: its configuration and process IDs (`vm.json`), logs, sockets, and the disks made for this
//! boot. Whoever knows its name finds it there. Nothing else is written: the root disk is a snapshot, the image disks are
//! read-only.
//!
//! ```text
//!           boot                        detach
//! (nothing) ────▶ Vm, ends with its handle ────▶ VM without an owner ──▶ down
//!                  │ its process is killed              ▲ attach │
//!                  ▼                                    └────────┘
//!                 orphan: the next boot of any VM sweeps it away
//! ```
//!
//! The display is an X server of its own per VM: QEMU gives a GPU with 3D only to a display that has GL, and this one needs
//! neither a screen nor a GPU on the host.

mod accelerator;
mod boot;
mod display;
mod initramfs;
mod qemu;
mod qmp;
mod state;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::arch::Arch;
use crate::emulator::Qemu;
use crate::guest::Guest;
use crate::host;
use crate::progress::say;

pub(crate) use state::RUN_FOLDER;
use state::State;

const GRACE: Duration = Duration::from_secs(5);

/// What the VM has for a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gpu {
    /// virtio-gpu with virgl, by software on the host.
    #[default]
    Virgl,
    /// virtio-gpu without 3D: there is a render node, and it is of no use.
    VirtioNo3d,
    /// No GPU at all.
    None,
}

/// What is loaded into QEMU, and into nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tap {
    /// The shared library to preload.
    pub library: PathBuf,
    /// Environment variables that it reads.
    pub env: Vec<(String, String)>,
    /// A program, with its words, that becomes the QEMU named after them with the library inserted. Without one the lab
    /// inserts it itself, and so it does for a QEMU of another Debian, which no program out here can look at.
    #[serde(default)]
    pub starter: Vec<String>,
}

/// A network that the guest is in besides the lab's own, and that QEMU then runs in: one of a test cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The namespace, as a file.
    pub namespace: PathBuf,
    /// The interface there that is the other end of the guest's cable; made beforehand (`ip tuntap`).
    pub interface: String,
    /// The hardware address at the guest's end, by which the guest knows it.
    pub mac: String,
}

/// What to boot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VmConfig {
    /// Its name among this user's VMs.
    pub name: String,
    /// Its processor.
    pub arch: Arch,
    /// Whose QEMU runs it.
    #[serde(default)]
    pub qemu: Qemu,
    /// Its GPU.
    pub gpu: Gpu,
    /// What to load into QEMU.
    pub tap: Option<Tap>,
    /// A second cable. Ports are then forwarded from that network's loopback.
    #[serde(default)]
    pub network: Option<Network>,
    /// Its memory, in MiB; containers write into it, too.
    pub memory_mib: u32,
    /// Its processors.
    pub cpus: u32,
    /// The container images it has.
    pub images: Vec<String>,
    /// More of them, which the lab did not make: the name that each has in the VM, and its disk.
    #[serde(default)]
    pub more_images: Vec<(String, PathBuf)>,
    /// A folder that it has at [`crate::payload::IN_GUEST`].
    pub payload: Option<PathBuf>,
    /// How many ports are forwarded, from 8080 on in the guest.
    pub ports: u16,
    /// How long it may take to boot.
    pub boot_timeout: Duration,
}

impl VmConfig {
    /// A VM with a GPU and these images.
    pub fn new(name: &str, images: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            arch: Arch::default(),
            qemu: Qemu::default(),
            gpu: Gpu::default(),
            tap: None,
            network: None,
            memory_mib: 4096,
            cpus: std::thread::available_parallelism().map_or(2, |cpus| cpus.get().clamp(2, 4) as u32),
            images: images.iter().map(ToString::to_string).collect(),
            more_images: Vec::new(),
            payload: None,
            ports: 8,
            boot_timeout: Duration::from_mins(5),
        }
    }
}

/// A port of the guest, reachable at `127.0.0.1:host`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// On the host.
    pub host: u16,
    /// In the guest.
    pub guest: u16,
}

/// A running VM. Ends with this handle if this handle booted it, unless [`Vm::detach`]ed.
pub struct Vm {
    state: State,
    guest: Guest,
    /// Kept to be reaped; none when another process booted it.
    children: Vec<Child>,
    owned: bool,
}

impl Vm {
    /// Boots one; returns when it takes commands. An error if one of that name runs.
    pub fn boot(config: VmConfig) -> Result<Self> {
        state::sweep()?;
        boot::Plan::new(config)?.carry_out()
    }

    /// A handle on one that runs. Dropping it changes nothing; [`Vm::down`] ends the VM.
    pub fn attach(name: &str) -> Result<Self> {
        let Some(state) = State::find(name)? else {
            let running: Vec<String> = State::all()?.into_iter().map(|state| state.config.name).collect();
            let running = if running.is_empty() { "none".to_owned() } else { running.join(", ") };
            bail!("no VM {name} runs (running: {running}); ./x lab up boots it");
        };
        let guest = Guest::new(state.folder()?, state.ssh_port, state.config.network.as_ref());
        Ok(Self { state, guest, children: Vec::new(), owned: false })
    }

    /// Handles on all that run.
    pub fn running() -> Result<Vec<Self>> {
        State::all()?.into_iter().map(|state| Self::attach(&state.config.name)).collect()
    }

    /// Lets it run on after this process.
    pub fn detach(mut self) -> Result<()> {
        self.owned = false;
        self.state.owner = None;
        self.state.save()
    }

    /// Ends it and forgets its state.
    pub fn down(mut self) -> Result<()> {
        self.owned = false;
        self.end();
        self.state.remove()
    }

    /// Commands and files in it.
    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    /// What it was booted from.
    pub fn config(&self) -> &VmConfig {
        &self.state.config
    }

    /// Its folder: logs, sockets, `vm.json`.
    pub fn folder(&self) -> &Path {
        self.guest.state()
    }

    /// The ports it may be reached at.
    pub fn forwards(&self) -> &[Forward] {
        &self.state.forwards
    }

    /// Where on the host's loopback a port of the guest is.
    pub fn host_port(&self, guest: u16) -> Result<u16> {
        let forward = self.state.forwards.iter().find(|forward| forward.guest == guest);
        forward
            .map(|forward| forward.host)
            .with_context(|| format!("port {guest} of the guest isn't forwarded"))
    }

    /// `kvm` or `tcg`.
    pub fn accelerator(&self) -> &str {
        &self.state.accelerator
    }

    /// From power-on to the first command, as it was.
    pub fn boot_seconds(&self) -> f64 {
        self.state.boot_seconds
    }

    /// The process that runs it.
    pub fn qemu_pid(&self) -> u32 {
        self.state.processes[0].pid()
    }

    /// What the guest's kernel and boot said.
    pub fn serial_log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder().join("serial.log")).unwrap_or_default()).into_owned()
    }

    /// What QEMU said, and what was loaded into it.
    pub fn qemu_log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder().join("qemu.log")).unwrap_or_default()).into_owned()
    }

    /// Asks QEMU itself, in its machine protocol.
    pub fn qmp(&self, execute: &str, arguments: &serde_json::Value) -> Result<serde_json::Value> {
        qmp::execute(&self.folder().join(qemu::QMP_SOCKET), execute, arguments)
    }

    /// Presses the reset button, and waits until the guest takes commands again. QEMU and what is in it live on.
    pub fn reset(&mut self) -> Result<()> {
        self.guest.disconnect();
        // Else the last boot's words are taken for this one's.
        let said = fs::metadata(self.folder().join("serial.log"))?.len();
        self.qmp("system_reset", &serde_json::json!({}))?;
        self.wait_for_guest(Instant::now(), said)
    }

    /// Goes by what is in the serial log from byte `from` on.
    fn wait_for_guest(&mut self, started: Instant, from: u64) -> Result<()> {
        let limit = self.state.config.boot_timeout;
        let serial = self.folder().join("serial.log");
        let mut told = 0;
        let mut booted = false;
        loop {
            let log = fs::read(&serial).unwrap_or_default();
            let lines = String::from_utf8_lossy(log.get(from as usize..).unwrap_or_default());
            let stages: Vec<&str> =
                lines.lines().filter_map(|line| line.trim().strip_prefix("lab: ")).collect();
            for stage in stages.get(told..).unwrap_or_default() {
                say!("{:5.1} s  {stage}", started.elapsed().as_secs_f64());
                booted |= *stage == "booted";
            }
            told = told.max(stages.len());
            if booted && self.guest.answers() {
                return self.guest.connect();
            }
            if lines.contains(boot::KERNEL_PANIC) {
                bail!("the guest's kernel panicked while it booted\n{}", ended(self.folder()));
            }
            if !self.state.processes[0].is_alive() {
                bail!("QEMU ended while the guest booted\n{}", ended(self.folder()));
            }
            if started.elapsed() > limit {
                bail!("the guest didn't answer within {} s\n{}", limit.as_secs(), ended(self.folder()));
            }
            sleep(Duration::from_millis(100));
        }
    }

    fn end(&mut self) {
        self.guest.disconnect();
        self.state.end_processes();
        for child in &mut self.children {
            // It has ended; this only reaps it.
            let _ = child.wait();
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if self.owned {
            self.end();
            // The logs of a VM that a failed test leaves are worth more than the folder's few megabytes.
            if !std::thread::panicking() {
                let _ = self.state.remove();
            }
        }
    }
}

/// The ends of the logs.
fn ended(folder: &Path) -> String {
    format!(
        "the end of {0}/qemu.log:\n{1}\nthe end of {0}/serial.log:\n{2}",
        folder.display(),
        host::tail(&folder.join("qemu.log"), 15),
        host::tail(&folder.join("serial.log"), 25)
    )
}

fn end_child(child: &mut Child) {
    // Already gone is as good.
    let _ = child.kill();
    let _ = child.wait();
}
