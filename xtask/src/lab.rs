//! `./x lab`: VMs for people. They run on until `down`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use lab::cache::{Size, disk_usage};
use lab::image::{GuestImage, Image};
use lab::{Arch, Container, Gpu, Qemu, Spec, Tap, Vm, VmConfig};

/// A guest that takes longer to say what it runs is worth saying that of.
const STATUS_PATIENCE: Duration = Duration::from_secs(20);

/// Boot VMs and look into them
#[derive(Subcommand)]
pub enum Command {
    /// Boot a VM and leave it running
    Up(Up),
    /// A shell in the guest
    Sh(Name),
    /// Run a command in the guest; ends with its status
    Exec(Exec),
    /// Copy files; the guest's side is written :PATH
    Cp(Copy),
    /// Start a desktop in it; `container remove` in the guest ends it
    Desktop(Desktop),
    /// What runs, and what images there are
    Status,
    /// End a VM
    Down(Down),
    /// A Kubernetes whose nodes are VMs: up, down, status, kubectl …; needs root
    Cluster {
        /// See `./x lab cluster --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// A Docker Engine in a VM with a GPU: up, down, status, open, compose …
    Docker {
        /// See `./x lab docker --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Build images that aren't there yet
    Images(Images),
}

/// Which VM
#[derive(Args)]
pub struct Name {
    /// The VM's name
    #[arg(long, default_value = "lab")]
    name: String,
}

/// Boot a VM and leave it running
#[derive(Args)]
pub struct Up {
    #[command(flatten)]
    name: Name,
    /// Its processor: amd64, arm64 (a Mac's guest has that) [default: this machine's]
    #[arg(long, default_value_t, hide_default_value = true)]
    arch: Arch,
    /// The VM's GPU
    #[arg(long, value_enum, default_value = "virgl")]
    gpu: GpuChoice,
    /// Whose QEMU
    #[arg(long, value_enum, default_value = "installed")]
    qemu: QemuChoice,
    /// A shared library to load into QEMU
    #[arg(long, conflicts_with = "no_tap")]
    tap: Option<PathBuf>,
    /// A variable for the tap
    #[arg(long, value_name = "NAME=VALUE", requires = "tap")]
    tap_env: Vec<String>,
    /// Nothing is loaded into QEMU
    #[arg(long)]
    no_tap: bool,
    /// A folder that appears at /payload
    #[arg(long)]
    payload: Option<PathBuf>,
    /// Container images, comma-separated [default: all]
    #[arg(long, value_delimiter = ',')]
    images: Option<Vec<String>>,
    /// Memory in MiB
    #[arg(long, default_value_t = 4096)]
    memory: u32,
    /// Processors
    #[arg(long)]
    cpus: Option<u32>,
}

#[derive(Clone, Copy, ValueEnum)]
enum QemuChoice {
    /// this machine's own
    Installed,
    /// Debian trixie's, version 10, unpacked into the cache
    Trixie,
}

#[derive(Clone, Copy, ValueEnum)]
enum GpuChoice {
    /// virtio-gpu with 3D
    Virgl,
    /// virtio-gpu without 3D
    #[value(name = "no-3d")]
    No3d,
    /// no GPU
    None,
}

/// Run a command in the guest; ends with its status
#[derive(Args)]
pub struct Exec {
    #[command(flatten)]
    name: Name,
    /// The command, a line of shell
    #[arg(trailing_var_arg = true, required = true)]
    command: Vec<String>,
}

/// Copy files; the guest's side is written :PATH
#[derive(Args)]
pub struct Copy {
    #[command(flatten)]
    name: Name,
    from: String,
    to: String,
}

/// Start a desktop in it; `container remove` in the guest ends it
#[derive(Args)]
pub struct Desktop {
    #[command(flatten)]
    name: Name,
    /// gnome, sway: one of docker/desktop-*
    image: String,
    /// WIDTHxHEIGHT
    #[arg(long, default_value = "1280x720")]
    size: String,
}

/// End a VM
#[derive(Args)]
pub struct Down {
    #[command(flatten)]
    name: Name,
    /// All that run
    #[arg(long)]
    all: bool,
}

/// Build images that aren't there yet
#[derive(Args)]
pub struct Images {
    /// For which processor: amd64, arm64 [default: this machine's]
    #[arg(long, default_value_t, hide_default_value = true)]
    arch: Arch,
    /// Which [default: the guest's and all]
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
        Command::Cluster { arguments } => return topology(arguments),
        Command::Docker { arguments } => {
            return program("engine", ["lab".to_owned()].into_iter().chain(arguments));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Clusters with VMs.
pub fn topology(arguments: impl IntoIterator<Item = String>) -> Result<ExitCode> {
    program("topology", arguments)
}

/// A program of its own: not everybody who boots a VM has to compile it.
fn program(package: &str, arguments: impl IntoIterator<Item = String>) -> Result<ExitCode> {
    let status = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(lab::repository())
        .args(["run", "--quiet", "--release", "-p", package, "--"])
        .args(arguments)
        .status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn up(arguments: Up) -> Result<()> {
    let Up { name: Name { name }, arch, gpu, qemu, tap, tap_env, no_tap: _, payload, images, memory, cpus } =
        arguments;
    if let Ok(vm) = Vm::attach(&name) {
        println!("{name} is up already");
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
        let Some(env) = tap_env.iter().map(split).collect() else { bail!("--tap-env is NAME=VALUE") };
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
        _ => bail!("one of the two must be the guest's, written :PATH"),
    }
}

fn desktop(Desktop { name: Name { name }, image: desktop, size }: &Desktop) -> Result<()> {
    let parsed = size.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    let Some(size) = parsed else { bail!("--size is WIDTHxHEIGHT, not {size}") };
    let vm = Vm::attach(name)?;
    Container::start(vm.guest(), &Spec::desktop(desktop, &format!("desktop-{desktop}"), size))?;
    println!("{desktop} starts; ./x lab exec container logs {desktop}");
    Ok(())
}

fn status() -> Result<()> {
    let running = Vm::running()?;
    if running.is_empty() {
        println!("no VM runs; ./x lab up boots one");
    }
    for vm in &running {
        describe(vm);
        match vm.guest().exec_within(STATUS_PATIENCE, "container list") {
            Ok(output) => output.stdout.lines().for_each(|line| println!("  container {line}")),
            Err(_) => println!("  the guest doesn't answer; see serial.log and qemu.log in its folder"),
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
        "{}: process {}, {} by {}, {} MiB, {} CPUs, GPU {:?}, tap {}, booted in {:.1} s",
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
