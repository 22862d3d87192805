//! Creates an engine and waits until it answers.

use std::ffi::OsString;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cluster::daemon::{Daemon, Launch};
use cluster::instance::{Instance, Kind};
use cluster::machine::Machine;
use cluster::tools::Tools;
use cluster::{Image, cgroup};
use lab::host;

use crate::engine::{Engine, SOCKET, Version};
use crate::{progress, seed, tools};

/// Limit of each step. Generous: it bounds steps that hang, not slow machines.
const STEP_TIMEOUT: Duration = Duration::from_mins(4);
/// Interval between two looks.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// Path of containerd's socket in the machine.
const CONTAINERD: &str = "/run/containerd/containerd.sock";
/// Image of the test program `tests/harness/cluster/tools/images/probe`. Present on each engine.
pub const PROBE: &str = cluster::image::PROBE;

/// Initial content of an engine's disk.
pub(crate) enum Disk {
    /// Empty, on the host's disk.
    Empty,
    /// Empty, in memory, with this many MiB.
    Small(u32),
    /// A copy of this cache entry of [`seed`].
    Like(PathBuf),
}

pub(crate) fn run(name: &str, version: Version, disk: &Disk) -> Result<Engine> {
    check_host(version)?;
    let tools = tools::build(version)?;
    let started = Instant::now();
    let mut instance = Instance::create(Kind::Engine, name, 1)?;
    let folder = instance.folder()?;
    cgroup::create(&instance.cgroup(1))?;
    let machine = instance.start_machine("engine")?;
    let mut engine = Engine::new(instance, tools, version)?;
    match disk {
        Disk::Empty => {}
        Disk::Small(mib) => {
            let size = format!("size={mib}m,mode=755");
            machine.run(&["mount", "-t", "tmpfs", "-o", &size, "tmpfs", "/var/lib"])?;
        }
        Disk::Like(entry) => seed::copy(entry, &machine.outside("/var/lib"))?,
    }
    link_plugins(&folder, engine.tools())?;
    let path = daemon_path(engine.tools(), version)?;
    write_config(&machine, &engine)?;
    let config = machine.folder.join("containerd.toml").display().to_string();
    let containerd = Launch::new(Daemon::Containerd(1), &machine, &["--config".to_owned(), config]);
    engine.start_daemon(containerd, &path)?;
    await_file(&engine, &machine.outside(CONTAINERD), "containerd")?;
    let config = machine.folder.join("daemon.json").display().to_string();
    let dockerd = ["--config-file".to_owned(), config];
    engine.start_daemon(Launch::new(Daemon::Dockerd, &machine, &dockerd), &path)?;
    await_answer(&engine)?;
    engine.load(&Image::of_program(PROBE, &engine.tools().program("probe")?))?;
    engine.mark_complete();
    progress!("engine {name} is up after {:.1} s", started.elapsed().as_secs_f64());
    Ok(engine)
}

/// Waits until dockerd answers a ping.
pub(crate) fn await_answer(engine: &Engine) -> Result<()> {
    let socket = engine.socket();
    await_step(engine, "dockerd", || {
        let answer = ping(&socket);
        Ok(match answer {
            Ok(answer) if answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200") => None,
            Ok(answer) => Some(answer),
            Err(error) => Some(error.to_string()),
        })
    })
}

fn await_file(engine: &Engine, file: &Path, subject: &str) -> Result<()> {
    await_step(engine, subject, || Ok((!file.exists()).then(|| format!("{} does not exist", file.display()))))
}

/// Calls `obstacle` until it returns `None`. An error carries the last obstacle.
fn await_step(
    engine: &Engine,
    subject: &str,
    mut obstacle: impl FnMut() -> Result<Option<String>>,
) -> Result<()> {
    let deadline = Instant::now() + STEP_TIMEOUT;
    while let Some(obstacle) = obstacle()? {
        engine.check_daemons().with_context(|| format!("waiting for {subject}"))?;
        if Instant::now() > deadline {
            let log = engine.machine()?.folder.join("dockerd.log");
            let limit = STEP_TIMEOUT.as_secs();
            bail!("{subject}: not ready after {limit} s: {obstacle}\n{}", host::tail(&log, 15));
        }
        sleep(RETRY_INTERVAL);
    }
    Ok(())
}

fn ping(socket: &Path) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// `PATH` of the daemons.
fn daemon_path(tools: &Tools, version: Version) -> Result<OsString> {
    match version {
        Version::Current => tools.search_path(),
        Version::Debian => Ok("/usr/sbin:/usr/bin:/sbin:/bin".into()),
    }
}

/// Links Compose and buildx as plugins, so that the host's are not used.
fn link_plugins(folder: &Path, tools: &Tools) -> Result<()> {
    let plugins = folder.join("config/cli-plugins");
    fs::create_dir_all(&plugins)?;
    for name in tools::PLUGINS {
        // Debian's engine is used without buildx.
        if let Ok(program) = tools.program(name) {
            symlink(program, plugins.join(format!("docker-{name}")))?;
        }
    }
    Ok(())
}

fn write_config(machine: &Machine, engine: &Engine) -> Result<()> {
    let (config, proxy) = match engine.version() {
        Version::Current => (CONTAINERD_2, engine.tools().program("docker-proxy")?.display().to_string()),
        Version::Debian => (CONTAINERD_1, "/usr/sbin/docker-proxy".to_owned()),
    };
    fs::write(machine.folder.join("containerd.toml"), config)?;
    let daemon = daemon_config(&format!("/{}", engine.cgroup(1)), &proxy);
    Ok(fs::write(machine.folder.join("daemon.json"), daemon)?)
}

/// Configuration of dockerd.
pub(crate) fn daemon_config(cgroup: &str, proxy: &str) -> String {
    format!(
        r#"{{
  "hosts": ["unix://{SOCKET}"],
  "containerd": "{CONTAINERD}",
  "data-root": "/var/lib/docker",
  "exec-root": "/run/docker",
  "pidfile": "/run/docker.pid",
  "cgroup-parent": "{cgroup}",
  "exec-opts": ["native.cgroupdriver=cgroupfs"],
  "userland-proxy-path": "{proxy}"
}}
"#
    )
}

/// Configuration of containerd 2. By default it unpacks images with erofs, which needs a recent mkfs.erofs; the CRI plugin is not
/// used.
pub(crate) const CONTAINERD_2: &str = r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.differ.v1.erofs", "io.containerd.snapshotter.v1.erofs", "io.containerd.mount-handler.v1.erofs", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"]
[grpc]
address = "/run/containerd/containerd.sock"
[plugins.'io.containerd.internal.v1.opt']
path = "/var/lib/containerd/opt"
[plugins.'io.containerd.transfer.v1.local']
unpack_config = [{platform = "linux", snapshotter = "overlayfs", differ = "walking"}]
"#;

/// Configuration of Debian's containerd.
const CONTAINERD_1: &str = r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "/run/containerd/containerd.sock"
"#;

/// Checks the host's requirements before anything is built or created.
fn check_host(version: Version) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "creating namespaces needs root: run the command as root, or with sudo -E"
    );
    for program in ["/usr/sbin/dockerd", "/usr/bin/docker"] {
        ensure!(
            version == Version::Current || Path::new(program).exists(),
            "{program} is not installed: apt install docker.io (./x docker and ./x test docker install it)"
        );
    }
    Ok(())
}
