//! From `kubectl apply` by resource ID to a browser, on a node that is a VM: the path of a frame, isolation of tenants, several
//! streams on one GPU, and faults with their recovery times.

use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cluster::product::condition;
use cluster::product::images::SIDECAR;
use cluster::suite::{Fixture, Suite};
use cluster::tests;
use contract::FramePath;
use e2e::browser;
use e2e::checks::only_refusals;
use e2e::{Desktop, wait};
use serde_json::{Value, json};
use topology::{ATTACKER, Options, Topology, Viewers, stream};

const SIZE: (u32, u32) = (640, 360);
/// Limit of each wait; desktops start on an emulated processor.
const TIMEOUT: Duration = Duration::from_secs(480);
/// The stream that all tests use.
const FIRST: &str = "first";
/// Bytes that a frame may send across the VM's boundary.
const MAX_BYTES_PER_FRAME: u64 = 128;
/// Name of the first VM's node.
const VM: &str = "vm2";
/// Reference of a newer sidecar image.
const NEXT_SIDECAR: &str = "docker.io/local/desktopstream-sidecar:next";

fn main() -> ExitCode {
    Suite::new()
        .fixture(
            Lab::up,
            tests![
                applied_stream_reaches_the_browser_by_resource_id,
                attacker_in_another_namespace_gets_refusals_only,
                four_streams_on_one_vm_get_fair_shares,
                cut_network_to_the_host_agent_is_reported_and_recovers,
                restarted_kubelet_keeps_pods_and_starts_new_ones,
                upgraded_chart_keeps_the_pod_and_new_pods_get_the_new_sidecar,
                drained_node_is_reported_and_recovers,
                killed_vm_is_reported_and_recovers,
            ],
        )
        .main()
}

/// A topology of one VM with a stream.
struct Lab {
    topology: Topology,
    /// Rows of the table of faults: fault, state, seconds.
    faults: Mutex<Vec<String>>,
}

impl Fixture for Lab {
    fn check(&self) -> Result<()> {
        let left: Vec<String> =
            self.topology.bed.streams()?.into_iter().filter(|name| name != FIRST).collect();
        ensure!(left.is_empty(), "the test left streams behind: {}", left.join(", "));
        Ok(())
    }

    fn restore(&mut self) -> Result<()> {
        let bed = &self.topology.bed;
        let left: Vec<String> = bed.streams()?.into_iter().filter(|name| name != FIRST).collect();
        bed.delete_streams(&left.iter().map(String::as_str).collect::<Vec<_>>())?;
        bed.cluster.kubectl(&["delete", "namespace", "other", "--ignore-not-found", "--wait=false"])?;
        if self.topology.vms.is_empty() {
            self.topology.add_vm(2)?;
            self.tag_next_sidecar()?;
        }
        // Each may have been undone already.
        let _ = self.drop_packets("-D");
        self.topology.bed.cluster.kubectl(&["uncordon", VM])?;
        self.await_resource_id()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.write_faults() {
            eprintln!("writing bench/topology.md: {error:#}");
        }
    }
}

impl Lab {
    fn up() -> Result<Self> {
        browser::install()?;
        let options =
            Options { name: "topology".to_owned(), vms: 1, host_agents: 1, desktops: vec![Desktop::Pattern] };
        let lab = Self { topology: Topology::up(&options)?, faults: Mutex::default() };
        lab.apply(FIRST)?;
        let took = lab.topology.await_ready("default", FIRST, TIMEOUT)?;
        println!("         ready {:.1} s after kubectl apply", took.as_secs_f64());
        Ok(lab)
    }

    fn apply(&self, name: &str) -> Result<()> {
        let stream = stream("default", name, Desktop::Pattern, SIZE);
        self.topology.bed.cluster.apply(&stream.to_string()).map(drop)
    }

    /// Runs a command in the VM.
    fn in_vm(&self, command: &str) -> Result<String> {
        let (_, vm) = self.topology.vms.first().context("the VM is not running")?;
        vm.guest().check(command)
    }

    /// UID of the first stream's pod.
    fn uid(&self) -> Result<Value> {
        Ok(self.topology.bed.get(&["pod", "first-desktop"])?["metadata"]["uid"].clone())
    }

