//! A running engine: `docker`, images, ports and daemons.

use std::fs;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use cluster::cluster::{Output, run};
use cluster::daemon::Daemon;
use cluster::forward::Forward;
use cluster::image::Image;
use cluster::instance::{Instance, Kind};
use cluster::machine::Machine;
use cluster::tools::Tools;

use crate::bring_up::Disk;
use crate::{bring_up, tools};

pub use crate::bring_up::PROBE;

/// Path of the Engine's socket in its machine.
pub(crate) const SOCKET: &str = "/run/docker.sock";
/// File in the folder of an engine of [`Version::Debian`], for handles of other processes.
const DEBIAN: &str = "debian";

/// Version of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// The newest, from Go modules.
    Current,
    /// Debian's docker.io with Debian's containerd and runc. On bookworm that is 20.10, the oldest supported version.
    Debian,
}

/// A running engine. See [`Instance`] for its lifetime.
pub struct Engine {
    instance: Instance,
    tools: Tools,
    version: Version,
}

impl Deref for Engine {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        &self.instance
    }
}

impl DerefMut for Engine {
    fn deref_mut(&mut self) -> &mut Instance {
        &mut self.instance
    }
}

impl Engine {
    /// Starts an engine; returns when it answers. The first call on a machine builds dockerd, buildx and Compose, which takes
    /// ten minutes on two cores.
    pub fn up(name: &str, version: Version) -> Result<Self> {
        bring_up::run(name, version, &Disk::Empty)
    }

    /// The same with a disk of `mib` MiB, to be filled. Its `/var/lib` is not visible on the host.
    pub fn up_with_disk(name: &str, version: Version, mib: u32) -> Result<Self> {
        bring_up::run(name, version, &Disk::Small(mib))
    }

    /// A handle on a running engine.
    ///
    /// # Errors
    /// If no engine of that name runs.
    pub fn attach(name: &str) -> Result<Self> {
        let instance = Instance::attach(Kind::Engine, name)?;
        let debian = instance.folder()?.join(DEBIAN).exists();
        let version = if debian { Version::Debian } else { Version::Current };
        Ok(Self { instance, tools: tools::build(version)?, version })
    }

    pub(crate) fn new(instance: Instance, tools: Tools, version: Version) -> Result<Self> {
        if version == Version::Debian {
            fs::write(instance.folder()?.join(DEBIAN), b"")?;
        }
        Ok(Self { instance, tools, version })
    }

    /// Names of all running engines.
    pub fn running() -> Result<Vec<String>> {
        Instance::running(Kind::Engine)
    }

    /// Lets the engine run on after this process.
    pub fn detach(self) -> Result<()> {
        self.instance.detach()
    }

    /// Ends the engine with its containers, and removes its images, volumes and logs.
    pub fn down(self) -> Result<()> {
        self.instance.down()
    }

    /// Version of Docker Engine: newest or oldest supported.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The programs that were built for engines.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    pub(crate) fn machine(&self) -> Result<&Machine> {
        self.machines().first().context("the engine has no machine")
    }

    /// Path of the Engine's socket on the host.
    pub fn socket(&self) -> PathBuf {
        self.outside(SOCKET)
    }

    /// Value of `DOCKER_HOST` on the host.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Path on the host of a path in the engine's machine: `/var/lib`, `/var/log` and `/run` are the machine's own.
    pub fn outside(&self, path: &str) -> PathBuf {
        let own = ["/var/lib", "/var/log", "/run"].iter().any(|own| Path::new(path).starts_with(own));
        match self.machines().first() {
            Some(machine) if own => machine.outside(path),
            _ => path.into(),
        }
    }

    /// A command on the host whose environment leads to this engine only.
    pub fn command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new(self.path_of(program));
        self.set_environment(&mut command, &self.host())?;
        Ok(command)
    }

    /// The same in the engine's machine: ports that containers publish on 127.0.0.1 are reachable, the socket is at its usual
    /// path, and paths are those of the engine.
    pub fn inside(&self, program: &str) -> Result<Command> {
        let mut command = self.machine()?.command(self.path_of(program));
        self.set_environment(&mut command, &format!("unix://{SOCKET}"))?;
        Ok(command)
    }

    fn path_of(&self, program: &str) -> PathBuf {
        match (self.version, program) {
            (Version::Debian, "docker") => "/usr/bin/docker".into(),
            _ => self.tools.program(program).unwrap_or_else(|_| program.into()),
        }
    }

    fn set_environment(&self, command: &mut Command, host: &str) -> Result<()> {
        command.env("DOCKER_HOST", host).env("DOCKER_CONFIG", self.folder()?.join("config"));
        // The user's own settings must not influence a test.
        for name in ["DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION"] {
            command.env_remove(name);
        }
        for name in ["COMPOSE_FILE", "COMPOSE_PROJECT_NAME", "COMPOSE_PROFILES", "BUILDX_BUILDER"] {
            command.env_remove(name);
        }
        Ok(())
    }

    /// Runs `docker` and returns its stdout.
    ///
    /// # Errors
    /// If `docker` fails, with its stderr.
    pub fn docker(&self, arguments: &[&str]) -> Result<String> {
        self.try_docker(arguments)?.ok().with_context(|| format!("docker {}", arguments.join(" ")))
    }

    /// Runs `docker`, whose failure is a result and not an error.
    pub fn try_docker(&self, arguments: &[&str]) -> Result<Output> {
        run(self.command("docker")?.args(arguments), b"")
    }

    /// Loads an image.
    pub fn load(&self, image: &Image) -> Result<()> {
        let archive = tempfile::Builder::new().prefix("load.").tempfile_in(self.folder()?)?.into_temp_path();
        image.write(&archive)?;
        self.docker(&["load", "--quiet", "--input", &archive.display().to_string()])?;
        Ok(())
    }

    /// Creates an image of one layer from a tar file, which may be compressed with zstd.
    pub fn import(&self, tar: &Path, arch: lab::Arch, reference: &str) -> Result<()> {
        let mut unpack = if tar.extension().is_some_and(|it| it == "zst") {
            let mut zstd = Command::new("zstd");
            zstd.args(["-q", "-dc"]);
            zstd
        } else {
            Command::new("cat")
        };
        unpack.arg(tar).stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
        let mut unpack = unpack.spawn().context("starting zstd: apt install zstd")?;
        let out = unpack.stdout.take().context("stdout is a pipe")?;
        let mut docker = self.command("docker")?;
        docker.args(["import", "--platform", &format!("linux/{arch}"), "-", reference]);
        let output = docker.stdin(out).output()?;
        let unpacked = unpack.wait()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "importing {}: {}", tar.display(), stderr.trim());
        anyhow::ensure!(unpacked.success(), "unpacking {} failed", tar.display());
        Ok(())
    }

    /// A port of the host's loopback that leads to an address in the engine's network: a port that a container publishes on
    /// 127.0.0.1, or a container's own address.
    pub fn forward(&self, to: SocketAddr) -> Result<Forward> {
        Forward::inward(self.machine()?.network()?, to)
    }

    /// Makes an address of the host reachable for containers, at `host-gateway` and this port.
    pub fn expose(&self, port: u16, to: SocketAddr) -> Result<Forward> {
        Forward::outward(self.machine()?.network()?, (std::net::Ipv4Addr::UNSPECIFIED, port).into(), to)
    }

    /// Starts a daemon that was stopped; for dockerd, returns when the engine answers.
    pub fn start_and_wait(&self, daemon: Daemon) -> Result<()> {
        self.instance.start(daemon)?;
        if daemon == Daemon::Dockerd { bring_up::await_answer(self) } else { Ok(()) }
    }
}
