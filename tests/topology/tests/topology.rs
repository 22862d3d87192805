//! The whole mission in one test: `kubectl apply` → resource ID → browser, on a node that is a VM.
//!
//! One topology for all of it, as it takes minutes to put up under emulation; each part leaves it as it was.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
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
    let options = Options { name: "topology".to_owned(), vms: 1, desktops: vec![Desktop::Pattern] };
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

fn status(it: &Topology, name: &str) -> Result<Value> {
    Ok(it.bed.get(&["desktopstream", name])?["status"].clone())
}

fn apply(it: &Topology, name: &str) -> Result<()> {
    it.bed.cluster.apply(&stream("default", name, Desktop::Pattern, SIZE).to_string()).map(drop)
}

fn a_desktop_streams_by_resource_id(it: &Topology) -> Result<()> {
    apply(it, "first")?;
    let took = it.ready("default", "first", PATIENCE)?;
    println!("         streams {:.1} s after kubectl apply", took.as_secs_f64());
    let found = status(it, "first")?;
    ensure!(found["capture"]["rung"] == "ResourceId" && found["hostAgent"] == "default", "{found}");
    ensure!(found["node"] == "vm2", "{found}");
    let stats = it.bed.eventually("its numbers", || {
        let stats = status(it, "first")?["stats"].clone();
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
    guest.check("kill -STOP $(pgrep -f 'sidecar run --name=other/own')")?;
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
                "args": ["--upstream", "$(ENDPOINT)", "--width", width, "--height", height],
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
    let mut table = Vec::new();
    let mut note = |what: &str, how: &str, begin: Instant| {
        table.push(format!("| {what} | {how} | {:.1} s |", begin.elapsed().as_secs_f64()));
    };

    let begin = Instant::now();
    it.host_agent = None;
    it.bed.reason("first", "Paired", "HostAgentGone")?;
    note("host-agent cut off", "Paired is False, HostAgentGone", begin);
    let message = it.bed.reason("first", "Streaming", "NotZeroCopy")?;
    println!("         NotZeroCopy: {message}");
    note("", "Streaming is False, NotZeroCopy: the sidecar encodes", begin);
    let begin = Instant::now();
    it.start_host_agent()?;
    it.bed.reason("first", "Streaming", "ByResourceId")?;
    note("host-agent back", "streams by resource ID", begin);

    let pod = || -> Result<Value> { it.bed.get(&["pod", "first-desktop"]) };
    let (before, begin) = (pod()?, Instant::now());
    let guest = it.vms[0].1.guest();
    guest.check("/run/node/node stop kubelet; sleep 1; /run/node/node start kubelet")?;
    apply(it, "after")?;
    it.ready("default", "after", PATIENCE)?;
    ensure!(pod()?["metadata"]["uid"] == before["metadata"]["uid"], "the pod was replaced");
    note("kubelet restarted", "another stream streams; the first one's pod lives on", begin);
    it.bed.remove(&["after"])?;

    let (before, begin) = (pod()?, Instant::now());
    it.install(&["--set", "operator.replicas=2"])?;
    ensure!(pod()?["metadata"]["uid"] == before["metadata"]["uid"], "the pod was replaced");
    it.ready("default", "first", PATIENCE)?;
    note("chart upgraded", "streams on", begin);

    let begin = Instant::now();
    it.vms.clear();
    it.bed.eventually_within(PATIENCE, "the stream says so", || {
        let found = it.bed.get(&["desktopstream", "first"])?;
        let ready = condition(&found, "Ready");
        ensure!(ready["status"] != "True", "{}", found["status"]);
        println!("         VM gone: {}: {}", ready["reason"], ready["message"]);
        Ok(())
    })?;
    note("VM killed", "Ready is False", begin);
    let begin = Instant::now();
    it.add_vm(2)?;
    it.ready("default", "first", PATIENCE)?;
    it.bed.reason("first", "Streaming", "ByResourceId")?;
    note("VM booted again", "streams by resource ID", begin);
    println!("| what | becomes | after |\n|---|---|---|\n{}", table.join("\n"));
    Ok(())
}
