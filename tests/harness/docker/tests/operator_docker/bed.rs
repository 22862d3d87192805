//! What the tests of the Docker mode share: an engine with our images, a project's operator, and what it says.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use cluster::machine::children_of;
use cluster::product::gpus;
use cluster::product::images::{self, Programs, SIDECAR};
use cluster::product::pods::merge;
use engine::engine::PROBE;
use engine::{Daemon, Engine, Version};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Long, for busy machines: the limit is for what hangs.
pub const PATIENCE: Duration = Duration::from_mins(2);
/// The engine's machine's GPU, which is a node that can be opened, by its group.
pub const GPU: &str = "/var/lib/gpus/dev/renderD128";

/// An engine with our sidecar.
pub struct Bed {
    engine: RwLock<Engine>,
    operator: PathBuf,
    sidecar: &'static str,
}

/// Debian's, if that is what was asked for.
pub fn version() -> Version {
    let debian = std::env::var_os("DESKTOPSTREAM_DOCKER_DEBIAN").is_some();
    if debian { Version::Debian } else { Version::Current }
}

impl Bed {
    pub fn up(name: &str, version: Version) -> Result<Self> {
        let programs = Programs::build(&[&["operator", "sidecar"]])?;
        let engine = Engine::up(name, version)?;
        let (_root, image) = images::sidecar(&programs)?;
        engine.load(&image)?;
        let dev = engine.outside("/var/lib/gpus/dev");
        fs::create_dir_all(&dev)?;
        gpus::device_file(&dev.join("renderD128"), gpus::TUN)?;
        gpus::device_file(&dev.join("renderD129"), gpus::FUSE)?;
        Ok(Self { engine: RwLock::new(engine), operator: programs.operator, sidecar: SIDECAR })
    }

    /// An engine with a disk of so many MiB, and something in the sidecar's place that streams nothing.
    pub fn with_a_disk_of(mib: u32, name: &str, version: Version) -> Result<Self> {
        let programs = Programs::build(&[&["operator", "sidecar"]])?;
        let engine = Engine::up_with_a_disk_of(mib, name, version)?;
        Ok(Self { engine: RwLock::new(engine), operator: programs.operator, sidecar: PROBE })
    }

    /// The engine.
    pub fn engine(&self) -> RwLockReadGuard<'_, Engine> {
        self.engine.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops the engine and starts it again.
    pub fn without_engine(&self, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
        let engine = || self.engine.write().unwrap_or_else(PoisonError::into_inner);
        engine().stop(Daemon::Dockerd)?;
        let did = meanwhile();
        engine().start(Daemon::Dockerd)?;
        did
    }

    /// A project without files and without an operator yet.
    pub fn project<'b>(&'b self, name: &str) -> Result<Project<'b>> {
        let folder = tempfile::tempdir()?;
        fs::create_dir(folder.path().join("streams"))?;
        Ok(Project { bed: self, name: name.to_owned(), folder, child: None })
    }

    /// `docker` with these words, of which none has a blank in it.
    pub fn docker(&self, words: &str) -> Result<String> {
        self.engine().docker(&words.split(' ').collect::<Vec<_>>())
    }

    pub fn inspect(&self, container: &str) -> Result<Value> {
        let said: Value = serde_json::from_str(&self.engine().docker(&["inspect", container])?)?;
        Ok(said[0].clone())
    }

    /// The ID of a container: it is a new one when this changes.
    pub fn id(&self, container: &str) -> Result<String> {
        let id = self.inspect(container)?["Id"].as_str().map(str::to_owned);
        id.with_context(|| format!("{container} has an ID"))
    }

    /// Takes away all containers: desktops go on when their operator has ended.
    pub fn clear(&self) -> Result<()> {
        let all = self.docker("ps --all --quiet")?;
        let all: Vec<&str> = all.lines().collect();
        if !all.is_empty() {
            self.engine().docker(&[&["rm", "--force", "--volumes"], &all[..]].concat())?;
        }
        Ok(())
    }

    /// Names of containers, networks and volumes that begin so, sorted.
    pub fn things(&self, prefix: &str) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for words in
            ["ps --all --format={{.Names}}", "network ls --format={{.Name}}", "volume ls --format={{.Name}}"]
        {
            all.extend(self.docker(words)?.lines().map(str::to_owned).filter(|it| it.starts_with(prefix)));
        }
        all.sort();
        Ok(all)
    }
}

/// A project: a folder of files, a state folder, and its operator.
pub struct Project<'b> {
    bed: &'b Bed,
    pub name: String,
    folder: TempDir,
    child: Option<Child>,
}