    /// Waits until the first stream is ready with the frame path `ResourceId`, in any pod.
    fn await_resource_id(&self) -> Result<()> {
        let bed = &self.topology.bed;
        bed.eventually_within(TIMEOUT, "the stream uses resource IDs", || {
            let found = bed.get(&["desktopstream", FIRST])?;
            ensure!(condition(&found, "Ready")["status"] == "True", "{}", found["status"]);
            ensure!(found["status"]["capture"]["framePath"] == "ResourceId", "{}", found["status"]);
            Ok(())
        })
    }

    /// Adds or deletes firewall rules in the VM that drop packets to the host-agent.
    fn drop_packets(&self, verb: &str) -> Result<String> {
        let rule = |chain: &str| format!("iptables {verb} {chain} -p tcp --dport 15937 -j DROP");
        self.in_vm(&format!("{}; {}", rule("FORWARD"), rule("OUTPUT")))
    }

    /// Tags the sidecar's image in the VM as the newer one. A VM that booted again does not have the tag.
    fn tag_next_sidecar(&self) -> Result<()> {
        let ctr = "/payload/node/ctr -a /run/containerd/containerd.sock -n k8s.io";
        self.in_vm(&format!("{ctr} images tag --force {SIDECAR} {NEXT_SIDECAR}")).map(drop)
    }

    /// Adds a row to the table of faults.
    fn note(&self, fault: &str, state: &str, since: Instant) {
        let row = format!("| {fault} | {state} | {:.1} s |", since.elapsed().as_secs_f64());
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).push(row);
    }

    /// Writes the table of faults in the format of docs/bench/topology.md.
    fn write_faults(&self) -> Result<()> {
        let rows = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if rows.is_empty() {
            return Ok(());
        }
        let table = format!("| fault | state | after |\n|---|---|---|\n{}\n", rows.join("\n"));
        println!("{table}");
        let folder = lab::repository().join("bench");
        std::fs::create_dir_all(&folder)?;
        Ok(std::fs::write(folder.join("topology.md"), table)?)
    }
}

/// Watches a stream in a browser until it drew `frames` different frames; checks their order.
fn watch(viewers: &Viewers, frames: u32) -> Result<()> {
    browser::Watch::start(&viewers.url(), &viewers.token, frames, 1, 0)?.finish().map(drop)
}

fn applied_stream_reaches_the_browser_by_resource_id(lab: &Lab) -> Result<()> {
    let topology = &lab.topology;
    lab.await_resource_id()?;
    let status = topology.status(FIRST)?;
    ensure!(status["hostAgentName"] == "default" && status["nodeName"] == VM, "{status}");
    // The average includes the handshake, which some frames have to outweigh.
    let stats = topology.bed.eventually("a frame costs what is promised", || {
        let stats = topology.status(FIRST)?["stats"].clone();
        let bytes = stats["bytesPerFrameToHost"].as_u64().context("no statistics yet")?;
        ensure!((1..=MAX_BYTES_PER_FRAME).contains(&bytes), "{stats}");
        Ok(stats)
    })?;
    println!("         {stats}");
    watch(&Viewers::of(&topology.bed, "default", FIRST)?, 20)
}

/// The attacker has its own namespace, stream, token and render node. It takes the place of its own sidecar, which is stopped so
/// that it does not take the session back.
fn attacker_in_another_namespace_gets_refusals_only(lab: &Lab) -> Result<()> {
    const SIDECAR_PROCESS: &str = "'[s]idecar run --name=other/own'";
    let topology = &lab.topology;
    let bed = &topology.bed;
    bed.cluster.kubectl(&["create", "namespace", "other"])?;
    bed.cluster.apply(&stream("other", "own", Desktop::Pattern, SIZE).to_string())?;
    topology.await_ready("other", "own", TIMEOUT)?;
    lab.in_vm(&format!("kill -STOP $(pgrep -f {SIDECAR_PROCESS})"))?;
    bed.cluster.apply(&attacker().to_string())?;
    let ended = bed.cluster.wait("other", "pod/attacker", "jsonpath={.status.phase}=Succeeded", TIMEOUT);
    let report = bed.cluster.logs("other", "attacker", "attacker")?;
    ended.with_context(|| report.clone())?;
    println!("         attacker: {}", report.trim());
    let last = report.lines().last().unwrap_or_default();
    only_refusals(&serde_json::from_str(last).with_context(|| report.clone())?)?;
    let status = topology.host_agent_status()?;
    let stats = &status.vms.first().context("no VM is connected")?.stats;
    ensure!(stats.faults == 0 && !stats.disabled, "{stats:?}");
    ensure!(stats.answers.get("not_bound").is_some_and(|count| *count > 0), "not counted: {stats:?}");
    // A stopped process does not act on SIGTERM.
    lab.in_vm(&format!("pkill -CONT -f {SIDECAR_PROCESS} || true"))?;
    bed.cluster.kubectl(&["delete", "namespace", "other", "--wait=false"])?;
    // The victim's stream is undisturbed.
    let viewers = Viewers::of(bed, "default", FIRST)?;
    watch(&viewers, 10)?;
    let path = viewers.status()?.frame_path;
    ensure!(path == Some(FramePath::ResourceId), "the victim's frame path is {path:?}");
    Ok(())
}

