//! Boots, finds and ends VMs.
//!
//! The state of a VM is one folder: configuration and process IDs (`vm.json`), logs, sockets, and the disks built for this
//! boot. Nothing else is written: the root disk is a snapshot, the image disks are read-only.
//!
//! ```text
//!           boot                        detach
//! (nothing) ────▶ Vm, ended by its handle ─────▶ VM without an owner ──▶ down
//!                  │ owner is killed                    ▲ attach │
//!                  ▼                                    └────────┘
//!                 orphan: ended by the next boot of any VM
//! ```
//!
//! Each VM has an X server of its own: QEMU requires a display with GL for a GPU with 3D, and Xvfb needs neither a screen nor a
//! GPU on the host.

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

/// Time between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// GPU of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gpu {
    /// virtio-gpu with virgl, rendered in software on the host.
    #[default]
    Virgl,
    /// virtio-gpu without 3D: its render node cannot render.
    VirtioNo3d,
    /// No GPU.
    None,
}

/// Library to load into QEMU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tap {
    /// Shared library to preload.
    pub library: PathBuf,
    /// Environment variables of the library.
    pub env: Vec<(String, String)>,
    /// Program and arguments that execute the QEMU command appended to them with the library inserted. If empty, or for QEMU
    /// of another Debian release, the lab preloads the library itself.
    #[serde(default)]
    pub starter: Vec<String>,
}

/// Additional network of the guest, such as that of a test cluster. QEMU runs in its namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Network namespace as a file.
    pub namespace: PathBuf,
    /// Existing tap interface in the namespace (`ip tuntap`).
    pub interface: String,
    /// MAC address of the guest's interface.
    pub mac: String,
}

/// Configuration of a VM.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VmConfig {
    /// Name among the VMs of this user.
    pub name: String,
    /// Architecture of the guest.
    pub arch: Arch,
    /// QEMU version.
    #[serde(default)]
    pub qemu: Qemu,
    /// GPU device model of the VM.
    pub gpu: Gpu,
    /// Library to load into QEMU.
    pub tap: Option<Tap>,
    /// Additional network. Ports are then forwarded from the loopback of its namespace.
    #[serde(default)]
    pub network: Option<Network>,
    /// Memory, MiB; includes the writable layers of containers.
    pub memory_mib: u32,
    /// Number of CPUs.
    pub cpus: u32,
    /// Container images built by the lab.
    pub images: Vec<String>,
    /// Further container images: name in the VM and disk.
    #[serde(default)]
    pub more_images: Vec<(String, PathBuf)>,
    /// Folder to provide at [`crate::payload::IN_GUEST`].
    pub payload: Option<PathBuf>,
    /// Number of forwarded ports, from guest port 8080.
    pub ports: u16,
    /// Time limit of the boot.
    pub boot_timeout: Duration,
}

impl VmConfig {
    /// Defaults with a GPU and these images.
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

/// Guest port that is reachable at `127.0.0.1:host`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// Port on the host.
    pub host: u16,
    /// Port in the guest.
    pub guest: u16,
}

/// A running VM. Ended on drop by the handle that booted it, unless [`Vm::detach`]ed.
pub struct Vm {
    state: State,
    guest: Guest,
    /// Child processes to reap; empty if another process booted the VM.
    children: Vec<Child>,
    owned: bool,
}

impl Vm {
    /// Boots a VM and returns when it accepts commands.
    ///
    /// # Errors
    /// Fails if a VM of this name runs, or if the boot fails; the error contains the logs.
    pub fn boot(config: VmConfig) -> Result<Self> {
        state::sweep()?;
        boot::Plan::new(config)?.carry_out()
    }

    /// Handle on a running VM. Dropping it does not end the VM; [`Vm::down`] does.
    ///
    /// # Errors
    /// Fails if no VM of this name runs.
    pub fn attach(name: &str) -> Result<Self> {
        let Some(state) = State::find(name)? else {
            let running: Vec<String> = State::all()?.into_iter().map(|state| state.config.name).collect();
            let running = if running.is_empty() { "none".to_owned() } else { running.join(", ") };
            bail!("VM {name} does not run (running: {running}); run ./x lab up to boot it");
        };
        let guest = Guest::new(state.folder()?, state.ssh_port, state.config.network.as_ref());
        Ok(Self { state, guest, children: Vec::new(), owned: false })
    }

    /// Handles on all running VMs.
    pub fn running() -> Result<Vec<Self>> {
        State::all()?.into_iter().map(|state| Self::attach(&state.config.name)).collect()
    }

