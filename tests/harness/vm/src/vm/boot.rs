//! Boots a VM from a configuration.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::state::State;
use super::{Forward, Gpu, Vm, VmConfig, accelerator, display, end_child, initramfs, qemu};
use crate::emulator::Emulator;
use crate::guest::{Guest, Keys};
use crate::host::{self, ProcessId};
use crate::image::{GuestImage, Image};
use crate::payload;
use crate::progress::say;

/// First of the guest ports that are forwarded from free ports on the host's loopback.
const FIRST_GUEST_PORT: u16 = 8080;
const ATTEMPTS: u32 = 3;
pub(super) const KERNEL_PANIC: &str = "Kernel panic - not syncing";

/// A configuration with its images, keys and emulator.
pub(super) struct Plan {
    config: VmConfig,
    image: GuestImage,
    disks: Vec<(String, PathBuf)>,
    keys: Keys,
    emulator: Emulator,
}

impl Plan {
    pub(super) fn new(config: VmConfig) -> Result<Self> {
        let name = &config.name;
        ensure!(State::find(name)?.is_none(), "VM {name} already runs; run ./x lab down to end it");
        if let Some(tap) = &config.tap {
            ensure!(tap.library.is_file(), "tap {} does not exist", tap.library.display());
        }
        let emulator = Emulator::get(config.qemu, config.arch)?;
        let image = GuestImage::build(config.arch)?;
        let disk = |name: &String| Ok((name.clone(), Image::named(name)?.disk(config.arch)?));
        let mut disks = config.images.iter().map(disk).collect::<Result<Vec<_>>>()?;
        disks.extend(config.more_images.iter().cloned());
        Ok(Self { image, disks, keys: Keys::make()?, emulator, config })
    }

    pub(super) fn carry_out(self) -> Result<Vm> {
        for _ in 1..ATTEMPTS {
            match self.attempt() {
                Err(error) if is_transient(&format!("{error:#}")) => {
                    say!("{error:#}\ntransient failure: booting again");
                }
                result => return result,
            }
        }
        self.attempt()
    }

    fn attempt(&self) -> Result<Vm> {
        let Self { config, image, disks, keys, emulator } = self;
        let started = Instant::now();
        let folder = State::create_folder(&config.name)?;
        let initramfs = folder.join("initramfs");
        fs::write(&initramfs, initramfs::make(&image.boot, keys)?)?;
        let mut disks = disks.clone();
        if let Some(payload) = &config.payload {
            let disk = folder.join("payload.ext4");
            payload::make_disk(payload, &disk)?;
            disks.push(("payload".to_owned(), disk));
        }
        let ports = free_ports(config.ports + 1)?;
        let forwards: Vec<Forward> =
            ports[1..].iter().zip(FIRST_GUEST_PORT..).map(|(&host, guest)| Forward { host, guest }).collect();
        let accelerator = accelerator::choose(config.arch);

        let mut children = Children::default();
        let mut display = None;
        if config.gpu == Gpu::Virgl {
            let (server, number) = display::start(&folder.join("xvfb.log"))?;
            children.0.push(server);
            display = Some(number);
        }
        let launch = qemu::Launch {
            config,
            accelerator,
            cpus: accelerator::cpus(accelerator, emulator, config.cpus),
            preload: started_by(emulator, config).is_none().then(|| emulator.preload_variable()),
            kernel: &image.kernel,
            initramfs: &initramfs,
            root: &image.disk,
            disks: &disks,
            ssh_port: ports[0],
            forwards: &forwards,
        };
        // QEMU ends before its display, without which it would report an X error.
        children.0.insert(0, start(emulator, &launch, display, &folder)?);

        let processes = children.0.iter().map(|child| ProcessId::of(child.id())).collect::<Result<_>>()?;
        let state = State {
            config: config.clone(),
            processes,
            owner: Some(ProcessId::of(std::process::id())?),
            ssh_port: ports[0],
            forwards,
            accelerator: accelerator.to_string(),
            boot_seconds: 0.0,
        };
        state.save()?;
        let guest = Guest::new(folder, state.ssh_port, config.network.as_ref());
        guest.write_config(keys)?;
        let mut vm = Vm { state, guest, children: std::mem::take(&mut children.0), owned: true };
        if let Err(error) = vm.wait_for_guest(started, 0) {
            // The folder is kept for its logs.
            vm.owned = false;
            vm.end();
            return Err(error);
        }
        vm.state.boot_seconds = started.elapsed().as_secs_f64();
        vm.state.save()?;
        say!("VM {} booted in {:.1} s ({accelerator})", config.name, vm.state.boot_seconds);
        Ok(vm)
    }
}

/// True for failures that another attempt may avoid: a port was bound by another program after it was found free; or QEMU
/// before 8.1 emulated code that another guest CPU was patching (QEMU commit deba78709ae8).
fn is_transient(error: &str) -> bool {
    error.contains(qemu::PORT_IS_TAKEN) || error.contains(KERNEL_PANIC)
}

/// Starter of QEMU, if it is not started directly.
fn started_by(emulator: &Emulator, config: &VmConfig) -> Option<Command> {
    emulator.started_by(&config.tap.as_ref()?.starter)
}

fn start(
    emulator: &Emulator,
    launch: &qemu::Launch<'_>,
    display: Option<u32>,
    folder: &Path,
) -> Result<Child> {
    let program = launch.config.arch.qemu();
    let log = File::create(folder.join("qemu.log"))?;
    let command = started_by(emulator, launch.config).unwrap_or_else(|| emulator.command());
    let mut command = host::in_network(command, launch.config.network.as_ref().map(|it| &*it.namespace));
    command
        .args(launch.arguments())
        .envs(launch.environment(display))
        // QEMU stores the snapshot of the root disk in TMPDIR.
        .env("TMPDIR", folder)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C at the terminal must not reach QEMU directly.
        .process_group(0);
    command.spawn().with_context(|| format!("starting {program}; run ./x to install it"))
}

/// Child processes, killed on drop when a later step of the boot fails.
#[derive(Default)]
struct Children(Vec<Child>);

impl Drop for Children {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(end_child);
    }
}

/// Finds distinct free ports by binding all of them at once.
fn free_ports(count: u16) -> Result<Vec<u16>> {
    let listeners = (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let listeners = listeners.collect::<std::io::Result<Vec<_>>>().context("looking for free ports")?;
    let ports = listeners
        .iter()
        .map(|listener| listener.local_addr().as_ref().map(SocketAddr::port).unwrap_or_default());
    Ok(ports.collect())
}
