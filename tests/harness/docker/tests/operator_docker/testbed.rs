//! An engine with the sidecar's image, and projects with their operators.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use cluster::machine::children_of;
use cluster::product::gpus;
use cluster::product::images::{self, Programs, SIDECAR};
use cluster::product::pods::merge;
use cluster::suite::Fixture;
use engine::engine::PROBE;
use engine::{Engine, Version};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Limit of each wait. Generous: it bounds conditions that never come, not slow machines.
pub const TIMEOUT: Duration = Duration::from_mins(3);
/// Interval between two questions.
const RETRY_INTERVAL: Duration = Duration::from_millis(300);
/// The simulated GPU that operators offer: it opens with its group's permission.
pub const GPU: &str = "/var/lib/gpus/dev/renderD128";
/// Folder of the simulated device files.
pub const DEV: &str = "/var/lib/gpus/dev";

/// An engine with the sidecar's image and two simulated GPUs.
pub struct Testbed {
    pub engine: Engine,
    operator: PathBuf,
    sidecar: &'static str,
}

impl Fixture for Testbed {}

impl Testbed {
    pub fn up(name: &str, version: Version) -> Result<Self> {
        let programs = Programs::build(&[&["operator", "sidecar"]])?;
        let engine = Engine::up(name, version)?;
        let (_root, image) = images::sidecar(&programs)?;
        engine.load(&image)?;
        let dev = engine.outside(DEV);
        fs::create_dir_all(&dev)?;
        gpus::device_file(&dev.join("renderD128"), gpus::TUN)?;
        gpus::device_file(&dev.join("renderD129"), gpus::FUSE)?;
        Ok(Self { engine, operator: programs.operator, sidecar: SIDECAR })
    }

    /// An engine with a disk of `mib` MiB. The probe, which does not stream, stands in for the sidecar.
    pub fn with_disk(name: &str, version: Version, mib: u32) -> Result<Self> {
        let programs = Programs::build(&[&["operator", "sidecar"]])?;
        let engine = Engine::up_with_disk(name, version, mib)?;
        Ok(Self { engine, operator: programs.operator, sidecar: PROBE })
    }

    /// A project without files, whose operator is not running.
    pub fn project<'b>(&'b self, name: &str) -> Result<Project<'b>> {
        let folder = tempfile::tempdir()?;
        fs::create_dir(folder.path().join("streams"))?;
        Ok(Project { bed: self, name: name.to_owned(), folder, operator: None, log_start: 0 })
    }

    /// Runs `docker` with the arguments of a line without quoting; returns its stdout.
    pub fn docker(&self, line: &str) -> Result<String> {
        self.engine.docker(&line.split(' ').collect::<Vec<_>>())
    }

    pub fn inspect(&self, container: &str) -> Result<Value> {
        let inspected: Value = serde_json::from_str(&self.engine.docker(&["inspect", container])?)?;
        Ok(inspected[0].clone())
    }

    /// ID of a container, which changes when the container is replaced.
    pub fn id(&self, container: &str) -> Result<String> {
        let id = self.inspect(container)?["Id"].as_str().map(str::to_owned);
        id.with_context(|| format!("{container} has no ID"))
    }

    /// Sorted names of the containers, networks and volumes with this prefix, without the mark of a running operator.
    pub fn objects(&self, prefix: &str) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for list in
            ["ps --all --format={{.Names}}", "network ls --format={{.Name}}", "volume ls --format={{.Name}}"]
        {
            let names = self.docker(list)?;
            let names = names.lines().filter(|it| it.starts_with(prefix) && !it.ends_with("_operator"));
            all.extend(names.map(str::to_owned));
        }
        all.sort();
        Ok(all)
    }

    /// Removes all containers, networks and volumes with this prefix.
    fn remove_objects(&self, prefix: &str) -> Result<()> {
        for (list, remove) in [
            ("ps --all --format={{.Names}}", &["rm", "--force", "--volumes"][..]),
            ("network ls --format={{.Name}}", &["network", "rm"]),
            ("volume ls --format={{.Name}}", &["volume", "rm", "--force"]),
        ] {
            let names = self.docker(list)?;
            let names: Vec<&str> = names.lines().filter(|it| it.starts_with(prefix)).collect();
            if !names.is_empty() {
                self.engine.docker(&[remove, &names].concat())?;
            }
        }
        Ok(())
    }
}

/// A project: a folder of stream files, a state folder, and an operator. On drop the operator is ended and the project's
/// containers, networks and volumes are removed.
pub struct Project<'b> {
    bed: &'b Testbed,
    pub name: String,
    folder: TempDir,
    operator: Option<Child>,
    /// Length of the log when the running operator was started.
    log_start: usize,
}

