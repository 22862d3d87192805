//! An engine as tests have it: up, ask, stop and start, down. Its life is that of tests/harness/cluster's clusters: it ends with the
//! handle that brought it up, unless detached; one whose process was killed is ended by the next one that comes up.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context, Result, bail};
use cluster::cluster::{Output, run};
use cluster::daemon::{Daemon, Running};
use cluster::forward::Forward;
use cluster::image::Image;
use cluster::machine::Machine;
use cluster::state::{Kind, State};
use cluster::tools::Tools;

use crate::bring_up::Disk;
use crate::{bring_up, say, tools};

pub use crate::bring_up::PROBE;

/// Where it listens, within its machine.
pub(crate) const SOCKET: &str = "/run/docker.sock";
/// Says which version an engine is that another process finds.
const DEBIAN: &str = "debian";

/// Which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// The newest, from Go modules.
    Current,
    /// Debian's docker.io, with Debian's containerd and runc: on bookworm 20.10, the oldest that we support.
    Debian,
}

/// An engine that runs. Ends with this handle if this handle brought it up, unless [`Engine::detach`]ed.
pub struct Engine {
    state: State,
    tools: Tools,
    version: Version,
    /// Empty when another process brought it up.
    pub(crate) daemons: Vec<Running>,
    holder: Option<Child>,
    owned: bool,
}

impl Engine {
    /// Brings one up; returns when it answers. The first time it builds dockerd, buildx and Compose: ten minutes of two
    /// processors.
    pub fn up(name: &str, version: Version) -> Result<Self> {
        bring_up::run(name, version, &Disk::Empty)
    }

    /// One with a disk of so many MiB, to fill. What is under `/var/lib` can't be seen from outside.
    pub fn up_with_a_disk_of(mib: u32, name: &str, version: Version) -> Result<Self> {
        bring_up::run(name, version, &Disk::Small(mib))
    }

    /// A handle on one that runs. Dropping it changes nothing; [`Engine::down`] ends the engine.
    pub fn attach(name: &str) -> Result<Self> {
        let Some(state) = State::find(Kind::Engine, name)? else {
            let running = Self::running()?;
            let running = if running.is_empty() { "none".to_owned() } else { running.join(", ") };
            bail!("no engine {name} runs (running: {running}); ./x docker up starts it");
        };
        let debian = state.folder()?.join(DEBIAN).exists();
        let version = if debian { Version::Debian } else { Version::Current };
        let mut engine = Self::new(state, tools::build(version)?, version, None);
        engine.owned = false;
        Ok(engine)
    }

    pub(crate) fn new(state: State, tools: Tools, version: Version, holder: Option<Child>) -> Self {
        Self { state, tools, version, daemons: Vec::new(), holder, owned: true }
    }

    /// At once: a process that is killed now must not leave it unknown.
    pub(crate) fn save(&self) -> Result<()> {
        if self.version == Version::Debian {
            fs::write(self.folder()?.join(DEBIAN), b"")?;
        }
        self.state.save()
    }

    /// The names of all that run.
    pub fn running() -> Result<Vec<String>> {
        Ok(State::all(Kind::Engine)?.into_iter().map(|state| state.name).collect())
    }

    /// Lets it run on after this process.
    pub fn detach(mut self) -> Result<()> {
        self.owned = false;
        self.state.owner = None;
        self.state.save()
    }

    /// Ends it, with its containers, and forgets its images, volumes and logs.
    pub fn down(mut self) -> Result<()> {
        self.owned = false;
        self.end()?;
        self.state.remove()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// Which one it is.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Its folder; in `engine/` are its logs and configuration.
    pub fn folder(&self) -> Result<PathBuf> {
        self.state.folder()
    }

    /// The cgroup under which its containers' are.
    pub fn cgroup(&self) -> String {
        self.state.cgroup(1)
    }

    /// The programs.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    pub(crate) fn machine(&self) -> Result<&Machine> {
        self.state.machines.first().context("it has no machine")
    }

    /// The engine's socket, for clients on this computer.
    pub fn socket(&self) -> PathBuf {
        self.outside(SOCKET)
    }

    /// The socket as `DOCKER_HOST` has it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Where a path of the engine's is for this computer: what is under `/var/lib`, `/var/log` and `/run` is its own, such
    /// as `/var/lib/gpus`; all else is the computer's.
    pub fn outside(&self, path: &str) -> PathBuf {
        let own = ["/var/lib", "/var/log", "/run"].iter().any(|own| Path::new(path).starts_with(own));
        match self.state.machines.first() {
            Some(machine) if own => machine.outside(path),
            _ => path.into(),
        }
    }