    /// Lets the VM run after this process ends.
    pub fn detach(mut self) -> Result<()> {
        self.owned = false;
        self.state.owner = None;
        self.state.save()
    }

    /// Ends the VM and removes its state.
    pub fn down(mut self) -> Result<()> {
        self.owned = false;
        self.end();
        self.state.remove()
    }

    /// Handle for commands and files.
    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    /// Configuration that the VM was started with.
    pub fn config(&self) -> &VmConfig {
        &self.state.config
    }

    /// State folder: logs, sockets, `vm.json`.
    pub fn folder(&self) -> &Path {
        self.guest.state()
    }

    /// Forwarded ports.
    pub fn forwards(&self) -> &[Forward] {
        &self.state.forwards
    }

    /// Port on the host's loopback that is forwarded to a guest port.
    pub fn host_port(&self, guest: u16) -> Result<u16> {
        let forward = self.state.forwards.iter().find(|forward| forward.guest == guest);
        forward
            .map(|forward| forward.host)
            .with_context(|| format!("port {guest} of the guest is not forwarded"))
    }

    /// Accelerator: `kvm` or `tcg`.
    pub fn accelerator(&self) -> &str {
        &self.state.accelerator
    }

    /// Time from power-on to the first accepted command, seconds.
    pub fn boot_seconds(&self) -> f64 {
        self.state.boot_seconds
    }

    /// Process ID of QEMU.
    pub fn qemu_pid(&self) -> u32 {
        self.state.processes[0].pid()
    }

    /// Serial console log.
    pub fn serial_log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder().join("serial.log")).unwrap_or_default()).into_owned()
    }

    /// Log of QEMU and of the loaded library.
    pub fn qemu_log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder().join("qemu.log")).unwrap_or_default()).into_owned()
    }

    /// Executes a QMP command.
    pub fn qmp(&self, execute: &str, arguments: &serde_json::Value) -> Result<serde_json::Value> {
        qmp::execute(&self.folder().join(qemu::QMP_SOCKET), execute, arguments)
    }

    /// Resets the machine and waits until the guest accepts commands. The QEMU process continues.
    pub fn reset(&mut self) -> Result<()> {
        self.guest.disconnect();
        // Only messages of the new boot count.
        let offset = fs::metadata(self.folder().join("serial.log"))?.len();
        self.qmp("system_reset", &serde_json::json!({}))?;
        self.wait_for_guest(Instant::now(), offset)
    }

    /// Waits for the guest, reading the serial log from byte `from`.
    fn wait_for_guest(&mut self, started: Instant, from: u64) -> Result<()> {
        let limit = self.state.config.boot_timeout;
        let serial = self.folder().join("serial.log");
        let mut printed = 0;
        let mut booted = false;
        loop {
            let log = fs::read(&serial).unwrap_or_default();
            let lines = String::from_utf8_lossy(log.get(from as usize..).unwrap_or_default());
            let stages: Vec<&str> =
                lines.lines().filter_map(|line| line.trim().strip_prefix("lab: ")).collect();
            for stage in stages.get(printed..).unwrap_or_default() {
                say!("{:5.1} s  {stage}", started.elapsed().as_secs_f64());
                booted |= *stage == "booted";
            }
            printed = printed.max(stages.len());
            if booted && self.guest.answers() {
                return self.guest.connect();
            }
            if lines.contains(boot::KERNEL_PANIC) {
                bail!("the guest kernel panicked during boot\n{}", log_tails(self.folder()));
            }
            if !self.state.processes[0].is_alive() {
                bail!("QEMU exited during boot\n{}", log_tails(self.folder()));
            }
            if started.elapsed() > limit {
                bail!("the guest did not answer within {} s\n{}", limit.as_secs(), log_tails(self.folder()));
            }
            sleep(Duration::from_millis(100));
        }
    }

    fn end(&mut self) {
        self.guest.disconnect();
        self.state.end_processes();
        for child in &mut self.children {
            // Reaps the process, which has ended.
            let _ = child.wait();
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if self.owned {
            self.end();
            // The logs of a failed test are kept.
            if !std::thread::panicking() {
                let _ = self.state.remove();
            }
        }
    }
}

/// Last lines of the logs.
fn log_tails(folder: &Path) -> String {
    format!(
        "end of {0}/qemu.log:\n{1}\nend of {0}/serial.log:\n{2}",
        folder.display(),
        host::tail(&folder.join("qemu.log"), 15),
        host::tail(&folder.join("serial.log"), 25)
    )
}

fn end_child(child: &mut Child) {
    // The process may have exited already.
    let _ = child.kill();
    let _ = child.wait();
}
