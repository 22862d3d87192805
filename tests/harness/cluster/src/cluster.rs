//! A running cluster: `kubectl`, `helm`, images, nodes and ports.

mod bring_up;

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempPath;

use crate::forward::Forward;
use crate::image::Image;
use crate::instance::{Instance, Kind};
use crate::machine::Machine;
use crate::pki::Pki;
use crate::tools::Tools;
use crate::{addresses, node, pki};

/// Interval between two looks at an object that does not exist yet.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// Options of a new cluster.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name, unique per user.
    pub name: String,
    /// Number of nodes: `n1`, `n2`, … Must be between 1 and 8.
    pub nodes: u8,
}

impl Config {
    /// A cluster of one node.
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

/// Result of a command.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit status; `None` if a signal ended the command.
    pub status: Option<i32>,
    /// Content of stdout.
    pub stdout: String,
    /// Content of stderr.
    pub stderr: String,
}

impl Output {
    /// True if the exit status is 0.
    pub fn success(&self) -> bool {
        self.status == Some(0)
    }

    /// The content of stdout.
    ///
    /// # Errors
    /// If the command failed, with the content of stderr.
    pub fn ok(self) -> Result<String> {
        match self.status {
            Some(0) => Ok(self.stdout),
            Some(status) => bail!("exit status {status}: {}", self.stderr.trim()),
            None => bail!("ended by a signal: {}", self.stderr.trim()),
        }
    }
}

/// A running cluster. See [`Instance`] for its lifetime.
pub struct Cluster {
    instance: Instance,
    tools: Tools,
    kubeconfig: PathBuf,
    /// Removes the kubeconfig of an attached handle.
    _kubeconfig: Option<TempPath>,
    /// `None` if another process created the cluster.
    pki: Option<Pki>,
    _api: Forward,
    steps: Vec<(String, Duration)>,
}

impl Deref for Cluster {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        &self.instance
    }
}

impl DerefMut for Cluster {
    fn deref_mut(&mut self) -> &mut Instance {
        &mut self.instance
    }
}

impl Cluster {
    /// Creates a cluster; returns when its nodes are ready. The first call on a machine builds Kubernetes, which takes ten
    /// minutes on two cores.
    pub fn up(config: &Config) -> Result<Self> {
        bring_up::run(config)
    }

    /// A handle on a running cluster, with a kubeconfig of its own.
    ///
    /// # Errors
    /// If no cluster of that name runs.
    pub fn attach(name: &str) -> Result<Self> {
        let instance = Instance::attach(Kind::Cluster, name)?;
        let folder = instance.folder()?;
        let file = tempfile::Builder::new().prefix("kubeconfig.").tempfile_in(&folder)?.into_temp_path();
        let api = Self::open_api(&instance, &file)?;
        Ok(Self {
            tools: Tools::build()?,
            instance,
            kubeconfig: file.to_path_buf(),
            _kubeconfig: Some(file),
            pki: None,
            _api: api,
            steps: Vec::new(),
        })
    }

    /// Names of all running clusters.
    pub fn running() -> Result<Vec<String>> {
        Instance::running(Kind::Cluster)
    }

    fn open_api(instance: &Instance, kubeconfig: &Path) -> Result<Forward> {
        let hub = &instance.machines()[0];
        let forward = Forward::inward(hub.network()?, (addresses::HUB, addresses::API_PORT).into())?;
        let server = format!("https://{}", forward.address());
        pki::admin_kubeconfig(&instance.folder()?.join("pki"), &server, kubeconfig)?;
        Ok(forward)
    }

    /// Lets the cluster run on after this process.
    pub fn detach(self) -> Result<()> {
        self.instance.detach()
    }

    /// Ends the cluster and removes its folder.
    pub fn down(self) -> Result<()> {
        self.instance.down()
    }

    /// Duration of each step of bringing the cluster up.
    pub fn steps(&self) -> &[(String, Duration)] {
        &self.steps
    }

    /// Kubeconfig of the administrator, for programs on the host. Valid as long as this handle.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The programs that were built for clusters.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// A command with this cluster's kubeconfig, and with `kubectl` and `helm` in its `PATH`.
    pub fn command(&self, program: &str) -> Result<Command> {
        let file = self.tools.program(program).unwrap_or_else(|_| program.into());
        let mut command = Command::new(file);
        let home = self.folder()?.join("home");
        fs::create_dir_all(&home)?;
        command.env("KUBECONFIG", &self.kubeconfig).env("PATH", self.tools.search_path()?);
        // The user's own caches and settings must not influence a test.
        command.env("HOME", &home);
        for name in ["XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
            command.env_remove(name);
        }
        Ok(command)
    }

