//! A cluster as tests have it: up, ask, change, down.
//!
//! ```text
//!           up                         detach
//! (nothing) ──▶ Cluster, ends with its handle ──▶ cluster without an owner ──▶ down
//!                │ its process is killed                 ▲ attach │
//!                ▼                                       └────────┘
//!               orphan: the next one that comes up sweeps it away
//! ```

mod bring_up;

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::daemon::{Daemon, Running};
use crate::forward::Forward;
use crate::image::Image;
use crate::machine::Machine;
use crate::pki::Pki;
use crate::state::{Kind, State};
use crate::tools::Tools;
use crate::{addresses, node, pki};

/// What to bring up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name among this user's clusters.
    pub name: String,
    /// How many nodes: `n1`, `n2`, …
    pub nodes: u8,
}

impl Config {
    /// One node.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), nodes: 1 }
    }

    /// Sets the number of nodes.
    #[must_use]
    pub fn nodes(mut self, nodes: u8) -> Self {
        self.nodes = nodes;
        self
    }
}

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit status; none if a signal ended it.
    pub status: Option<i32>,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Output {
    /// Whether it succeeded.
    pub fn success(&self) -> bool {
        self.status == Some(0)
    }

    /// Its stdout, or an error with its stderr.
    pub fn ok(self) -> Result<String> {
        match self.status {
            Some(0) => Ok(self.stdout),
            Some(status) => bail!("it ended with {status}: {}", self.stderr.trim()),
            None => bail!("a signal ended it: {}", self.stderr.trim()),
        }
    }
}

/// A cluster that runs. Ends with this handle if this handle brought it up, unless [`Cluster::detach`]ed.
pub struct Cluster {
    state: State,
    tools: Tools,
    /// Kept for what they tell; empty when another process brought it up.
    daemons: Vec<Running>,
    /// The machines' first processes, to be reaped.
    holders: Vec<Child>,
    kubeconfig: PathBuf,
    /// None when another process brought it up.
    pki: Option<Pki>,
    _api: Forward,
    owned: bool,
    steps: Vec<(String, Duration)>,
}

impl Cluster {
    /// Brings one up; returns when its nodes are ready. The first time it builds Kubernetes, which takes ten minutes.
    pub fn up(config: &Config) -> Result<Self> {
        bring_up::run(config)
    }

    /// A handle on one that runs. Dropping it changes nothing; [`Cluster::down`] ends the cluster.
    pub fn attach(name: &str) -> Result<Self> {
        let Some(state) = State::find(Kind::Cluster, name)? else {
            let running = Self::running()?;
            let running = if running.is_empty() { "none".to_owned() } else { running.join(", ") };
            bail!("no cluster {name} runs (running: {running}); ./x cluster up starts it");
        };
        let kubeconfig = state.folder()?.join(format!("kubeconfig.{}", std::process::id()));
        let api = Self::open_api(&state.machines[0], &state.folder()?, &kubeconfig)?;
        Ok(Self {
            tools: Tools::build()?,
            state,
            daemons: Vec::new(),
            holders: Vec::new(),
            kubeconfig,
            pki: None,
            _api: api,
            owned: false,
            steps: Vec::new(),
        })
    }

    /// The names of all that run.
    pub fn running() -> Result<Vec<String>> {
        Ok(State::all(Kind::Cluster)?.into_iter().map(|state| state.name).collect())
    }

    fn open_api(hub: &Machine, folder: &Path, kubeconfig: &Path) -> Result<Forward> {
        let forward = Forward::inward(hub.network()?, (addresses::HUB, addresses::API_PORT).into())?;
        let server = format!("https://{}", forward.address());
        pki::admin_kubeconfig(&folder.join("pki"), &server, kubeconfig)?;
        Ok(forward)
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
        self.end()?;
        self.state.remove()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// Its folder: logs and configuration, one folder in it per machine.
    pub fn folder(&self) -> Result<PathBuf> {
        self.state.folder()
    }

    /// How long each step of bringing it up took.
    pub fn steps(&self) -> &[(String, Duration)] {
        &self.steps
    }

    /// The administrator's, for programs on this computer; good for as long as this handle lives.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The programs, for those that aren't wrapped here.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// A command with this cluster's kubeconfig, and `kubectl` and `helm` in its `PATH`.
    pub fn command(&self, program: &str) -> Result<Command> {
        let file = self.tools.program(program).unwrap_or_else(|_| program.into());
        let mut command = Command::new(file);
        let home = self.folder()?.join("home");
        fs::create_dir_all(&home)?;
        command.env("KUBECONFIG", &self.kubeconfig).env("PATH", self.tools.search_path()?);
        // What others of the user's clusters left in caches and settings is no business of a test's.
        command.env("HOME", &home);
        for name in ["XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
            command.env_remove(name);
        }
        Ok(command)
    }

    /// `kubectl` with these arguments: its stdout, or an error.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.try_kubectl(arguments)?;
        output.ok().with_context(|| format!("kubectl {}", arguments.join(" ")))
    }