fn attacker() -> Value {
    let from = |key: &str| json!({"secretKeyRef": {"name": "own-host-agent", "key": key}});
    let (width, height) = (SIZE.0.to_string(), SIZE.1.to_string());
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "attacker", "namespace": "other"},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "supplementalGroups": [105]},
            "containers": [{
                "name": "attacker", "image": ATTACKER, "imagePullPolicy": "Never",
                "args": ["all", "--upstream", "$(ENDPOINT)", "--width", width, "--height", height, "--resources", "100"],
                "env": [
                    {"name": "ENDPOINT", "valueFrom": from("endpoint")},
                    {"name": "ATTACKER_TOKEN", "valueFrom": from("token")},
                ],
                "resources": {"limits": {"desktopstream.dev/dri-virtio": "1"}},
            }],
        },
    })
}

/// Until the slowest stream has encoded enough frames, the fastest may encode at most four times as many.
fn four_streams_on_one_vm_get_fair_shares(lab: &Lab) -> Result<()> {
    const LEAST: u64 = 20;
    const MAX_RATIO: u64 = 4;
    let topology = &lab.topology;
    let all = [FIRST, "second", "third", "fourth"];
    for name in &all[1..] {
        lab.apply(name)?;
    }
    for name in all {
        topology.await_ready("default", name, TIMEOUT)?;
    }
    let viewers = all.map(|name| Viewers::of(&topology.bed, "default", name));
    let viewers = viewers.into_iter().collect::<Result<Vec<_>>>()?;
    let encoded =
        || -> Result<Vec<u64>> { viewers.iter().map(|it| Ok(it.status()?.frames.encoded)).collect() };
    let (before, begin) = (encoded()?, Instant::now());
    let frames = wait::until(&format!("{LEAST} frames of each stream"), TIMEOUT, || {
        let frames: Vec<u64> = encoded()?.iter().zip(&before).map(|(after, before)| after - before).collect();
        ensure!(frames.iter().all(|it| *it >= LEAST), "{frames:?}");
        Ok(frames)
    })?;
    let fps: Vec<f64> = frames.iter().map(|it| *it as f64 / begin.elapsed().as_secs_f64()).collect();
    let status = topology.host_agent_status()?;
    println!("         four streams: {fps:.1?} fps; the tap: {:?}", status.vms.first().map(|vm| &vm.stats));
    let (least, most) = (frames.iter().min(), frames.iter().max());
    ensure!(least.zip(most).is_some_and(|(least, most)| least * MAX_RATIO > *most), "unfair: {frames:?}");
    for stream in &viewers {
        let path = stream.status()?.frame_path;
        ensure!(path == Some(FramePath::ResourceId), "{path:?}");
    }
    topology.bed.delete_streams(&all[1..])
}

