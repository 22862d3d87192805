//! `./x lab`: VMs that run until `./x lab down`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use lab::cache::{Size, disk_usage};
use lab::image::{GuestImage, Image};
use lab::{Arch, Container, Gpu, Qemu, Spec, Tap, Vm, VmConfig};

use crate::programs;

/// Longest time in which a guest lists its containers.
const STATUS_TIMEOUT: Duration = Duration::from_secs(20);

/// Boot and inspect VMs
#[derive(Subcommand)]
pub enum Command {
    /// Boot a VM and leave it running
    Up(Up),
    /// Open a shell in the guest
    Sh(Name),
    /// Run a command in the guest; its exit status becomes ours
    Exec(Exec),
    /// Copy files to or from the guest
    Cp(Copy),
    /// Start a desktop in the guest
    Desktop(Desktop),
    /// List running VMs, their containers, and images
    Status,
    /// End a VM
    Down(Down),
    /// Manage a Kubernetes whose nodes are VMs: up, down, status, kubectl, … (needs root)
    Cluster {
        /// Arguments; see ./x lab cluster --help
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Manage a Docker Engine in a VM with a GPU: up, down, status, open, compose, …
    Docker {
        /// Arguments; see ./x lab docker --help
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Build images that are not cached
    Images(Images),
}

#[derive(Args)]
pub struct Name {
    /// VM name
    #[arg(long, default_value = "lab")]
    name: String,
}

#[derive(Args)]
pub struct Up {
    #[command(flatten)]
    name: Name,
    /// Processor: amd64 or arm64 [default: this machine's]
    #[arg(long, default_value_t, hide_default_value = true)]
    arch: Arch,
    /// GPU of the VM
    #[arg(long, value_enum, default_value = "virgl")]
    gpu: GpuChoice,
    /// QEMU that runs the VM
    #[arg(long, value_enum, default_value = "installed")]
    qemu: QemuChoice,
    /// Shared library to load into QEMU
    #[arg(long, conflicts_with = "no_tap")]
    tap: Option<PathBuf>,
    /// Environment variable for the tap; may be repeated
    #[arg(long, value_name = "NAME=VALUE", requires = "tap")]
    tap_env: Vec<String>,
    /// Load no library into QEMU
    #[arg(long)]
    no_tap: bool,
    /// Folder to mount at /payload in the guest
    #[arg(long)]
    payload: Option<PathBuf>,
    /// Container images to attach, separated by commas [default: all]
    #[arg(long, value_delimiter = ',')]
    images: Option<Vec<String>>,
    /// Memory in MiB
    #[arg(long, default_value_t = 4096)]
    memory: u32,
    /// Number of processors
    #[arg(long)]
    cpus: Option<u32>,
}

#[derive(Clone, Copy, ValueEnum)]
enum QemuChoice {
    /// The machine's own QEMU
    Installed,
    /// QEMU 10 of Debian trixie, unpacked into the cache
    Trixie,
}

#[derive(Clone, Copy, ValueEnum)]
enum GpuChoice {
    /// virtio-gpu with virgl
    Virgl,
    /// virtio-gpu without virgl
    #[value(name = "no-3d")]
    No3d,
    /// No GPU
    None,
}

#[derive(Args)]
pub struct Exec {
    #[command(flatten)]
    name: Name,
    /// Shell command line
    #[arg(trailing_var_arg = true, required = true)]
    command: Vec<String>,
}

#[derive(Args)]
pub struct Copy {
    #[command(flatten)]
    name: Name,
    /// Source; write a path in the guest as :PATH
    from: String,
    /// Destination; write a path in the guest as :PATH
    to: String,
}

#[derive(Args)]
pub struct Desktop {
    #[command(flatten)]
    name: Name,
    /// Desktop: gnome or sway, one of docker/desktop-*
    image: String,
    /// Size of the desktop
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = crate::demo::size, default_value = "1280x720")]
    size: (u32, u32),
}

#[derive(Args)]
pub struct Down {
    #[command(flatten)]
    name: Name,
    /// End all running VMs
    #[arg(long)]
    all: bool,
}

#[derive(Args)]
pub struct Images {
    /// Processor of the images: amd64 or arm64 [default: this machine's]
    #[arg(long, default_value_t, hide_default_value = true)]
    arch: Arch,
    /// Images to build [default: all without -full]
    names: Vec<String>,
}

