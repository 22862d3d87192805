//! From nothing to a cluster that waits for streams.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cluster::product::host_agent::HostAgent;
use cluster::product::{Bed, PATIENCE, SYSTEM, images};
use cluster::{Cluster, Config};
use e2e::Desktop;
use lab::{Vm, VmConfig};
use serde_json::json;
use tempfile::TempDir;

use crate::pieces::{go_on, say};

/// What to put up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its name among this user's clusters and VMs.
    pub name: String,
    /// How many VMs.
    pub vms: u8,
    /// The desktops that they have images of.
    pub desktops: Vec<Desktop>,
}

/// All of it; ends with this.
pub struct Topology {
    /// VMs, by the number of their node. Declared first: they end before what they depend on.
    pub vms: Vec<(u8, Vm)>,
    /// The host-agent named `default`.
    pub host_agent: Option<HostAgent>,
    /// The cluster.
    pub bed: Bed,
    /// What VMs boot with.
    payload: TempDir,
    disks: Vec<String>,
    programs: e2e::Programs,
    name: String,
}

impl Topology {
    /// Puts it up.
    pub fn up(options: &Options) -> Result<Self> {
        let begin = Instant::now();
        let programs = e2e::Programs::build()?;
        let ours = images::Programs::build(&[&["operator"], &["sidecar", "host-agent"]])?;
        let cluster = Cluster::up(&Config::new(&options.name))?;
        let payload = tempfile::tempdir()?;
        for program in std::fs::read_dir(programs.payload())? {
            let program = program?;
            std::fs::copy(program.path(), payload.path().join(program.file_name()))?;
        }
        let disks = crate::images::add(payload.path(), &cluster, &options.desktops, &ours)?;
        images::import(&cluster, &ours)?;
        let mut this = Self {
            vms: Vec::new(),
            host_agent: None,
            bed: Bed::of(cluster, ours)?,
            payload,
            disks,
            programs,
            name: options.name.clone(),
        };
        go_on()?;
        this.install(&[])?;
        for number in 2..2 + options.vms {
            go_on()?;
            this.add_vm(number)?;
        }
        go_on()?;
        this.start_host_agent()?;
        this.bed.cluster.apply(&host_agent().to_string())?;
        say(&format!("the topology is up after {:.0} s", begin.elapsed().as_secs_f64()));
        Ok(this)
    }

    /// Installs the chart, or installs it again with other values.
    pub fn install(&self, more: &[&str]) -> Result<()> {
        let chart = lab::repository().join("charts/desktopstream").display().to_string();
        let (operator, tag) = images::OPERATOR.rsplit_once(':').context("a tag")?;
        let sets = [
            format!("image.repository={operator},image.tag={tag},image.pullPolicy=Never"),
            format!("sidecar.image={},sidecar.pullPolicy=Never", images::SIDECAR),
            "node.reachEvery=2s,operator.poll=3s".to_owned(),
            // An emulated node is no place for what needs no GPU.
            "operator.nodeSelector.kubernetes\\.io/hostname=n1".to_owned(),
        ];
        let mut words =
            vec!["upgrade", "--install", "desktopstream", &chart, "-n", SYSTEM, "--create-namespace"];
        words.extend(["--wait", "--timeout=300s"]);
        words.extend(sets.iter().flat_map(|set| ["--set", set.as_str()]));
        words.extend(more);
        self.bed.cluster.helm(&words).with_context(|| self.bed.logs())?;
        self.bed.installed()
    }

    /// Boots a VM and makes it the node of that number.
    pub fn add_vm(&mut self, number: u8) -> Result<()> {
        let network = self.bed.cluster.cable(number)?;
        let disks: Vec<&str> = self.disks.iter().map(String::as_str).collect();
        let name = format!("{}-{}", self.name, cluster::vm::name(number));
        let mut config = VmConfig::new(&name, &disks);
        config.ports = 0;
        config.network = Some(network);
        config.payload = Some(self.payload.path().to_owned());
        let link = self.bed.cluster.folder()?.join("link.sock");
        config.tap = Some(e2e::rig::tap(&self.programs, &name, &link));
        let vm = Vm::boot(config)?;
        let begin = Instant::now();
        self.bed.cluster.join(number, &vm)?;
        say(&format!("{} is a node after {:.0} s more", vm.config().name, begin.elapsed().as_secs_f64()));
        self.vms.push((number, vm));
        let node = cluster::vm::name(number);
        self.bed.eventually(&format!("{node} offers its GPU"), || {
            let found = self.bed.get(&["node", &node])?;
            let shares = &found["status"]["allocatable"]["desktopstream.dev/dri-virtio"];
            ensure!(shares.is_string(), "{}", found["status"]["allocatable"]);
            Ok(())
        })
    }

    /// Starts the host-agent, at the gateway of all nodes.
    pub fn start_host_agent(&mut self) -> Result<()> {
        self.host_agent = Some(HostAgent::start(&self.bed, "default")?);
        Ok(())
    }

    /// Waits until a stream is ready; how long that took.
    pub fn ready(&self, namespace: &str, name: &str, limit: Duration) -> Result<Duration> {
        let begin = Instant::now();
        let stream = format!("desktopstream/{name}");
        let limit = limit.max(PATIENCE);
        self.bed
            .cluster
            .wait(namespace, &stream, "condition=Ready", limit)
            .with_context(|| format!("{}\n{}", self.bed.logs(), self.stream_logs(namespace, name)))?;
        Ok(begin.elapsed())
    }

    /// What the host-agent says of itself.
    pub fn host_agent_status(&self) -> Result<serde_json::Value> {
        self.host_agent.as_ref().context("no host-agent runs")?.status()
    }

    /// What a stream's containers wrote last.
    pub fn stream_logs(&self, namespace: &str, name: &str) -> String {
        let pod = format!("{name}-desktop");
        let words = ["-n", namespace, "logs", &pod, "--all-containers", "--prefix", "--tail=30"];
        self.bed.cluster.try_kubectl(&words).map(|it| it.stdout + &it.stderr).unwrap_or_default()
    }
}

fn host_agent() -> serde_json::Value {
    json!({
        "apiVersion": "desktopstream.dev/v1alpha1", "kind": "HostAgent", "metadata": {"name": "default"},
        "spec": {"capacity": 16},
    })
}
