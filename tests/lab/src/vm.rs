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
mod display;
mod initramfs;
mod qemu;
mod qmp;
mod state;

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::arch::Arch;
use crate::guest::{Guest, Keys};
use crate::host::{self, ProcessId};
use crate::image::{GuestImage, Image};
use crate::payload;
use crate::progress::say;

pub(crate) use state::RUN_FOLDER;
use state::State;

/// Ports in the guest that containers may serve on, forwarded from free ones on the host's loopback.
const FIRST_GUEST_PORT: u16 = 8080;
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
}

/// What to boot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VmConfig {
    /// Its name among this user's VMs.
    pub name: String,
    /// Its processor.
    pub arch: Arch,
    /// Its GPU.
    pub gpu: Gpu,
    /// What to load into QEMU.
    pub tap: Option<Tap>,
    /// Its memory, in MiB; containers write into it, too.
    pub memory_mib: u32,
    /// Its processors.
    pub cpus: u32,
    /// The container images it has.
    pub images: Vec<String>,
    /// A folder that it has at [`payload::IN_GUEST`].
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
            gpu: Gpu::default(),
            tap: None,
            memory_mib: 4096,
            cpus: std::thread::available_parallelism().map_or(2, |cpus| cpus.get().clamp(2, 4) as u32),
            images: images.iter().map(ToString::to_string).collect(),
            payload: None,
            ports: 8,
            boot_timeout: Duration::from_secs(180),
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
    /// Kept to be reaped. Display before QEMU would end QEMU with an X error, so QEMU comes first everywhere.
    children: Vec<Child>,
    owned: bool,
}

impl Vm {
    /// Boots one; returns when it takes commands. An error if one of that name runs.
    pub fn boot(config: VmConfig) -> Result<Self> {
        state::sweep()?;
        ensure!(
            State::find(&config.name)?.is_none(),
            "VM {} is up already; ./x lab down ends it",
            config.name
        );
        if let Some(tap) = &config.tap {
            ensure!(tap.library.is_file(), "no tap at {}", tap.library.display());
        }
        let image = GuestImage::build(config.arch)?;
        let mut disks = Vec::new();
        for name in &config.images {
            disks.push((name.clone(), Image::named(name)?.disk(config.arch)?));
        }
        let keys = Keys::make()?;

        // Another program may take a port between our look at it and QEMU's bind.
        let mut attempts = 3;
        loop {
            let error = match Self::try_boot(&config, &image, &disks, &keys) {
                Ok(vm) => return Ok(vm),
                Err(error) => error,
            };
            attempts -= 1;
            if attempts == 0 || !format!("{error:#}").contains(qemu::PORT_IS_TAKEN) {
                return Err(error);
            }
        }
    }

    fn try_boot(
        config: &VmConfig,
        image: &GuestImage,
        disks: &[(String, PathBuf)],
        keys: &Keys,
    ) -> Result<Self> {
        let started = Instant::now();
        let folder = State::create_folder(&config.name)?;
        let initramfs = folder.join("initramfs");
        fs::write(&initramfs, initramfs::make(&image.boot, keys)?)?;
        let mut disks = disks.to_vec();
        if let Some(payload) = &config.payload {
            let disk = folder.join("payload.ext4");
            payload::make_disk(payload, &disk)?;
            disks.push(("payload".to_owned(), disk));
        }
        let ports = free_ports(config.ports + 1)?;
        let forwards: Vec<Forward> =
            ports[1..].iter().zip(FIRST_GUEST_PORT..).map(|(&host, guest)| Forward { host, guest }).collect();
        let accelerator = accelerator::choose(config.arch);

        let mut children = Vec::new();
        let mut number = None;
        if config.gpu == Gpu::Virgl {
            let (child, display) = display::start(&folder.join("xvfb.log"))?;
            children.push(child);
            number = Some(display);
        }
        let launch = qemu::Launch {
            config,
            accelerator,
            kernel: &image.kernel,
            initramfs: &initramfs,
            root: &image.disk,
            disks: &disks,
            ssh_port: ports[0],
            forwards: &forwards,
        };
        let log = File::create(folder.join("qemu.log"))?;
        let mut command = Command::new(config.arch.qemu());
        command
            .args(launch.arguments())
            .envs(launch.environment(number))
            .env("TMPDIR", &folder)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C at a terminal is for us; we end QEMU in our own way.
            .process_group(0);
        let qemu = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                children.iter_mut().for_each(end_child);
                return Err(error)
                    .with_context(|| format!("starting {}: ./x installs it", config.arch.qemu()));
            }
        };
        let processes = [&qemu]
            .into_iter()
            .chain(&children)
            .map(|child| ProcessId::of(child.id()))
            .collect::<Result<_>>();
        children.insert(0, qemu);
        let state = State {
            config: config.clone(),
            processes: processes.with_context(|| ended(&folder))?,
            owner: Some(ProcessId::of(std::process::id())?),
            ssh_port: ports[0],
            forwards,
            accelerator: accelerator.to_string(),
            boot_seconds: 0.0,
        };
        state.save()?;
        let guest = Guest::new(folder, state.ssh_port);
        guest.write_config(keys)?;
        let mut vm = Self { state, guest, children, owned: true };
        vm.wait_for_guest(started)?;
        vm.state.boot_seconds = started.elapsed().as_secs_f64();
        vm.state.save()?;
        say!("VM {} is up after {:.1} s ({accelerator})", config.name, vm.state.boot_seconds);
        Ok(vm)
    }

    /// A handle on one that runs. Dropping it changes nothing; [`Vm::down`] ends the VM.
    pub fn attach(name: &str) -> Result<Self> {
        let Some(state) = State::find(name)? else {
            let running: Vec<String> = State::all()?.into_iter().map(|state| state.config.name).collect();
            let running = if running.is_empty() { "none".to_owned() } else { running.join(", ") };
            bail!("no VM {name} runs (running: {running}); ./x lab up boots it");
        };
        let guest = Guest::new(state.folder()?, state.ssh_port);
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
    pub fn qmp(&self, execute: &str, arguments: serde_json::Value) -> Result<serde_json::Value> {
        qmp::execute(&self.folder().join(qemu::QMP_SOCKET), execute, arguments)
    }

    /// Presses the reset button, and waits until the guest takes commands again. QEMU and what is in it live on.
    pub fn reset(&mut self) -> Result<()> {
        self.guest.disconnect();
        // Else the last boot's words are taken for this one's.
        fs::write(self.folder().join("serial.log"), "")?;
        self.qmp("system_reset", serde_json::json!({}))?;
        self.wait_for_guest(Instant::now())
    }

    fn wait_for_guest(&mut self, started: Instant) -> Result<()> {
        let limit = self.state.config.boot_timeout;
        let serial = self.folder().join("serial.log");
        let mut told = 0;
        let mut booted = false;
        loop {
            let lines = fs::read(&serial).unwrap_or_default();
            let lines = String::from_utf8_lossy(&lines);
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

/// Different ones, as all are held until all are found.
fn free_ports(count: u16) -> Result<Vec<u16>> {
    let listeners =
        (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<std::io::Result<Vec<_>>>();
    let listeners = listeners.context("looking for free ports")?;
    Ok(listeners
        .iter()
        .map(TcpListener::local_addr)
        .collect::<std::io::Result<Vec<_>>>()?
        .iter()
        .map(|a| a.port())
        .collect())
}
