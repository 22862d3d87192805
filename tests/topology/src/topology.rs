//! Brings a topology up.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use cluster::product::host_agent::{DEFAULT, HostAgent, Place};
use cluster::product::{TIMEOUT, Testbed, chart, images};
use cluster::{Cluster, Config};
use contract::HostAgentStatus;
use e2e::Desktop;
use lab::{Vm, VmConfig};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{interrupt, progress};

/// Number of the first VM's node: `n1` is a machine of the cluster.
const FIRST_VM: u8 = 2;

/// Options of a new topology.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name, unique per user among clusters and among VMs.
    pub name: String,
    /// Number of VMs.
    pub vms: u8,
    /// Number of host-agents, 1 or 2. VM `n` uses host-agent `n % host_agents`.
    pub host_agents: usize,
    /// Desktops whose images the VMs have.
    pub desktops: Vec<Desktop>,
}

/// Names and listening addresses of the host-agents.
pub const HOST_AGENTS: [(&str, Place); 2] =
    [("default", DEFAULT), ("second", Place { port: 15938, link: "second.sock" })];

/// A running topology. Ends on drop.
pub struct Topology {
    /// VMs by the number of their node. Declared first, as they have to end before the host-agents and the cluster.
    pub vms: Vec<(u8, Vm)>,
    /// The first of [`HOST_AGENTS`].
    pub host_agents: Vec<HostAgent>,
    /// The cluster.
    pub bed: Testbed,
    payload: TempDir,
    disks: Vec<String>,
    programs: e2e::Programs,
    name: String,
    host_agent_count: usize,
}

impl Topology {
    /// Creates a topology; returns when all VMs offer their GPUs.
    pub fn up(options: &Options) -> Result<Self> {
        let begin = Instant::now();
        let programs = e2e::Programs::build()?;
        let on_host = images::Programs::build(&[&["operator"], &["sidecar", "host-agent"]])?;
        let cluster = Cluster::up(&Config::new(&options.name))?;
        let payload = tempfile::tempdir()?;
        for program in std::fs::read_dir(programs.payload())? {
            let program = program?;
            std::fs::copy(program.path(), payload.path().join(program.file_name()))?;
        }
        let disks = crate::images::add(payload.path(), &cluster, &options.desktops, &on_host)?;
        images::import(&cluster, &on_host)?;
        let mut this = Self {
            vms: Vec::new(),
            host_agents: Vec::new(),
            bed: Testbed::new(cluster, on_host)?,
            payload,
            disks,
            programs,
            name: options.name.clone(),
            host_agent_count: options.host_agents.clamp(1, HOST_AGENTS.len()),
        };
        interrupt::check()?;
        // The operator becomes ready while the VMs boot.
        let vms = std::thread::scope(|scope| {
            let install = scope.spawn(|| this.install(&[]));
            let numbers = FIRST_VM..FIRST_VM + options.vms;
            let vms = numbers.map(|number| interrupt::check().and_then(|()| this.boot(number)));
            let vms = vms.collect::<Result<Vec<_>>>();
            install.join().map_err(|_| anyhow!("installing the chart panicked"))??;
            vms
        })?;
        this.vms = vms;
        interrupt::check()?;
        for (name, place) in &HOST_AGENTS[..this.host_agent_count] {
            this.host_agents.push(HostAgent::start_at(&this.bed, name, *place)?);
            let fingerprint = HostAgent::fingerprint(&this.bed)?;
            this.bed.cluster.apply(&host_agent(name, *place, &fingerprint).to_string())?;
        }
        for (number, _) in &this.vms {
            this.await_gpu(*number)?;
        }
        progress(&format!("the topology is up after {:.0} s", begin.elapsed().as_secs_f64()));
        Ok(this)
    }

    /// Installs or upgrades the chart with these arguments of helm.
    pub fn install(&self, arguments: &[&str]) -> Result<()> {
        // An emulated node is too slow for pods that need no GPU.
        let on_n1 = ["--create-namespace", "--set", "operator.nodeSelector.kubernetes\\.io/hostname=n1"];
        chart::helm(&self.bed, &["upgrade", "--install"], &[&on_n1[..], arguments].concat())?;
        self.bed.await_installation()
    }

    /// Boots a VM as node `number`; returns when the node offers its GPU.
    pub fn add_vm(&mut self, number: u8) -> Result<()> {
        let vm = self.boot(number)?;
        self.vms.push(vm);
        self.await_gpu(number)
    }

    fn boot(&self, number: u8) -> Result<(u8, Vm)> {
        let network = self.bed.cluster.connect_vm(number)?;
        let disks: Vec<&str> = self.disks.iter().map(String::as_str).collect();
        let name = format!("{}-{}", self.name, cluster::vm::name(number));
        let mut config = VmConfig::new(&name, &disks);
        config.ports = 0;
        config.network = Some(network);
        config.payload = Some(self.payload.path().to_owned());
        let (_, place) = HOST_AGENTS[usize::from(number) % self.host_agent_count];
        let link = self.bed.cluster.folder()?.join(place.link);
        config.tap = Some(e2e::rig::tap(&self.programs, &name, &link));
        let vm = Vm::boot(config)?;
        let begin = Instant::now();
        self.bed.cluster.join(number, &vm)?;
        progress(&format!(
            "{} is a node after {:.0} s more",
            vm.config().name,
            begin.elapsed().as_secs_f64()
        ));
        Ok((number, vm))
    }

    fn await_gpu(&self, number: u8) -> Result<()> {
        let node = cluster::vm::name(number);
        self.bed.eventually(&format!("{node} offers its GPU"), || {
            let found = self.bed.get(&["node", &node])?;
            let shares = &found["status"]["allocatable"]["desktopstream.dev/dri-virtio"];
            ensure!(shares.is_string(), "{}", found["status"]["allocatable"]);
            Ok(())
        })
    }

    /// Waits until a stream is ready; returns the time that it took.
    pub fn await_ready(&self, namespace: &str, name: &str, limit: Duration) -> Result<Duration> {
        let begin = Instant::now();
        let stream = format!("desktopstream/{name}");
        self.bed
            .cluster
            .wait(namespace, &stream, "condition=Ready", limit.max(TIMEOUT))
            .with_context(|| format!("{}\n{}", self.bed.logs(), self.stream_logs(namespace, name)))?;
        Ok(begin.elapsed())
    }

    /// The first host-agent's `/status`.
    pub fn host_agent_status(&self) -> Result<HostAgentStatus> {
        self.host_agents.first().context("no host-agent is running")?.status()
    }

    /// Status of a stream in `default`.
    pub fn status(&self, name: &str) -> Result<Value> {
        Ok(self.bed.get(&["desktopstream", name])?["status"].clone())
    }

    /// The end of the logs of a stream's containers.
    pub fn stream_logs(&self, namespace: &str, name: &str) -> String {
        let pod = format!("{name}-desktop");
        let arguments = ["-n", namespace, "logs", &pod, "--all-containers", "--prefix", "--tail=30"];
        self.bed.cluster.try_kubectl(&arguments).map(|it| it.stdout + &it.stderr).unwrap_or_default()
    }
}

fn host_agent(name: &str, place: Place, fingerprint: &str) -> Value {
    let endpoint = format!("tls://gateway:{}", place.port);
    json!({
        "apiVersion": "desktopstream.dev/v1alpha1", "kind": "HostAgent", "metadata": {"name": name},
        "spec": {"capacity": 16, "endpoints": [endpoint], "fingerprint": fingerprint},
    })
}
