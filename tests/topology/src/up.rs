//! From nothing to a cluster that waits for streams.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use cluster::product::host_agent::{HostAgent, Place, USUAL};
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
    /// How many host-agents: VMs take turns with them.
    pub host_agents: usize,
    /// The desktops that they have images of.
    pub desktops: Vec<Desktop>,
}

/// Their names and places.
pub const HOST_AGENTS: [(&str, Place); 2] =
    [("default", USUAL), ("second", Place { port: 15938, link: "second.sock" })];

/// All of it; ends with this.
pub struct Topology {
    /// VMs, by the number of their node. Declared first: they end before what they depend on.
    pub vms: Vec<(u8, Vm)>,
    /// By [`HOST_AGENTS`].
    pub host_agents: Vec<HostAgent>,
    /// The cluster.
    pub bed: Bed,
    /// What VMs boot with.
    payload: TempDir,
    disks: Vec<String>,
    programs: e2e::Programs,
    name: String,
    taps: usize,
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
            host_agents: Vec::new(),
            bed: Bed::of(cluster, ours)?,
            payload,
            disks,
            programs,
            name: options.name.clone(),
            taps: options.host_agents.max(1),
        };
        go_on()?;
        // Helm waits for the operator's pod; an emulated VM is slower still.
        let vms = std::thread::scope(|scope| {
            let install = scope.spawn(|| this.install(&[]));
            let vms = (2..2 + options.vms).map(|number| go_on().and_then(|()| this.boot(number)));
            let vms = vms.collect::<Result<Vec<_>>>();
            install.join().map_err(|_| anyhow!("installing panicked"))??;
            vms
        })?;
        this.vms = vms;
        go_on()?;
        for (name, place) in &HOST_AGENTS[..this.taps] {
            this.host_agents.push(HostAgent::start_at(&this.bed, name, *place)?);
            this.bed.cluster.apply(&host_agent(name, *place).to_string())?;
        }
        for (number, _) in &this.vms {
            this.offers(*number)?;
        }
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

    /// Adds a VM as the node of that number, which offers its GPU.
    pub fn add_vm(&mut self, number: u8) -> Result<()> {
        let vm = self.boot(number)?;
        self.vms.push(vm);
        self.offers(number)
    }

    fn boot(&self, number: u8) -> Result<(u8, Vm)> {
        let network = self.bed.cluster.cable(number)?;
        let disks: Vec<&str> = self.disks.iter().map(String::as_str).collect();
        let name = format!("{}-{}", self.name, cluster::vm::name(number));
        let mut config = VmConfig::new(&name, &disks);
        config.ports = 0;
        config.network = Some(network);
        config.payload = Some(self.payload.path().to_owned());
        let link = self.bed.cluster.folder()?.join(HOST_AGENTS[usize::from(number) % self.taps].1.link);
        config.tap = Some(e2e::rig::tap(&self.programs, &name, &link));
        let vm = Vm::boot(config)?;
        let begin = Instant::now();
        self.bed.cluster.join(number, &vm)?;
        say(&format!("{} is a node after {:.0} s more", vm.config().name, begin.elapsed().as_secs_f64()));
        Ok((number, vm))
    }

    fn offers(&self, number: u8) -> Result<()> {
        let node = cluster::vm::name(number);
        self.bed.eventually(&format!("{node} offers its GPU"), || {
            let found = self.bed.get(&["node", &node])?;
            let shares = &found["status"]["allocatable"]["desktopstream.dev/dri-virtio"];
            ensure!(shares.is_string(), "{}", found["status"]["allocatable"]);
            Ok(())
        })
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

    /// What the first host-agent says of itself.
    pub fn host_agent_status(&self) -> Result<serde_json::Value> {
        self.host_agents.first().context("no host-agent runs")?.status()
    }

    /// The status of a stream in `default`.
    pub fn status(&self, name: &str) -> Result<serde_json::Value> {
        Ok(self.bed.get(&["desktopstream", name])?["status"].clone())
    }

    /// What a stream's containers wrote last.
    pub fn stream_logs(&self, namespace: &str, name: &str) -> String {
        let pod = format!("{name}-desktop");
        let words = ["-n", namespace, "logs", &pod, "--all-containers", "--prefix", "--tail=30"];
        self.bed.cluster.try_kubectl(&words).map(|it| it.stdout + &it.stderr).unwrap_or_default()
    }
}

fn host_agent(name: &str, place: Place) -> serde_json::Value {
    let endpoint = format!("tcp://gateway:{}", place.port);
    json!({
        "apiVersion": "desktopstream.dev/v1alpha1", "kind": "HostAgent", "metadata": {"name": name},
        "spec": {"capacity": 16, "endpoints": [endpoint]},
    })
}