impl Project<'_> {
    /// Path of a stream's file.
    pub fn file(&self, stream: &str) -> PathBuf {
        self.streams().join(format!("{stream}.yaml"))
    }

    fn streams(&self) -> PathBuf {
        self.folder.path().join("streams")
    }

    /// Path of the state folder.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Name of a stream's desktop container.
    pub fn desktop(&self, stream: &str) -> String {
        format!("{}_{stream}_desktop", self.name)
    }

    /// Name of a stream's sidecar container.
    pub fn sidecar(&self, stream: &str) -> String {
        format!("{}_{stream}_sidecar", self.name)
    }

    /// Writes a stream's file.
    pub fn write(&self, stream: &str, spec: &Value) -> Result<()> {
        self.write_object(stream, &self::stream(stream, spec))
    }

    /// Writes a file atomically, as editors do.
    pub fn write_object(&self, name: &str, object: &Value) -> Result<()> {
        let next = self.folder.path().join("next");
        fs::write(&next, serde_json::to_vec(object)?)?;
        Ok(fs::rename(next, self.file(name))?)
    }

    /// Waits until the running operator has read all files; then removes a stream's file. An operator owns the streams that it
    /// has read: it removes them when their file is removed.
    pub fn remove_file(&self, stream: &str) -> Result<()> {
        let files = fs::read_dir(self.streams())?.count();
        self.eventually("the running operator has read all files", || {
            let log = self.log();
            let log = log.get(self.log_start..).context("the log was truncated")?;
            let mut read = passes(log).into_iter().map(|pass| pass.streams);
            ensure!(read.any(|streams| streams >= files), "fewer than {files} streams");
            Ok(())
        })?;
        Ok(fs::remove_file(self.file(stream))?)
    }

    /// `operator docker` with these arguments, in the engine's network.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.bed.engine.inside(&self.bed.operator.display().to_string())?;
        command.arg("docker").args(arguments).args(["--project", &self.name]);
        command.arg("--state").arg(self.state()).env("RUST_LOG", "operator=debug");
        Ok(command)
    }

    fn run(&self, arguments: &[&str]) -> Result<Command> {
        let gpu = format!("{GPU}:{}", gpus::GROUP);
        let mut command = self.command(&["--sidecar-image", self.bed.sidecar, "--poll=1s", "--gpu", &gpu])?;
        command.arg("--dir").arg(self.streams()).args(arguments);
        command.args(["--host-agent", "unix:/nowhere/host-agent.sock"]);
        Ok(command)
    }

    /// Starts the operator.
    pub fn start(&mut self, arguments: &[&str]) -> Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_file())?;
        self.log_start = usize::try_from(log.metadata()?.len())?;
        let mut command = self.run(arguments)?;
        self.operator = Some(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?);
        Ok(())
    }

    /// Starts the operator, and waits until a stream has this spec and streams.
    pub fn start_with(&mut self, stream: &str, spec: &Value) -> Result<Value> {
        self.write(stream, spec)?;
        self.start(&[])?;
        self.await_phase(stream, "Streaming")
    }

    /// Ends the operator with SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut operator) = self.operator.take() else { return Ok(()) };
        signal_children(&operator, Signal::KILL)?;
        operator.wait()?;
        Ok(())
    }

    /// Ends the operator with SIGTERM.
    pub fn end(&mut self) -> Result<()> {
        let Some(mut operator) = self.operator.take() else { return Ok(()) };
        signal_children(&operator, Signal::TERM)?;
        let deadline = Instant::now() + TIMEOUT;
        while operator.try_wait()?.is_none() {
            if Instant::now() > deadline {
                operator.kill()?;
                bail!("the operator does not end on SIGTERM");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Runs the operator with `--once`; returns its log.
    ///
    /// # Errors
    /// If the operator fails.
    pub fn once(&self, arguments: &[&str]) -> Result<String> {
        let (succeeded, log) = self.try_once(arguments)?;
        ensure!(succeeded, "--once {arguments:?} failed:\n{log}");
        Ok(log)
    }

    /// Runs the operator with `--once`; returns whether it succeeded, and its log.
    pub fn try_once(&self, arguments: &[&str]) -> Result<(bool, String)> {
        let output = self.run(arguments)?.arg("--once").stdin(Stdio::null()).output()?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("operator.log")
    }

    /// Log of all operators that were started.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Passes of all operators that were started.
    pub fn passes(&self) -> Vec<Pass> {
        passes(&self.log())
    }

    /// Runs a subcommand of `operator docker`; returns its stdout.
    pub fn print(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments)?.stdin(Stdio::null()).output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "operator docker {}: {stderr}", arguments.join(" "));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs a subcommand of `operator docker` that fails; returns its stderr.
    ///
    /// # Errors
    /// If it succeeds.
    pub fn fails(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments)?.stdin(Stdio::null()).output()?;
        ensure!(!output.status.success(), "operator docker {} succeeded", arguments.join(" "));
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Status of a stream.
    pub fn status(&self, stream: &str) -> Result<Value> {
        let all: Value = serde_json::from_str(&self.print(&["status", stream, "--json"])?)?;
        Ok(all[0]["status"].clone())
    }

    /// Waits until a stream's condition has this reason; returns the condition's message.
    pub fn await_reason(&self, stream: &str, condition: &str, reason: &str) -> Result<String> {
        self.eventually(&format!("{stream}: {condition} with reason {reason}"), || {
            let status = self.status(stream)?;
            let all = status["conditions"].as_array().cloned().unwrap_or_default();
            let found = all.iter().find(|it| it["type"] == condition).context("the condition is missing")?;
            ensure!(found["reason"] == reason, "{found}");
            Ok(found["message"].as_str().unwrap_or_default().to_owned())
        })
    }

    /// Waits until a stream has this phase; returns its status.
    pub fn await_phase(&self, stream: &str, phase: &str) -> Result<Value> {
        self.eventually(&format!("{stream}: phase {phase}"), || {
            let status = self.status(stream)?;
            ensure!(status["phase"] == phase, "{status}");
            Ok(status)
        })
    }

    /// Waits until exactly these objects of the project exist.
    pub fn await_objects(&self, names: &[&str]) -> Result<()> {
        self.eventually(&format!("the project's objects are {names:?}"), || {
            let objects = self.bed.objects(&format!("{}_", self.name))?;
            ensure!(objects == names, "{objects:?}");
            Ok(())
        })
    }

    /// Repeats a question until it succeeds, for at most [`TIMEOUT`].
    ///
    /// # Errors
    /// The last error, with the end of the operator's log.
    pub fn eventually<T>(&self, condition: &str, mut question: impl FnMut() -> Result<T>) -> Result<T> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            match question() {
                Ok(answer) => return Ok(answer),
                Err(error) if Instant::now() > deadline => {
                    let log = self.log();
                    let lines: Vec<&str> = log.lines().collect();
                    let tail = lines[lines.len().saturating_sub(30)..].join("\n");
                    bail!("{condition}: not within {} s: {error:#}\n{tail}", TIMEOUT.as_secs());
                }
                Err(_) => std::thread::sleep(RETRY_INTERVAL),
            }
        }
    }
}

