//! The whole mission in one test: `kubectl apply` → resource ID → browser, on a node that is a VM.
//!
//! One topology for all of it, as it takes minutes to put up under emulation; each part leaves it as it was.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cluster::product::images::SIDECAR;
use cluster::product::{Watch, condition};
use e2e::Desktop;
use e2e::browser::{self, in_order};
use e2e::checks::only_refusals;
use e2e::http::number;
use serde_json::{Value, json};
use topology::pieces::{Viewers, stream};
use topology::{ATTACKER, Options, Topology};

const SIZE: (u32, u32) = (640, 360);
/// For a desktop on an emulated processor.
const PATIENCE: Duration = Duration::from_secs(300);

#[test]
#[ignore = "root, and minutes: brings up a cluster and a VM; run by ./x test topology"]
fn from_kubectl_apply_to_the_browser() -> Result<()> {
    browser::install()?;
    let mut watch = Watch::start();
    let options =
        Options { name: "topology".to_owned(), vms: 1, host_agents: 1, desktops: vec![Desktop::Pattern] };
    let mut it = Topology::up(&options)?;
    watch.lap("up");
    a_desktop_streams_by_resource_id(&it)?;
    watch.lap("a desktop, seen in the browser");
    another_tenant_gets_nothing(&it)?;
    watch.lap("another tenant");
    four_stream_at_once(&it)?;
    watch.lap("four at once");
    what_breaks_heals_or_is_named(&mut it)?;
    watch.lap("what breaks");
    Ok(())
}

fn apply(it: &Topology, name: &str) -> Result<()> {
    it.bed.cluster.apply(&stream("default", name, Desktop::Pattern, SIZE).to_string()).map(drop)
}

fn a_desktop_streams_by_resource_id(it: &Topology) -> Result<()> {
    apply(it, "first")?;
    let took = it.ready("default", "first", PATIENCE)?;
    println!("         streams {:.1} s after kubectl apply", took.as_secs_f64());
    let found = it.status("first")?;
    ensure!(found["capture"]["rung"] == "ResourceId" && found["hostAgent"] == "default", "{found}");
    ensure!(found["node"] == "vm2", "{found}");
    let stats = it.bed.eventually("its numbers", || {
        let stats = it.status("first")?["stats"].clone();
        ensure!(stats["bytesPerFrameToHost"].as_u64().is_some_and(|it| it > 0), "{stats}");
        Ok(stats)
    })?;
    println!("         {stats}");
    ensure!(stats["bytesPerFrameToHost"].as_u64().is_some_and(|bytes| bytes <= 128), "{stats}");
    let viewers = Viewers::of(&it.bed, "default", "first")?;
    let seen = browser::Watch::start(&viewers.url(), &viewers.token, 8, 1, 0)?.finish()?;
    in_order(&seen, 20, 0)
}

/// In a namespace of its own, with its own stream, token and render node: it takes its own sidecar's place.
fn another_tenant_gets_nothing(it: &Topology) -> Result<()> {
    let bed = &it.bed;
    bed.cluster.kubectl(&["create", "namespace", "other"])?;
    bed.cluster.apply(&stream("other", "own", Desktop::Pattern, SIZE).to_string())?;
    it.ready("other", "own", PATIENCE)?;
    // Else its sidecar would take the session back.
    let guest = it.vms[0].1.guest();
    guest.check("kill -STOP $(pgrep -f '[s]idecar run --name=other/own')")?;
    bed.cluster.apply(&attacker().to_string())?;
    let ended = bed.cluster.wait("other", "pod/attacker", "jsonpath={.status.phase}=Succeeded", PATIENCE);
    let out = bed.cluster.logs("other", "attacker", "attacker")?;
    ended.with_context(|| out.clone())?;
    println!("         attacker: {}", out.trim());
    only_refusals(
        &serde_json::from_str(out.lines().last().unwrap_or_default()).with_context(|| out.clone())?,
    )?;
    let stats = it.host_agent_status()?["vms"][0]["stats"].clone();
    ensure!(stats["faults"] == 0 && stats["disabled"] == false, "{stats}");
    ensure!(number(&stats, "/answers/not_bound")? > 0.0, "refusals are not counted: {stats}");
    // Who is stopped can't be told to end, either.
    guest.check("pkill -CONT -f '[s]idecar run --name=other/own' || true")?;
    bed.cluster.kubectl(&["delete", "namespace", "other", "--wait=false"])?;
    // The victim's picture is its own.
    let viewers = Viewers::of(bed, "default", "first")?;
    in_order(&browser::Watch::start(&viewers.url(), &viewers.token, 6, 1, 0)?.finish()?, 10, 0)?;
    ensure!(viewers.status()?["rung"] == "ResourceId", "the victim lost its rung");
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
                "args": ["--upstream", "$(ENDPOINT)", "--width", width, "--height", height, "--resources", "100"],
                "env": [
                    {"name": "ENDPOINT", "valueFrom": from("endpoint")},
                    {"name": "ATTACKER_TOKEN", "valueFrom": from("token")},
                ],
                "resources": {"limits": {"desktopstream.dev/dri-virtio": "1"}},
            }],
        },
    })
}