    /// Runs `kubectl` and returns its stdout.
    ///
    /// # Errors
    /// If `kubectl` fails, with its stderr.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.try_kubectl(arguments)?;
        output.ok().with_context(|| format!("kubectl {}", arguments.join(" ")))
    }

    /// Runs `kubectl`, whose failure is a result and not an error.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<Output> {
        self.kubectl_with_input(arguments, "")
    }

    /// Runs `kubectl` with this text on its stdin.
    pub fn kubectl_with_input(&self, arguments: &[&str], input: &str) -> Result<Output> {
        run(self.command("kubectl")?.args(arguments), input.as_bytes())
    }

    /// Runs `helm` and returns its stdout.
    ///
    /// # Errors
    /// If `helm` fails, with its stderr.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        let output = run(self.command("helm")?.args(arguments), b"")?;
        output.ok().with_context(|| format!("helm {}", arguments.join(" ")))
    }

    /// Runs `kubectl apply` with these documents.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        self.kubectl_with_input(&["apply", "-f", "-"], yaml)?.ok().context("kubectl apply")
    }

    /// Waits until an object satisfies a condition of `kubectl wait`: `condition=Ready`, `delete`, `jsonpath=…`. The object
    /// does not have to exist yet.
    ///
    /// # Errors
    /// After `limit`, with `kubectl describe` of the object.
    pub fn wait(&self, namespace: &str, object: &str, condition: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).as_secs().max(1);
            let (condition, timeout) = (format!("--for={condition}"), format!("--timeout={left}s"));
            let output = self.try_kubectl(&["wait", "-n", namespace, object, &condition, &timeout])?;
            if output.success() {
                return Ok(());
            }
            // kubectl fails at once for an object that does not exist.
            if Instant::now() >= deadline || !output.stderr.contains("not found") {
                let described = self.try_kubectl(&["describe", "-n", namespace, object])?;
                bail!("{object}: {}\n{}{}", output.stderr.trim(), described.stdout, described.stderr);
            }
            std::thread::sleep(RETRY_INTERVAL);
        }
    }

    /// Log of a container of a pod.
    pub fn logs(&self, namespace: &str, pod: &str, container: &str) -> Result<String> {
        self.kubectl(&["logs", "-n", namespace, pod, "-c", container])
    }

    /// Runs a command in a container of a pod.
    pub fn exec(&self, namespace: &str, pod: &str, container: &str, command: &[&str]) -> Result<Output> {
        let mut arguments = vec!["exec", "-n", namespace, pod, "-c", container, "--"];
        arguments.extend(command);
        self.try_kubectl(&arguments)
    }

    /// Imports an image on all nodes, for pods with `imagePullPolicy: Never`.
    pub fn import(&self, image: &Image) -> Result<()> {
        let archive = self.folder()?.join("import.tar");
        image.write(&archive)?;
        for machine in self.nodes() {
            node::import(machine, &self.tools, &archive, image.reference())?;
        }
        Ok(fs::remove_file(archive)?)
    }

    /// Path on the host of a node's own folder, such as `/var/lib/kubelet/device-plugins`. Each node has its own `/var/lib`,
    /// `/var/log` and `/run`.
    pub fn in_node(&self, number: u8, path: &str) -> Result<PathBuf> {
        Ok(self.node(number)?.outside(path))
    }

    /// A command on a node: in its network, mounts and processes, as root.
    pub fn on_node(&self, number: u8, program: &str) -> Result<Command> {
        let mut command = self.node(number)?.command(program);
        command.env("PATH", self.tools.search_path()?);
        Ok(command)
    }

    /// A port of the host's loopback that leads to a pod's or a Service's address.
    pub fn forward(&self, to: SocketAddr) -> Result<Forward> {
        // Through a node, as the hub has no kube-proxy.
        Forward::inward(self.node(1)?.network()?, to)
    }

    /// A port of the hub that leads to an address of the host, for programs that run beside the cluster.
    pub fn expose(&self, port: u16, to: SocketAddr) -> Result<Forward> {
        Forward::outward(self.hub().network()?, (addresses::HUB, port).into(), to)
    }

    pub(crate) fn hub(&self) -> &Machine {
        &self.instance.machines()[0]
    }

    pub(crate) fn pki(&self) -> Result<&Pki> {
        self.pki.as_ref().context("only the process that created the cluster can add nodes")
    }

    fn nodes(&self) -> &[Machine] {
        &self.instance.machines()[1..]
    }

    fn node(&self, number: u8) -> Result<&Machine> {
        let found = number.checked_sub(1).and_then(|index| self.nodes().get(usize::from(index)));
        found.with_context(|| format!("no node n{number}: the cluster has {} nodes", self.nodes().len()))
    }
}

/// Runs a command to its end with this input.
pub fn run(command: &mut Command, input: &[u8]) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.with_context(|| format!("starting {name}"))?;
    let mut stdin = child.stdin.take().context("stdin is a pipe")?;
    // Cannot deadlock: programs that take input read all of it before they write more than a pipe holds.
    let written = stdin.write_all(input);
    drop(stdin);
    let output = child.wait_with_output()?;
    ensure!(written.is_ok() || !output.status.success(), "{name} did not read its input");
    Ok(Output {
        status: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