pub fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Up(arguments) => up(arguments)?,
        Command::Sh(Name { name }) => return interact(&name, None),
        Command::Exec(Exec { name: Name { name }, command }) => {
            return interact(&name, Some(&command.join(" ")));
        }
        Command::Cp(arguments) => copy(&arguments)?,
        Command::Desktop(arguments) => desktop(&arguments)?,
        Command::Status => status()?,
        Command::Down(Down { all: true, .. }) => Vm::running()?.into_iter().try_for_each(Vm::down)?,
        Command::Down(Down { name: Name { name }, all: false }) => Vm::attach(&name)?.down()?,
        Command::Images(arguments) => images(&arguments)?,
        Command::Cluster { arguments } => return programs::run("topology", arguments),
        Command::Docker { arguments } => {
            return programs::run("engine", ["lab".to_owned()].into_iter().chain(arguments));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn up(arguments: Up) -> Result<()> {
    let Up { name: Name { name }, arch, gpu, qemu, tap, tap_env, no_tap: _, payload, images, memory, cpus } =
        arguments;
    if let Ok(vm) = Vm::attach(&name) {
        println!("{name} is already running");
        describe(&vm);
        return Ok(());
    }
    let mut config = VmConfig::new(&name, &[]);
    config.arch = arch;
    config.gpu = match gpu {
        GpuChoice::Virgl => Gpu::Virgl,
        GpuChoice::No3d => Gpu::VirtioNo3d,
        GpuChoice::None => Gpu::None,
    };
    config.qemu = match qemu {
        QemuChoice::Installed => Qemu::Installed,
        QemuChoice::Trixie => Qemu::Trixie,
    };
    if let Some(library) = tap {
        let split = |variable: &String| {
            variable.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
        };
        let Some(env) = tap_env.iter().map(split).collect() else {
            bail!("invalid --tap-env: write NAME=VALUE")
        };
        config.tap = Some(Tap { library: std::path::absolute(library)?, env, starter: Vec::new() });
    }
    config.payload = payload;
    config.images = match images {
        Some(images) => images,
        None => Image::all()?.iter().map(|image| image.name().to_owned()).collect(),
    };
    config.memory_mib = memory;
    config.cpus = cpus.unwrap_or(config.cpus);
    let vm = Vm::boot(config)?;
    describe(&vm);
    vm.detach()
}

fn interact(name: &str, command: Option<&str>) -> Result<ExitCode> {
    let status = Vm::attach(name)?.guest().interact(command)?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

fn copy(Copy { name: Name { name }, from, to }: &Copy) -> Result<()> {
    let vm = Vm::attach(name)?;
    match (from.strip_prefix(':'), to.strip_prefix(':')) {
        (None, Some(to)) => vm.guest().copy_to(Path::new(from), to),
        (Some(from), None) => vm.guest().copy_from(from, Path::new(to)),
        _ => bail!("write exactly one of the two paths as :PATH, the one in the guest"),
    }
}

fn desktop(Desktop { name: Name { name }, image, size }: &Desktop) -> Result<()> {
    let vm = Vm::attach(name)?;
    Container::start(vm.guest(), &Spec::desktop(image, &format!("desktop-{image}"), *size))?;
    println!(
        "{image} starts. Logs: ./x lab exec container logs {image}. End it: ./x lab exec container remove {image}"
    );
    Ok(())
}

fn status() -> Result<()> {
    let running = Vm::running()?;
    if running.is_empty() {
        println!("no VM is running; start one with ./x lab up");
    }
    for vm in &running {
        describe(vm);
        match vm.guest().exec_within(STATUS_TIMEOUT, "container list") {
            Ok(output) => output.stdout.lines().for_each(|line| println!("  container {line}")),
            Err(_) => {
                println!("  the guest does not answer; see serial.log and qemu.log in its state folder");
            }
        }
    }
    for arch in Arch::ALL {
        println!("images for {arch}:");
        let mut recipes = vec![("guest".to_owned(), GuestImage::recipe(arch)?)];
        for image in Image::all()? {
            recipes.push((image.name().to_owned(), image.recipe(arch)?));
        }
        for (name, recipe) in recipes {
            let location = recipe.location()?;
            let size = if location.exists() {
                Size(disk_usage(&location)).to_string()
            } else {
                "not built".to_owned()
            };
            println!("  {name:<16} {size:>10}");
        }
    }
    Ok(())
}

fn describe(vm: &Vm) {
    let config = vm.config();
    println!(
        "{}: process {}, {} on {}, {} MiB, {} CPUs, GPU {:?}, tap {}, booted in {:.1} s",
        config.name,
        vm.qemu_pid(),
        config.arch,
        vm.accelerator(),
        config.memory_mib,
        config.cpus,
        config.gpu,
        config.tap.as_ref().map_or_else(|| "none".to_owned(), |tap| tap.library.display().to_string()),
        vm.boot_seconds(),
    );
    println!("  state   {}", vm.folder().display());
    println!("  images  {}", config.images.join(" "));
    let ports: Vec<String> =
        vm.forwards().iter().map(|port| format!("{}→{}", port.host, port.guest)).collect();
    println!("  ports   127.0.0.1: {}", ports.join(" "));
}

fn images(Images { arch, names }: &Images) -> Result<()> {
    let images = match names.as_slice() {
        [] => Image::all()?,
        names => names.iter().map(|name| Image::named(name)).collect::<Result<_>>()?,
    };
    GuestImage::build(*arch)?;
    for image in images {
        image.disk(*arch)?;
    }
    Ok(())
}
