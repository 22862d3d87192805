//! Creates a cluster. The apiserver, which takes long to start, starts while the nodes import their first images.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{Cluster, Config, run as run_command};
use crate::image::{Image, PAUSE, PROBE};
use crate::instance::{Instance, Kind};
use crate::machine::{self, Machine};
use crate::node::{CONTAINERD_SOCKET, Node};
use crate::pki::Pki;
use crate::tools::Tools;
use crate::{addresses, cgroup, control_plane, progress};

/// Limit of each step. Generous: it bounds steps that hang, not slow machines.
const STEP_TIMEOUT: Duration = Duration::from_mins(4);
const MAX_NODES: u8 = 8;

pub(super) fn run(config: &Config) -> Result<Cluster> {
    check_host()?;
    ensure!(
        (1..=MAX_NODES).contains(&config.nodes),
        "the number of nodes must be between 1 and {MAX_NODES}, not {}",
        config.nodes
    );
    let tools = Tools::build()?;
    let started = Instant::now();
    let mut steps = Steps::default();
    let mut instance = Instance::create(Kind::Cluster, &config.name, config.nodes)?;
    let folder = instance.folder()?;

    let hub = instance.start_machine("hub")?;
    let mut nodes = Vec::new();
    machine::bridge(&hub)?;
    for number in 1..=config.nodes {
        cgroup::create(&instance.cgroup(number))?;
        let node = instance.start_machine(&format!("n{number}"))?;
        machine::connect(&hub, &node, number)?;
        nodes.push(node);
    }
    let pki = Pki::create(&folder.join("pki"))?;
    pki.admin()?;
    steps.done("machines");

    let kubeconfig = folder.join("kubeconfig");
    let api = Cluster::open_api(&instance, &kubeconfig)?;
    let mut cluster =
        Cluster { instance, tools, kubeconfig, _kubeconfig: None, pki: None, _api: api, steps: Vec::new() };

    let path = cluster.tools.search_path()?;
    for launch in control_plane::servers(&hub, &pki) {
        cluster.start_daemon(launch, &path)?;
    }
    let cgroups: Vec<String> = (1..=config.nodes).map(|number| cluster.cgroup(number)).collect();
    let nodes: Vec<Node<'_>> = (1..=config.nodes)
        .zip(nodes.iter().zip(&cgroups))
        .map(|(number, (machine, cgroup))| Node { machine, number, cgroup })
        .collect();
    for node in &nodes {
        let launch = node.containerd(&cluster.tools)?;
        cluster.start_daemon(launch, &path)?;
    }
    for node in &nodes {
        await_containerd(&cluster, node.machine)?;
    }
    steps.done("containerd");
    import_first_images(&cluster)?;
    steps.done("first images");
    await_kubectl(&cluster, "the apiserver", &["get", "--raw", "/readyz"], "ok")?;
    steps.done("apiserver");

    for launch in control_plane::clients(&hub, &pki)? {
        cluster.start_daemon(launch, &path)?;
    }
    for node in &nodes {
        for launch in node.kubernetes(&pki)? {
            cluster.start_daemon(launch, &path)?;
        }
    }
    for node in &nodes {
        await_node(&cluster, &node.machine.name)?;
    }
    steps.done("nodes ready");
    // Pods are refused in a namespace without its default service account.
    let account = ["get", "serviceaccount", "default", "-n", "default", "-o", "name"];
    await_kubectl(&cluster, "the default service account", &account, "serviceaccount/default")?;
    for node in &nodes {
        await_services(&cluster, node.machine)?;
    }
    await_dns(&cluster, &hub)?;
    steps.done("services and names");
    progress!("cluster {} is up after {:.1} s", config.name, started.elapsed().as_secs_f64());
    cluster.mark_complete();
    cluster.steps = steps.done;
    cluster.pki = Some(pki);
    Ok(cluster)
}

/// Checks the host's requirements before anything is built or created.
fn check_host() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "creating namespaces and containers needs root: run the command as root, or with sudo -E"
    );
    for (program, package) in
        [("unshare", "util-linux"), ("nsenter", "util-linux"), ("ip", "iproute2"), ("iptables", "iptables")]
    {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
        ensure!(
            folders.into_iter().any(|folder| folder.join(program).is_file()),
            "{program} is not installed: apt install {package}"
        );
    }
    ensure!(
        fs::read_to_string("/proc/filesystems").is_ok_and(|known| known.contains("overlay")),
        "the kernel has no overlayfs, which containers need: modprobe overlay"
    );
    Ok(())
}

