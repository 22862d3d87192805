//! From nothing to ready nodes. What takes long on its own (the apiserver's start) is left to itself while the nodes load
//! their first images.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{Cluster, Config, run as run_command};
use crate::forward::Forward;
use crate::image::{Image, PAUSE, PROBE};
use crate::machine::{self, Machine};
use crate::node::{CONTAINERD_SOCKET, Node};
use crate::pki::Pki;
use crate::state::{Kind, State};
use crate::tools::Tools;
use crate::{addresses, cgroup, control_plane, pki, say};

/// Long, for busy machines: the limit is for what hangs.
const PATIENCE: Duration = Duration::from_mins(4);
const MOST_NODES: u8 = 8;

pub(super) fn run(config: &Config) -> Result<Cluster> {
    check_the_computer()?;
    ensure!((1..=MOST_NODES).contains(&config.nodes), "a cluster has 1 to {MOST_NODES} nodes");
    let tools = Tools::build()?;
    let started = Instant::now();
    let mut steps = Steps::default();
    let state = State::create(Kind::Cluster, &config.name, config.nodes)?;
    let folder = state.folder()?;
    let mut up = Unfinished { state, holders: Vec::new(), done: false };

    let hub = up.machine("hub")?;
    let mut nodes = Vec::new();
    machine::bridge(&hub)?;
    for number in 1..=config.nodes {
        cgroup::create(&up.state.cgroup(number))?;
        let node = up.machine(&format!("n{number}"))?;
        machine::connect(&hub, &node, number)?;
        nodes.push(node);
    }
    let pki = Pki::create(&folder.join("pki"))?;
    pki.admin()?;
    steps.done("machines");

    let kubeconfig = folder.join("kubeconfig");
    let api = Forward::inward(hub.network()?, (addresses::HUB, addresses::API_PORT).into())?;
    let server = format!("https://{}", api.address());
    pki::admin_kubeconfig(&folder.join("pki"), &server, &kubeconfig)?;
    // From here on it is a cluster, whose end is its handle's.
    let mut cluster = up.finish(tools, kubeconfig, api);

    let path = cluster.tools.search_path()?;
    for launch in control_plane::first(&hub, &pki) {
        cluster.daemons.push(launch.start(&path)?);
    }
    let cgroups: Vec<String> = (1..=config.nodes).map(|number| cluster.state.cgroup(number)).collect();
    let nodes: Vec<Node<'_>> = (1..=config.nodes)
        .zip(nodes.iter().zip(&cgroups))
        .map(|(number, (machine, cgroup))| Node { machine, number, cgroup })
        .collect();
    for node in &nodes {
        cluster.daemons.push(node.containerd(&cluster.tools)?.start(&path)?);
    }
    for node in &nodes {
        await_containerd(&mut cluster, node.machine)?;
    }
    steps.done("containerd");
    first_images(&cluster)?;
    steps.done("first images");
    await_that(&mut cluster, "the apiserver", &["get", "--raw", "/readyz"], "ok")?;
    steps.done("apiserver");

    for launch in control_plane::then(&hub, &pki)? {
        cluster.daemons.push(launch.start(&path)?);
    }
    for node in &nodes {
        for launch in node.members(&pki)? {
            cluster.daemons.push(launch.start(&path)?);
        }
    }
    for node in &nodes {
        let ready = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        let name = node.machine.name.as_str();
        await_that(&mut cluster, name, &["get", "node", name, "-o", ready], "True")?;
    }
    steps.done("nodes ready");
    // Else the first pods are refused, in namespaces that have just been made.
    let account = ["get", "serviceaccount", "default", "-n", "default", "-o", "name"];
    await_that(&mut cluster, "the default service account", &account, "serviceaccount/default")?;
    for node in &nodes {
        await_services(&mut cluster, node.machine)?;
    }
    await_dns(&mut cluster, &hub)?;
    steps.done("services and names");
    say!("cluster {} is up after {:.1} s", config.name, started.elapsed().as_secs_f64());
    cluster.steps = steps.done;
    cluster.pki = Some(pki);
    Ok(cluster)
}

/// What is made before there is a [`Cluster`]: ended if that never comes.
struct Unfinished {
    state: State,
    holders: Vec<std::process::Child>,
    done: bool,
}

impl Unfinished {
    fn machine(&mut self, name: &str) -> Result<Machine> {
        let (machine, holder) = Machine::start(name, &self.state.folder()?.join(name))?;
        self.holders.push(holder);
        self.state.machines.push(machine.clone());
        // At once: a process that is killed now must not leave it unknown.
        self.state.save()?;
        Ok(machine)
    }