impl Project<'_> {
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("streams").join(format!("{name}.yaml"))
    }

    /// Writes a stream's file, whole at once as editors do.
    pub fn write(&self, name: &str, spec: &Value) -> Result<()> {
        self.write_object(name, &stream(name, spec))
    }

    pub fn write_object(&self, name: &str, object: &Value) -> Result<()> {
        let next = self.folder.path().join("next");
        fs::write(&next, serde_json::to_vec(object)?)?;
        Ok(fs::rename(next, self.file(name))?)
    }

    /// An operator's command line, in the engine's network.
    pub fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = self.bed.engine().inside(&self.bed.operator.display().to_string())?;
        command.arg("docker").args(words).args(["--project", &self.name]);
        command.arg("--state").arg(self.folder.path().join("state")).env("RUST_LOG", "operator=debug");
        Ok(command)
    }

    fn run(&self, more: &[&str]) -> Result<Command> {
        let mut command =
            self.command(&["--sidecar-image", self.bed.sidecar, "--poll=1s", "--gpu", &gpu()])?;
        command.arg("--dir").arg(self.folder.path().join("streams")).args(more);
        command.args(["--host-agent", "unix:/nowhere/host-agent.sock"]);
        Ok(command)
    }

    /// Starts its operator.
    pub fn start(&mut self, more: &[&str]) -> Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_file())?;
        let mut command = self.run(more)?;
        self.child = Some(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?);
        Ok(())
    }

    /// Ends its operator as a machine that loses its power would.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        signal_children(&child, rustix::process::Signal::KILL)?;
        child.wait()?;
        Ok(())
    }

    /// Ends its operator, as Ctrl-C would.
    pub fn end(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        signal_children(&child, rustix::process::Signal::TERM)?;
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                child.kill()?;
                bail!("the operator does not end at SIGTERM");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// `--once`, which goes well: its log.
    pub fn once_well(&self, more: &[&str]) -> Result<String> {
        let (went, log) = self.once(more)?;
        ensure!(went, "--once {more:?} failed:\n{log}");
        Ok(log)
    }

    /// `--once`: exit code and log.
    pub fn once(&self, more: &[&str]) -> Result<(bool, String)> {
        let mut command = self.run(more)?;
        let output = command.arg("--once").stdin(Stdio::null()).output()?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("operator.log")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// What a subcommand prints.
    pub fn says(&self, words: &[&str]) -> Result<String> {
        let output = self.command(words)?.stdin(Stdio::null()).output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "operator docker {}: {stderr}", words.join(" "));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A stream's status.
    pub fn status(&self, stream: &str) -> Result<Value> {
        let all: Value = serde_json::from_str(&self.says(&["status", stream, "--json"])?)?;
        Ok(all[0]["status"].clone())
    }

    /// A condition of a stream's: its reason, its message.
    pub fn reason(&self, stream: &str, condition: &str) -> Result<(String, String)> {
        let status = self.status(stream)?;
        let all = status["conditions"].as_array().cloned().unwrap_or_default();
        let found = all.iter().find(|it| it["type"] == condition).context("no such condition yet")?;
        let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        Ok((text("reason"), text("message")))
    }

    /// Waits for a reason of a condition; its message.
    pub fn await_reason(&self, stream: &str, condition: &str, reason: &str) -> Result<String> {
        self.eventually(&format!("{stream}: {condition} {reason}"), || {
            let (is, message) = self.reason(stream, condition)?;
            ensure!(is == reason, "{is}: {message}");
            Ok(message)
        })
    }

    pub fn await_phase(&self, stream: &str, phase: &str) -> Result<Value> {
        self.eventually(&format!("{stream}: {phase}"), || {
            let status = self.status(stream)?;
            ensure!(status["phase"] == phase, "{status}");
            Ok(status)
        })
    }

    /// Asks until it is so.
    pub fn eventually<T>(&self, what: &str, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match ask() {
                Ok(found) => return Ok(found),
                Err(error) if Instant::now() > deadline => {
                    let log = self.log();
                    let tail: Vec<&str> = log.lines().rev().take(30).collect();
                    let tail: Vec<&str> = tail.into_iter().rev().collect();
                    bail!("{what}: not in time: {error:#}\n{}", tail.join("\n"));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(300)),
            }
        }
    }
}

impl Drop for Project<'_> {
    fn drop(&mut self) {
        // What doesn't end by itself ends with the engine.
        let _ = self.end();
    }
}

/// The child is nsenter, and ends with its own.
fn signal_children(child: &Child, signal: rustix::process::Signal) -> Result<()> {
    for pid in children_of(child.id()) {
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).context("a process")?;
        rustix::process::kill_process(pid, signal)?;
    }
    Ok(())
}

fn gpu() -> String {
    format!("{GPU}:{}", gpus::GROUP)
}

/// A stream as an object.
pub fn stream(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "desktopstream.dev/v1alpha1", "kind": "DesktopStream",
        "metadata": {"name": name}, "spec": spec,
    })
}

/// A desktop that waits, and a small picture of the sidecar's own.
pub fn pattern() -> Value {
    json!({
        "desktop": {"image": PROBE, "args": ["wait"]},
        "gpu": {"count": 0},
        "capture": {"source": "TestPattern", "width": 320, "height": 240, "maxFramerate": 5},
        "encode": {"where": "Sidecar", "bitrate": 300},
    })
}

/// The same with `changes`.
pub fn with(changes: &Value) -> Value {
    let mut spec = pattern();
    merge(&mut spec, changes);
    spec
}