fn cut_network_to_the_host_agent_is_reported_and_recovers(lab: &Lab) -> Result<()> {
    let bed = &lab.topology.bed;
    lab.await_resource_id()?;
    let begin = Instant::now();
    lab.drop_packets("-I")?;
    println!("         HostAgentGone: {}", bed.await_reason(FIRST, "Paired", "HostAgentGone")?);
    lab.note("network to the host-agent cut", "Paired is False: HostAgentGone", begin);
    println!("         NotZeroCopy: {}", bed.await_reason(FIRST, "Streaming", "NotZeroCopy")?);
    lab.note("", "Streaming is False: NotZeroCopy; the sidecar encodes", begin);
    let begin = Instant::now();
    lab.drop_packets("-D")?;
    lab.await_resource_id()?;
    lab.note("network restored", "streams by resource ID", begin);
    Ok(())
}

fn restarted_kubelet_keeps_pods_and_starts_new_ones(lab: &Lab) -> Result<()> {
    lab.await_resource_id()?;
    let (before, begin) = (lab.uid()?, Instant::now());
    lab.in_vm("/run/node/node stop kubelet && /run/node/node start kubelet")?;
    lab.apply("after")?;
    lab.topology.await_ready("default", "after", TIMEOUT)?;
    ensure!(lab.uid()? == before, "the pod was replaced");
    lab.note("kubelet restarted", "a new stream streams; the first one's pod runs on", begin);
    lab.topology.bed.delete_streams(&["after"])
}

fn upgraded_chart_keeps_the_pod_and_new_pods_get_the_new_sidecar(lab: &Lab) -> Result<()> {
    let bed = &lab.topology.bed;
    lab.await_resource_id()?;
    lab.tag_next_sidecar()?;
    let (before, begin) = (lab.uid()?, Instant::now());
    lab.topology.install(&["--set", &format!("operator.replicas=2,sidecar.image={NEXT_SIDECAR}")])?;
    lab.await_resource_id()?;
    ensure!(lab.uid()? == before, "the pod was replaced");
    lab.note("chart upgraded", "streams on in the same pod", begin);
    let begin = Instant::now();
    bed.cluster.kubectl(&["delete", "pod", "first-desktop"])?;
    bed.eventually_within(TIMEOUT, "another pod with the new sidecar", || {
        let pod = bed.get(&["pod", "first-desktop"])?;
        let image = &pod["spec"]["initContainers"][0]["image"];
        ensure!(pod["metadata"]["uid"] != before && *image == NEXT_SIDECAR, "{image}");
        Ok(())
    })?;
    lab.await_resource_id()?;
    lab.note(
        "pod deleted after the sidecar's image was upgraded",
        "the new sidecar streams by resource ID",
        begin,
    );
    // A VM that boots in a later test has the first image only.
    lab.topology.install(&[])
}

fn drained_node_is_reported_and_recovers(lab: &Lab) -> Result<()> {
    let bed = &lab.topology.bed;
    lab.await_resource_id()?;
    let begin = Instant::now();
    let options = ["--ignore-daemonsets", "--force", "--delete-emptydir-data", "--timeout=180s"];
    bed.cluster.kubectl(&[&["drain", VM], &options[..]].concat())?;
    println!("         drained: {}", bed.await_reason(FIRST, "DevicesReady", "Unschedulable")?);
    lab.note("node drained", "DevicesReady is False: Unschedulable", begin);
    let begin = Instant::now();
    bed.cluster.kubectl(&["uncordon", VM])?;
    lab.await_resource_id()?;
    lab.note("node uncordoned", "streams by resource ID", begin);
    Ok(())
}

fn killed_vm_is_reported_and_recovers(lab: &mut Lab) -> Result<()> {
    lab.await_resource_id()?;
    let begin = Instant::now();
    lab.topology.vms.clear();
    let bed = &lab.topology.bed;
    bed.eventually_within(TIMEOUT, "the stream is not ready", || {
        let found = bed.get(&["desktopstream", FIRST])?;
        let ready = condition(&found, "Ready");
        ensure!(ready["status"] != "True", "{}", found["status"]);
        println!("         VM killed: {}: {}", ready["reason"], ready["message"]);
        Ok(())
    })?;
    lab.note("VM killed", "Ready is False", begin);
    let begin = Instant::now();
    // The VM has a new disk: its kubelet has no record of devices, and may start the old pod without its device.
    lab.topology.add_vm(2)?;
    // The old pod may have the newer image, which the new disk lacks.
    lab.tag_next_sidecar()?;
    lab.await_resource_id()?;
    lab.note("VM booted again", "streams by resource ID", begin);
    Ok(())
}