impl Drop for Project<'_> {
    fn drop(&mut self) {
        // What cannot be ended or removed ends with the engine.
        let _ = self.end();
        let _ = self.bed.remove_objects(&format!("{}_", self.name));
    }
}

/// A pass of the operator over all streams, from its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    /// Number of streams in the files.
    pub streams: usize,
    /// Number of calls of the Engine's API.
    pub calls: usize,
    /// True if the pass changed something.
    pub changed: bool,
}

/// The passes in a log, by their fields `streams`, `calls` and `changed`.
pub fn passes(log: &str) -> Vec<Pass> {
    let pass = |line: &str| {
        let field = |name: &str| {
            let (_, rest) = line.split_once(&format!(" {name}="))?;
            rest.split_whitespace().next()
        };
        Some(Pass {
            streams: field("streams")?.parse().ok()?,
            calls: field("calls")?.parse().ok()?,
            changed: field("changed")?.parse().ok()?,
        })
    };
    log.lines().filter_map(pass).collect()
}

/// Signals the operator. The child is nsenter, which ends with it.
fn signal_children(child: &Child, signal: Signal) -> Result<()> {
    for pid in children_of(child.id()) {
        cluster::product::pods::signal(pid, signal)?;
    }
    Ok(())
}

/// A stream as an object.
pub fn stream(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "desktopstream.dev/v1alpha1", "kind": "DesktopStream",
        "metadata": {"name": name}, "spec": spec,
    })
}

/// Spec of a desktop that draws nothing, with a small test pattern for a picture. `changes` are merged in.
pub fn pattern(changes: &Value) -> Value {
    let mut spec = json!({
        "desktop": {"image": PROBE, "args": ["wait"]},
        "gpu": {"count": 0},
        "capture": {"source": "TestPattern", "width": 320, "height": 240, "maxFramerate": 5},
        "encode": {"placement": "Sidecar", "bitrateKbps": 300},
    });
    merge(&mut spec, changes);
    spec
}