    fn finish(mut self, tools: Tools, kubeconfig: std::path::PathBuf, api: Forward) -> Cluster {
        self.done = true;
        Cluster {
            state: self.state.clone(),
            tools,
            daemons: Vec::new(),
            holders: std::mem::take(&mut self.holders),
            kubeconfig,
            pki: None,
            _api: api,
            owned: true,
            steps: Vec::new(),
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.done {
            let _ = self.state.end();
            for holder in &mut self.holders {
                let _ = holder.wait();
            }
            let _ = self.state.remove();
        }
    }
}

/// Says what can be said before anything is built or made.
fn check_the_computer() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "a cluster's nodes are namespaces and containers, which only root can make: run it by sudo -E, or as root"
    );
    for (program, package) in
        [("unshare", "util-linux"), ("nsenter", "util-linux"), ("ip", "iproute2"), ("iptables", "iptables")]
    {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
        ensure!(
            folders.into_iter().any(|folder| folder.join(program).is_file()),
            "no {program} on this machine: apt install {package}"
        );
    }
    ensure!(
        fs::read_to_string("/proc/filesystems").is_ok_and(|known| known.contains("overlay")),
        "the kernel has no overlayfs, which containers lie on: modprobe overlay"
    );
    Ok(())
}

fn first_images(cluster: &Cluster) -> Result<()> {
    cluster.import(&Image::of_program(PAUSE, &cluster.tools.program("pause")?))?;
    cluster.import(&Image::of_program(PROBE, &cluster.tools.program("probe")?))
}

fn await_containerd(cluster: &mut Cluster, machine: &Machine) -> Result<()> {
    let ctr = cluster.tools.program("ctr")?;
    await_until(cluster, "containerd", |_| {
        let mut command = machine.command(&ctr);
        let output = run_command(command.args(["--address", CONTAINERD_SOCKET, "version"]), b"")?;
        Ok(if output.success() { None } else { Some(output.stderr) })
    })
}

/// Until kubectl says `wanted`.
fn await_that(cluster: &mut Cluster, what: &str, arguments: &[&str], wanted: &str) -> Result<()> {
    await_until(cluster, what, |cluster| {
        let output = cluster.try_kubectl(&[&["--request-timeout=5s"], arguments].concat())?;
        Ok(if output.success() && output.stdout.trim() == wanted {
            None
        } else {
            Some(output.stdout + &output.stderr)
        })
    })
}

/// Until kube-proxy leads to the apiserver by its Service's address.
fn await_services(cluster: &mut Cluster, machine: &Machine) -> Result<()> {
    let probe = cluster.tools.program("probe")?;
    let url = format!("http://{}:443/", addresses::KUBERNETES);
    await_until(cluster, "the Service kubernetes", |_| {
        let output = run_command(machine.command(&probe).args(["get", &url]), b"")?;
        // That it wants TLS, it tells in the clear.
        Ok(if output.stdout.contains("HTTPS server") { None } else { Some(output.stdout + &output.stderr) })
    })
}

/// Until CoreDNS knows the objects that it makes names of.
fn await_dns(cluster: &mut Cluster, hub: &Machine) -> Result<()> {
    let probe = cluster.tools.program("probe")?;
    let url = format!("http://{}:8181/ready", addresses::HUB);
    await_until(cluster, "CoreDNS", |_| {
        let output = run_command(hub.command(&probe).args(["get", &url]), b"")?;
        Ok(if output.stdout.trim() == "OK" { None } else { Some(output.stdout + &output.stderr) })
    })
}

/// Asks again until there is no objection; an error carries the last one.
fn await_until(
    cluster: &mut Cluster,
    what: &str,
    mut objection: impl FnMut(&Cluster) -> Result<Option<String>>,
) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while let Some(objection) = objection(cluster)? {
        cluster.check_daemons().with_context(|| format!("waiting for {what}"))?;
        if Instant::now() > deadline {
            let folder = cluster.folder()?;
            bail!("{what}: not within {} s: {}\n{}", PATIENCE.as_secs(), objection.trim(), logs_in(&folder));
        }
        sleep(Duration::from_millis(200));
    }
    Ok(())
}

fn logs_in(folder: &Path) -> String {
    format!("the logs are the *.log files in the folders of {}", folder.display())
}

/// Seconds by step.
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
    fn done(&mut self, what: &str) {
        let took = self.since.elapsed();
        say!("{:5.1} s  {what}", took.as_secs_f64());
        self.done.push((what.to_owned(), took));
        self.since = Instant::now();
    }
}