/// All on one VM; none starves.
fn four_stream_at_once(it: &Topology) -> Result<()> {
    let all = ["first", "second", "third", "fourth"];
    for name in &all[1..] {
        apply(it, name)?;
    }
    for name in all {
        it.ready("default", name, PATIENCE)?;
    }
    let viewers = all.map(|name| Viewers::of(&it.bed, "default", name));
    let viewers = viewers.into_iter().collect::<Result<Vec<_>>>()?;
    let encoded = || -> Result<Vec<f64>> {
        viewers.iter().map(|it| number(&it.status()?, "/frames/encoded")).collect()
    };
    let (before, begin) = (encoded()?, Instant::now());
    std::thread::sleep(Duration::from_secs(10));
    let (after, seconds) = (encoded()?, begin.elapsed().as_secs_f64());
    let fps: Vec<f64> = before.iter().zip(&after).map(|(before, after)| (after - before) / seconds).collect();
    println!("         four at once: {fps:.1?} fps; the tap: {}", it.host_agent_status()?["vms"][0]["stats"]);
    let least = fps.iter().copied().fold(f64::INFINITY, f64::min);
    let most = fps.iter().copied().fold(0.0, f64::max);
    ensure!(least > 1.0 && least * 4.0 > most, "one starves: {fps:?}");
    for stream in &viewers {
        ensure!(stream.status()?["rung"] == "ResourceId", "{}", stream.status()?);
    }
    it.bed.remove(&all[1..])
}

/// Each for real; how long until it streams again, or its condition says why not.
fn what_breaks_heals_or_is_named(it: &mut Topology) -> Result<()> {
    let mut table = Table(Vec::new());
    the_way_to_the_host_is_cut(it, &mut table)?;
    the_kubelet_restarts(it, &mut table)?;
    chart_and_sidecar_are_upgraded(it, &mut table)?;
    the_node_is_drained(it, &mut table)?;
    the_vm_is_killed(it, &mut table)?;
    table.write()
}

/// What happened, and how long it took.
struct Table(Vec<String>);

impl Table {
    /// As docs/bench/topology.md has it, of one run.
    fn write(&self) -> Result<()> {
        let text = format!("| what | becomes | after |\n|---|---|---|\n{}\n", self.0.join("\n"));
        println!("{text}");
        let folder = lab::repository().join("bench");
        std::fs::create_dir_all(&folder)?;
        Ok(std::fs::write(folder.join("topology.md"), text)?)
    }

    fn note(&mut self, what: &str, becomes: &str, since: Instant) {
        self.0.push(format!("| {what} | {becomes} | {:.1} s |", since.elapsed().as_secs_f64()));
    }
}

fn uid(it: &Topology) -> Result<Value> {
    Ok(it.bed.get(&["pod", "first-desktop"])?["metadata"]["uid"].clone())
}

/// Streams by resource ID in the end, though it may take a new pod.
fn streams_again(it: &Topology) -> Result<()> {
    it.bed.eventually_within(PATIENCE, "by resource ID again", || {
        let found = it.bed.get(&["desktopstream", "first"])?;
        ensure!(condition(&found, "Ready")["status"] == "True", "{}", found["status"]);
        ensure!(found["status"]["capture"]["rung"] == "ResourceId", "{}", found["status"]);
        Ok(())
    })
}