fn import_first_images(cluster: &Cluster) -> Result<()> {
    cluster.import(&Image::of_program(PAUSE, &cluster.tools.program("pause")?))?;
    cluster.import(&Image::of_program(PROBE, &cluster.tools.program("probe")?))
}

fn await_containerd(cluster: &Cluster, machine: &Machine) -> Result<()> {
    let ctr = cluster.tools.program("ctr")?;
    await_step(cluster, "containerd", |_| {
        let mut command = machine.command(&ctr);
        let output = run_command(command.args(["--address", CONTAINERD_SOCKET, "version"]), b"")?;
        Ok(if output.success() { None } else { Some(output.stderr) })
    })
}

/// Waits until the node is ready and its kubelet holds a Lease.
fn await_node(cluster: &Cluster, name: &str) -> Result<()> {
    let ready = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
    await_kubectl(cluster, name, &["get", "node", name, "-o", ready], "True")?;
    let lease = ["get", "lease", "-n", "kube-node-lease", name, "-o", "jsonpath={.spec.holderIdentity}"];
    await_kubectl(cluster, &format!("the Lease of {name}"), &lease, name)
}

/// Waits until kubectl prints `wanted`.
fn await_kubectl(cluster: &Cluster, subject: &str, arguments: &[&str], wanted: &str) -> Result<()> {
    await_step(cluster, subject, |cluster| {
        let output = cluster.try_kubectl(&[&["--request-timeout=5s"], arguments].concat())?;
        Ok(if output.success() && output.stdout.trim() == wanted {
            None
        } else {
            Some(output.stdout + &output.stderr)
        })
    })
}

/// Waits until kube-proxy routes the apiserver's Service.
fn await_services(cluster: &Cluster, machine: &Machine) -> Result<()> {
    let probe = cluster.tools.program("probe")?;
    let url = format!("http://{}:443/", addresses::KUBERNETES);
    await_step(cluster, "the Service kubernetes", |_| {
        let output = run_command(machine.command(&probe).args(["get", &url]), b"")?;
        // A TLS server answers plain HTTP with a plain message.
        Ok(if output.stdout.contains("HTTPS server") { None } else { Some(output.stdout + &output.stderr) })
    })
}

/// Waits until CoreDNS has read the objects that it serves names of.
fn await_dns(cluster: &Cluster, hub: &Machine) -> Result<()> {
    let probe = cluster.tools.program("probe")?;
    let url = format!("http://{}:8181/ready", addresses::HUB);
    await_step(cluster, "CoreDNS", |_| {
        let output = run_command(hub.command(&probe).args(["get", &url]), b"")?;
        Ok(if output.stdout.trim() == "OK" { None } else { Some(output.stdout + &output.stderr) })
    })
}

/// Calls `obstacle` until it returns `None`. An error carries the last obstacle.
fn await_step(
    cluster: &Cluster,
    subject: &str,
    mut obstacle: impl FnMut(&Cluster) -> Result<Option<String>>,
) -> Result<()> {
    let deadline = Instant::now() + STEP_TIMEOUT;
    while let Some(obstacle) = obstacle(cluster)? {
        cluster.check_daemons().with_context(|| format!("waiting for {subject}"))?;
        if Instant::now() > deadline {
            let limit = STEP_TIMEOUT.as_secs();
            let logs = logs_in(&cluster.folder()?);
            bail!("{subject}: not ready after {limit} s: {}\n{logs}", obstacle.trim());
        }
        sleep(super::RETRY_INTERVAL);
    }
    Ok(())
}

fn logs_in(folder: &Path) -> String {
    format!("logs: the *.log files in the folders of {}", folder.display())
}

/// Duration of each step.
struct Steps {
    since: Instant,
    done: Vec<(String, Duration)>,
}

impl Default for Steps {
    fn default() -> Self {
        Self { since: Instant::now(), done: Vec::new() }
    }
}

impl Steps {
    fn done(&mut self, step: &str) {
        let took = self.since.elapsed();
        progress!("{:5.1} s  {step}", took.as_secs_f64());
        self.done.push((step.to_owned(), took));
        self.since = Instant::now();
    }
}