    /// A command that finds this engine, and no other, by its environment: docker, a program of ours.
    pub fn command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new(self.file_of(program));
        self.environment(&mut command, &self.host())?;
        Ok(command)
    }

    /// The same within the engine's machine: what containers publish on 127.0.0.1 is there, the socket is at its usual
    /// place, and paths are those that the engine knows.
    pub fn inside(&self, program: &str) -> Result<Command> {
        let mut command = self.machine()?.command(self.file_of(program));
        self.environment(&mut command, &format!("unix://{SOCKET}"))?;
        Ok(command)
    }

    fn file_of(&self, program: &str) -> PathBuf {
        match (self.version, program) {
            (Version::Debian, "docker") => "/usr/bin/docker".into(),
            _ => self.tools.program(program).unwrap_or_else(|_| program.into()),
        }
    }

    fn environment(&self, command: &mut Command, host: &str) -> Result<()> {
        command.env("DOCKER_HOST", host).env("DOCKER_CONFIG", self.folder()?.join("config"));
        for name in ["DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION"] {
            command.env_remove(name);
        }
        // What comes over Compose from the user's shell is no business of a test's.
        for name in ["COMPOSE_FILE", "COMPOSE_PROJECT_NAME", "COMPOSE_PROFILES", "BUILDX_BUILDER"] {
            command.env_remove(name);
        }
        Ok(())
    }

    /// `docker` with these arguments: its stdout, or an error.
    pub fn docker(&self, arguments: &[&str]) -> Result<String> {
        self.try_docker(arguments)?.ok().with_context(|| format!("docker {}", arguments.join(" ")))
    }

    /// `docker`, which may well fail.
    pub fn try_docker(&self, arguments: &[&str]) -> Result<Output> {
        run(self.command("docker")?.args(arguments), b"")
    }

    /// Gives it an image.
    pub fn load(&self, image: &Image) -> Result<()> {
        let archive = self.folder()?.join("load.tar");
        image.write(&archive)?;
        self.docker(&["load", "--quiet", "--input", &archive.display().to_string()])?;
        Ok(fs::remove_file(archive)?)
    }

    /// Makes an image of one layer out of a tar file, packed by zstd or not: a base to build on.
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
        let out = unpack.stdout.take().context("it has a stdout")?;
        let mut docker = self.command("docker")?;
        docker.args(["import", "--platform", &format!("linux/{arch}"), "-", reference]);
        let output = docker.stdin(out).output()?;
        let unpacked = unpack.wait()?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "importing {}: {}", tar.display(), said.trim());
        anyhow::ensure!(unpacked.success(), "unpacking {} failed", tar.display());
        Ok(())
    }

    /// A port of this computer's loopback that leads to an address in the engine's network: what a container publishes
    /// on 127.0.0.1, a container's own.
    pub fn forward(&self, to: SocketAddr) -> Result<Forward> {
        Forward::inward(self.machine()?.network()?, to)
    }

    /// The other way round: containers reach `to`, one of this computer's addresses, at `host-gateway` and that port.
    pub fn expose(&self, port: u16, to: SocketAddr) -> Result<Forward> {
        Forward::outward(self.machine()?.network()?, (std::net::Ipv4Addr::UNSPECIFIED, port).into(), to)
    }

    /// Stops a daemon (`Dockerd`, `Containerd(1)`), as an operator of the machine would.
    pub fn stop(&mut self, daemon: Daemon) -> Result<()> {
        self.running_daemon(daemon)?.stop()
    }

    /// Starts a daemon that was stopped, and waits until the engine answers.
    pub fn start(&mut self, daemon: Daemon) -> Result<()> {
        self.running_daemon(daemon)?.start_again()?;
        if daemon == Daemon::Dockerd { bring_up::await_answer(self) } else { Ok(()) }
    }

    /// What a daemon wrote so far.
    pub fn daemon_log(&mut self, daemon: Daemon) -> Result<String> {
        let log = self.running_daemon(daemon)?.log();
        Ok(String::from_utf8_lossy(&fs::read(log)?).into_owned())
    }

    fn running_daemon(&mut self, daemon: Daemon) -> Result<&mut Running> {
        let found = self.daemons.iter_mut().find(|running| running.daemon() == daemon);
        found.with_context(|| {
            format!("{daemon} is not this process's: the one that brought the engine up has it")
        })
    }

    /// Ends all that runs in it, and with it all that is mounted in it; its files stay until it is taken down.
    pub(crate) fn end_daemons(&mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        let ended = self.state.end();
        self.daemons.iter_mut().for_each(Running::reap);
        bring_up::reap(&mut self.holder);
        ended
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.owned {
            if let Err(error) = self.end() {
                say!("ending engine {}: {error:#}", self.name());
            }
            // The logs of an engine that a failed test leaves are worth more than their room.
            if !std::thread::panicking() {
                let _ = self.state.remove();
            }
        }
    }
}