fn the_way_to_the_host_is_cut(it: &Topology, table: &mut Table) -> Result<()> {
    let rules = |verb: &str| {
        let rule = |chain: &str| format!("iptables {verb} {chain} -p tcp --dport 15937 -j DROP");
        it.vms[0].1.guest().check(&format!("{}; {}", rule("FORWARD"), rule("OUTPUT")))
    };
    let begin = Instant::now();
    rules("-I")?;
    println!("         HostAgentGone: {}", it.bed.reason("first", "Paired", "HostAgentGone")?);
    table.note("the host-agent's network cut", "Paired is False: HostAgentGone", begin);
    println!("         NotZeroCopy: {}", it.bed.reason("first", "Streaming", "NotZeroCopy")?);
    table.note("", "Streaming is False: NotZeroCopy, as the sidecar encodes", begin);
    let begin = Instant::now();
    rules("-D")?;
    streams_again(it)?;
    table.note("mended", "streams by resource ID", begin);
    Ok(())
}

fn the_kubelet_restarts(it: &Topology, table: &mut Table) -> Result<()> {
    let (before, begin) = (uid(it)?, Instant::now());
    it.vms[0].1.guest().check("/run/node/node stop kubelet; sleep 1; /run/node/node start kubelet")?;
    apply(it, "after")?;
    it.ready("default", "after", PATIENCE)?;
    ensure!(uid(it)? == before, "the pod was replaced");
    table.note("kubelet restarted", "another stream streams, the first one's pod lives on", begin);
    it.bed.remove(&["after"])
}

/// What a newer sidecar's image is called.
const NEXT: &str = "docker.io/local/desktopstream-sidecar:next";

/// Gives the VM that image; one that boots again has forgotten it.
fn roll(it: &Topology) -> Result<()> {
    let ctr = "/payload/node/ctr -a /run/containerd/containerd.sock -n k8s.io";
    it.vms[0].1.guest().check(&format!("{ctr} images tag {SIDECAR} {NEXT}")).map(drop)
}

fn chart_and_sidecar_are_upgraded(it: &Topology, table: &mut Table) -> Result<()> {
    roll(it)?;
    let (before, begin) = (uid(it)?, Instant::now());
    it.install(&["--set", &format!("operator.replicas=2,sidecar.image={NEXT}")])?;
    streams_again(it)?;
    ensure!(uid(it)? == before, "the pod was replaced");
    table.note("chart upgraded", "streams on, in the same pod", begin);
    let begin = Instant::now();
    it.bed.cluster.kubectl(&["delete", "pod", "first-desktop"])?;
    it.bed.eventually_within(PATIENCE, "another pod", || {
        let pod = it.bed.get(&["pod", "first-desktop"])?;
        let image = &pod["spec"]["initContainers"][0]["image"];
        ensure!(pod["metadata"]["uid"] != before && *image == NEXT, "{image}");
        Ok(())
    })?;
    streams_again(it)?;
    table.note(
        "pod deleted after the sidecar's image was rolled",
        "the new sidecar streams by resource ID",
        begin,
    );
    Ok(())
}

fn the_node_is_drained(it: &Topology, table: &mut Table) -> Result<()> {
    let begin = Instant::now();
    let drain = ["drain", "vm2", "--ignore-daemonsets", "--force", "--delete-emptydir-data", "--timeout=90s"];
    it.bed.cluster.kubectl(&drain)?;
    println!("         drained: {}", it.bed.reason("first", "DevicesReady", "Unschedulable")?);
    table.note("node drained", "DevicesReady is False: Unschedulable", begin);
    let begin = Instant::now();
    it.bed.cluster.kubectl(&["uncordon", "vm2"])?;
    streams_again(it)?;
    table.note("uncordoned", "streams by resource ID", begin);
    Ok(())
}

fn the_vm_is_killed(it: &mut Topology, table: &mut Table) -> Result<()> {
    let begin = Instant::now();
    it.vms.clear();
    it.bed.eventually_within(PATIENCE, "the stream says so", || {
        let found = it.bed.get(&["desktopstream", "first"])?;
        let ready = condition(&found, "Ready");
        ensure!(ready["status"] != "True", "{}", found["status"]);
        println!("         VM gone: {}: {}", ready["reason"], ready["message"]);
        Ok(())
    })?;
    table.note("VM killed", "Ready is False", begin);
    let begin = Instant::now();
    // Its disk is a new one: its kubelet knows of no devices, and may start the old one's pod without.
    it.add_vm(2)?;
    roll(it)?;
    streams_again(it)?;
    table.note("VM booted again", "streams by resource ID", begin);
    Ok(())
}
