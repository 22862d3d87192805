//! From nothing to an engine that answers.

use std::ffi::OsString;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cluster::daemon::{Daemon, Launch, Running};
use cluster::machine::Machine;
use cluster::state::{Kind, State};
use cluster::tools::Tools;
use cluster::{Image, cgroup};
use lab::host;

use crate::engine::{Engine, SOCKET, Version};
use crate::{say, seed, tools};

/// Long, for busy machines: the limit is for what hangs.
const PATIENCE: Duration = Duration::from_mins(2);
/// Within the machine.
const CONTAINERD: &str = "/run/containerd/containerd.sock";
/// A small program that tests run in containers; in each engine from the start.
pub const PROBE: &str = cluster::image::PROBE;

/// What an engine begins with.
pub(crate) enum Disk {
    /// Nothing; it has this computer's room.
    Empty,
    /// Nothing, and so many MiB, in memory.
    Small(u32),
    /// What another one had.
    Like(PathBuf),
}

pub(crate) fn run(name: &str, version: Version, disk: &Disk) -> Result<Engine> {
    check_the_computer(version)?;
    let tools = tools::build(version)?;
    let started = Instant::now();
    let mut state = State::create(Kind::Engine, name, 1)?;
    let folder = state.folder()?;
    cgroup::create(&state.cgroup(1))?;
    let made = Machine::start("engine", &folder.join("engine"));
    let (machine, holder) = match made {
        Ok(made) => made,
        Err(error) => {
            let _ = state.end();
            let _ = state.remove();
            return Err(error);
        }
    };
    state.machines.push(machine.clone());
    // From here on its end is its handle's.
    let mut engine = Engine::new(state, tools, version, Some(holder));
    engine.save()?;
    match disk {
        Disk::Empty => {}
        Disk::Small(mib) => {
            let size = format!("size={mib}m,mode=755");
            machine.run(&["mount", "-t", "tmpfs", "-o", &size, "tmpfs", "/var/lib"])?;
        }
        Disk::Like(entry) => seed::lay(entry, &machine.outside("/var/lib"))?,
    }
    link_plugins(&folder, engine.tools())?;
    let path = daemon_path(engine.tools(), version)?;
    write_config(&machine, &engine)?;
    let config = machine.folder.join("containerd.toml").display().to_string();
    engine
        .daemons
        .push(Launch::new(Daemon::Containerd(1), &machine, &["--config".to_owned(), config]).start(&path)?);
    await_file(&mut engine, &machine.outside(CONTAINERD), "containerd")?;
    let config = machine.folder.join("daemon.json").display().to_string();
    let dockerd = ["--config-file".to_owned(), config];
    engine.daemons.push(Launch::new(Daemon::Dockerd, &machine, &dockerd).start(&path)?);
    await_answer(&mut engine)?;
    engine.load(&Image::of_program(PROBE, &engine.tools().program("probe")?))?;
    say!("engine {name} is up after {:.1} s", started.elapsed().as_secs_f64());
    Ok(engine)
}

/// Until it answers, after a start of its own or ours.
pub(crate) fn await_answer(engine: &mut Engine) -> Result<()> {
    let socket = engine.socket();
    await_that(engine, "dockerd", || {
        let answer = ping(&socket);
        Ok(match answer {
            Ok(answer) if answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200") => None,
            Ok(answer) => Some(answer),
            Err(error) => Some(error.to_string()),
        })
    })
}

fn await_file(engine: &mut Engine, file: &Path, what: &str) -> Result<()> {
    await_that(engine, what, || Ok((!file.exists()).then(|| format!("no {}", file.display()))))
}

fn await_that(
    engine: &mut Engine,
    what: &str,
    mut objection: impl FnMut() -> Result<Option<String>>,
) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while let Some(objection) = objection()? {
        engine
            .daemons
            .iter_mut()
            .try_for_each(Running::check)
            .with_context(|| format!("waiting for {what}"))?;
        if Instant::now() > deadline {
            let log = engine.machine()?.folder.join("dockerd.log");
            bail!("{what}: not within {} s: {objection}\n{}", PATIENCE.as_secs(), host::tail(&log, 15));
        }
        sleep(Duration::from_millis(50));
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

/// Where daemons and the runtime's parts are looked for.
fn daemon_path(tools: &Tools, version: Version) -> Result<OsString> {
    match version {
        Version::Current => tools.search_path(),
        Version::Debian => Ok("/usr/sbin:/usr/bin:/sbin:/bin".into()),
    }
}

/// So that `docker compose` and `docker buildx` are these and no others.
fn link_plugins(folder: &Path, tools: &Tools) -> Result<()> {
    let plugins = folder.join("config/cli-plugins");
    fs::create_dir_all(&plugins)?;
    for name in tools::PLUGINS {
        // Debian's engine has no buildx.
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
    let daemon = daemon_config(&format!("/{}", engine.cgroup()), &proxy);
    Ok(fs::write(machine.folder.join("daemon.json"), daemon)?)
}

/// dockerd's: none of the computer's own settings.
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

/// Its own default reads images by way of erofs and needs a new mkfs.erofs for it; the interface for kubelets is unused.
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

/// Debian's.
const CONTAINERD_1: &str = r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "/run/containerd/containerd.sock"
"#;

/// Says what can be said before anything is built or made.
fn check_the_computer(version: Version) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "an engine runs in namespaces that only root can make: run it by sudo -E, or as root"
    );
    for program in ["/usr/sbin/dockerd", "/usr/bin/docker"] {
        ensure!(
            version == Version::Current || Path::new(program).exists(),
            "no {program}: apt install docker.io (./x docker and ./x test docker do so)"
        );
    }
    Ok(())
}

/// For [`Engine::drop`]: the first process is ours to reap.
pub(crate) fn reap(holder: &mut Option<Child>) {
    if let Some(holder) = holder {
        let _ = holder.wait();
    }
}