    /// `kubectl`, which may well fail.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<Output> {
        run(self.command("kubectl")?.args(arguments), b"")
    }

    /// `helm` with these arguments: its stdout, or an error.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        let output = run(self.command("helm")?.args(arguments), b"")?;
        output.ok().with_context(|| format!("helm {}", arguments.join(" ")))
    }

    /// `kubectl apply` of these documents.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        run(self.command("kubectl")?.args(["apply", "-f", "-"]), yaml.as_bytes())?
            .ok()
            .context("kubectl apply")
    }

    /// Waits until an object has a condition, as `kubectl wait` names it: `condition=Ready`, `delete`, `jsonpath=…`. An error
    /// carries what the object, and its events, say.
    pub fn wait(&self, namespace: &str, object: &str, condition: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).as_secs().max(1);
            let (condition, timeout) = (format!("--for={condition}"), format!("--timeout={left}s"));
            let output = self.try_kubectl(&["wait", "-n", namespace, object, &condition, &timeout])?;
            if output.success() {
                return Ok(());
            }
            // What isn't there yet is an error to kubectl, at once.
            if Instant::now() >= deadline || !output.stderr.contains("not found") {
                let described = self.try_kubectl(&["describe", "-n", namespace, object])?;
                bail!("{object}: {}\n{}{}", output.stderr.trim(), described.stdout, described.stderr);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// What a container of a pod wrote.
    pub fn logs(&self, namespace: &str, pod: &str, container: &str) -> Result<String> {
        self.kubectl(&["logs", "-n", namespace, pod, "-c", container])
    }

    /// Runs a command in a container of a pod.
    pub fn exec(&self, namespace: &str, pod: &str, container: &str, words: &[&str]) -> Result<Output> {
        let mut arguments = vec!["exec", "-n", namespace, pod, "-c", container, "--"];
        arguments.extend(words);
        self.try_kubectl(&arguments)
    }

    /// Gives an image to all nodes. Pods use it with `imagePullPolicy: Never`.
    pub fn import(&self, image: &Image) -> Result<()> {
        let archive = self.folder()?.join("import.tar");
        image.write(&archive)?;
        for machine in self.nodes() {
            node::import(machine, &self.tools, &archive, image.reference())?;
        }
        Ok(fs::remove_file(archive)?)
    }

    /// Where a node's folder, such as `/var/lib/kubelet/device-plugins`, is outside of it: what is under `/var/lib`,
    /// `/var/log` and `/run` is each node's own.
    pub fn in_node(&self, number: u8, path: &str) -> Result<PathBuf> {
        Ok(self.node(number)?.outside(path))
    }

    /// A command on a node: in its network, its mounts and its processes, as root.
    pub fn on_node(&self, number: u8, program: &str) -> Result<Command> {
        let mut command = self.node(number)?.command(program);
        command.env("PATH", self.tools.search_path()?);
        Ok(command)
    }

    /// A port of this computer's loopback that leads to an address in the cluster: a pod's, a Service's.
    pub fn forward(&self, to: SocketAddr) -> Result<Forward> {
        // The hub has no kube-proxy; a node knows Services and pods.
        Forward::inward(self.node(1)?.network()?, to)
    }

    /// An address in the cluster that leads to one of this computer's, such as a webhook's that runs beside the test.
    pub fn expose(&self, port: u16, to: SocketAddr) -> Result<Forward> {
        Forward::outward(self.state.machines[0].network()?, (addresses::HUB, port).into(), to)
    }

    /// Stops a daemon, as an operator of the machine would.
    pub fn stop(&mut self, daemon: Daemon) -> Result<()> {
        self.running_daemon(daemon)?.stop()
    }

    /// Starts a daemon that was stopped.
    pub fn start(&mut self, daemon: Daemon) -> Result<()> {
        self.running_daemon(daemon)?.start_again()
    }

    /// What a daemon wrote so far.
    pub fn daemon_log(&mut self, daemon: Daemon) -> Result<String> {
        let log = self.running_daemon(daemon)?.log();
        Ok(String::from_utf8_lossy(&fs::read(log)?).into_owned())
    }

    fn running_daemon(&mut self, daemon: Daemon) -> Result<&mut Running> {
        let found = self.daemons.iter_mut().find(|running| running.daemon() == daemon);
        found.with_context(|| {
            format!("{daemon:?} is not this process's: the one that brought the cluster up has it")
        })
    }

    pub(crate) fn hub(&self) -> &Machine {
        &self.state.machines[0]
    }

    pub(crate) fn pki(&self) -> Result<&Pki> {
        self.pki.as_ref().context("only the process that brought the cluster up can add nodes")
    }

    fn nodes(&self) -> &[Machine] {
        &self.state.machines[1..]
    }

    fn node(&self, number: u8) -> Result<&Machine> {
        let found = number.checked_sub(1).and_then(|index| self.nodes().get(usize::from(index)));
        found.with_context(|| format!("no node n{number}: there are {}", self.state.nodes))
    }

    fn check_daemons(&mut self) -> Result<()> {
        self.daemons.iter_mut().try_for_each(Running::check)
    }

    fn end(&mut self) -> Result<()> {
        let ended = self.state.end();
        self.daemons.iter_mut().for_each(Running::reap);
        for holder in &mut self.holders {
            let _ = holder.wait();
        }
        ended
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.owned {
            if let Err(error) = self.end() {
                crate::say!("ending cluster {}: {error:#}", self.name());
            }
            // The logs of a cluster that a failed test leaves are worth more than their room.
            if !std::thread::panicking() {
                let _ = self.state.remove();
            }
        } else if self.daemons.is_empty() {
            let _ = fs::remove_file(&self.kubeconfig);
        }
    }
}

/// Runs it to the end with that input.
pub fn run(command: &mut Command, input: &[u8]) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.with_context(|| format!("starting {name}"))?;
    let mut stdin = child.stdin.take().context("it has a stdin")?;
    // Who is given input reads all of it before it says much.
    let written = stdin.write_all(input);
    drop(stdin);
    let output = child.wait_with_output()?;
    ensure!(written.is_ok() || !output.status.success(), "{name} didn't read its input");
    Ok(Output {
        status: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
