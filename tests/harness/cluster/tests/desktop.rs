//! Desktops that run: what is in their pods, what viewers see, what conditions say when something is wrong for real, and
//! what nodes survive. The GPUs are made up (`product::gpus`), the picture is the sidecar's own.

use std::time::Duration;

use cluster::Daemon;
use cluster::product::gpus::{self, GROUP};
use cluster::product::host_agent::HostAgent;
use cluster::product::pods::{self, pattern};
use cluster::product::{self, Bed, SYSTEM, Watch, http};
use rustix::process::Signal;
use serde_json::{Value, json};

const SIDECAR: &str = "desktopstream-sidecar";

#[test]
#[ignore = "root, and minutes: brings a cluster up"]
fn desktops_run_and_are_seen() {
    let mut watch = Watch::start();
    let mut bed = Bed::up("desktop", 2).expect("a cluster");
    watch.lap("up");
    bed.install(&[]).expect("installed");
    watch.lap("installed");
    nodes_say_what_they_have(&bed);
    watch.lap("facts");
    a_desktop_runs_with_its_gpu_and_no_other(&bed);
    watch.lap("a desktop");
    troubles_are_told(&bed);
    watch.lap("troubles");
    host_agents_come_and_go(&bed);
    watch.lap("host-agents");
    a_kubelet_may_restart(&mut bed);
    watch.lap("kubelet restarted");
    a_drained_node_is_left(&bed);
    watch.lap("drained");
}

fn nodes_say_what_they_have(bed: &Bed) {
    for node in ["n1", "n2"] {
        bed.eventually("it offers shares", || {
            let node = bed.get(&["node", node])?;
            let labels = &node["metadata"]["labels"];
            anyhow::ensure!(labels["desktopstream.dev/render-gid"] == GROUP.to_string().as_str(), "{labels}");
            anyhow::ensure!(labels["gpu.desktopstream.dev/virtio"] == "1", "{labels}");
            anyhow::ensure!(labels["gpu.desktopstream.dev/intel"] == "1", "{labels}");
            let has = &node["status"]["allocatable"];
            for (resource, count) in [("dri", "64"), ("dri-virtio", "32"), ("dri-intel-card", "32")] {
                anyhow::ensure!(has[format!("desktopstream.dev/{resource}")] == count, "{resource}: {has}");
            }
            Ok(())
        })
        .expect("told");
    }
}

fn a_desktop_runs_with_its_gpu_and_no_other(bed: &Bed) {
    bed.stream("desk", &pattern(&json!({}))).expect("taken");
    let both = pattern(&json!({"gpu": {"class": "Intel", "nodes": "RenderAndCard"}}));
    bed.stream("both", &both).expect("taken");
    bed.reason("desk", "Ready", "AsAsked").expect("ready");
    bed.reason("both", "Ready", "AsAsked").expect("ready");
    // The pattern needs no desktop: it may be there first.
    for pod in ["pod/desk-desktop", "pod/both-desktop"] {
        bed.cluster.wait("default", pod, "condition=Ready", product::PATIENCE).expect("both containers run");
    }
    let status = bed.get(&["desktopstream", "desk"]).expect("there")["status"].clone();
    assert_eq!(
        (&status["phase"], &status["capture"]["rung"]),
        (&json!("Streaming"), &json!("Local")),
        "{status}"
    );
    assert_eq!(status["capture"]["size"], "320x180", "{status}");
    assert_eq!(product::condition(&json!({"status": status}), "Streaming")["reason"], "ByLocalEncoder");

    let pod = bed.get(&["pod", "desk-desktop"]).expect("there");
    the_pod_is_modest(&pod);
    let starts = ["desktopstream-sidecar", "desktop"].map(|name| {
        let container = pods::container(&pod, name).expect("it runs");
        container["state"]["running"]["startedAt"].as_str().expect("a time").to_owned()
    });
    assert!(starts[0] <= starts[1], "the sidecar is first: {starts:?}");

    let probe = |pod: &str, words: &[&str]| {
        bed.cluster.exec("default", pod, "desktop", &[&["/probe"], words].concat()).expect("kubectl runs")
    };
    let identity = probe("desk-desktop", &["id"]).ok().expect("it answers");
    assert!(identity.contains("uid=1000 gid=1000") && identity.contains(&GROUP.to_string()), "{identity}");
    assert_eq!(probe("desk-desktop", &["list", "/dev/dri"]).stdout, "renderD128\n");
    assert_eq!(probe("desk-desktop", &["open", "/dev/dri/renderD128"]).ok().expect("its own"), "opened\n");
    assert_eq!(probe("both-desktop", &["list", "/dev/dri"]).stdout, "card1\nrenderD129\n");
    assert_eq!(probe("both-desktop", &["open", "/dev/dri/renderD129"]).ok().expect("its own"), "opened\n");
    the_others_stay_shut(bed, &probe);

    viewers_get_a_picture(bed);
    bed.remove(&["desk", "both"]).expect("they go");
    bed.eventually("nothing is left", || {
        let kinds = "pods,services,secrets,networkpolicies,pvc,ingresses,endpointslices";
        let left = bed.cluster.kubectl(&["get", kinds, "-l", "desktopstream.dev/stream", "-o", "name"])?;
        anyhow::ensure!(left.trim().is_empty(), "{left}");
        Ok(())
    })
    .expect("gone");
}

fn the_pod_is_modest(pod: &Value) {
    let spec = &pod["spec"];
    let text = spec.to_string();
    assert!(!text.contains("\"privileged\":true") && !text.contains("hostPath"), "{spec}");
    assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
    let all = ["initContainers", "containers"].map(|list| spec[list].as_array().cloned().unwrap_or_default());
    for container in all.iter().flatten() {
        let security = &container["securityContext"];
        assert_eq!(security["allowPrivilegeEscalation"], false, "{container}");
        assert_eq!(security["capabilities"]["drop"], json!(["ALL"]), "{container}");
    }
}

/// Device files that something puts into the container anyhow don't open: the kernel refuses, not their absence.
fn the_others_stay_shut(bed: &Bed, probe: &impl Fn(&str, &[&str]) -> cluster::Output) {
    let pid = pods::process(bed, "desk-desktop", "desktop").expect("it runs");
    let dev = std::path::PathBuf::from(format!("/proc/{pid}/root/dev"));
    for (name, number, opens) in [("own", gpus::FUSE, true), ("other", gpus::LOOP, false)] {
        gpus::device_file(&dev.join(name), number).expect("made");
        let output = probe("desk-desktop", &["open", &format!("/dev/{name}")]);
        assert_eq!(output.success(), opens, "{name}: {}", output.stderr);
        assert!(opens || output.stderr.contains("operation not permitted"), "{}", output.stderr);
    }
}

fn viewers_get_a_picture(bed: &Bed) {
    let service = bed.get(&["service", "desk-viewers"]).expect("there");
    let address = service["spec"]["clusterIP"].as_str().expect("an address");
    let way = bed.cluster.forward(format!("{address}:80").parse().expect("an address")).expect("it listens");
    let token = bed.cluster.kubectl(&[
        "get",
        "secret",
        "desk-viewer",
        "-o",
        "go-template={{.data.token | base64decode}}",
    ]);
    let token = token.expect("there");
    let (status, _) = http::get(way.address(), "/snapshot.png", None).expect("it answers");
    assert_eq!(status, 401, "not without the token");
    let picture = || {
        let (status, body) = http::get(way.address(), "/snapshot.png", Some(&token)).expect("it answers");
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        assert!(body.starts_with(b"\x89PNG\r\n\x1a\n") && body.len() > 1000, "{} bytes", body.len());
        let side = |at: usize| u32::from_be_bytes(body[at..at + 4].try_into().expect("four"));
        assert_eq!((side(16), side(20)), (320, 180));
        body
    };
    let first = picture();
    bed.eventually("the picture moves", || {
        anyhow::ensure!(picture() != first, "still");
        Ok(())
    })
    .expect("it moves");
}

/// Each for real.
fn troubles_are_told(bed: &Bed) {
    let none = json!({"gpu": {"class": "Amd"}});
    let image = json!({"desktop": {"image": "docker.io/local/none:1"}});
    let crash = json!({"desktop": {"args": ["nonsense"]}});
    let frames = json!({"capture": {"source": "Wayland"}});
    let idle = json!({"lifecycle": {"idleTimeout": "5s"}});
    let config = json!({"desktop": {"env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "x"}}}]}});
    for (name, changes) in [
        ("none", none),
        ("image", image),
        ("crash", crash),
        ("frames", frames),
        ("config", config),
        ("idle", idle),
    ] {
        bed.stream(name, &pattern(&changes)).expect("taken");
    }
    let ends = json!({
        "desktop": {"podTemplate": {"spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "desktop", "image": product::images::DESKTOP, "imagePullPolicy": "Never", "args": ["id"]}],
        }}},
        "gpu": {"count": 0}, "encode": {"where": "Sidecar"}, "capture": {"source": "TestPattern"},
    });
    bed.stream("ends", &ends).expect("taken");
    bed.stream("killed", &pattern(&json!({}))).expect("taken");
    bed.stream("silent", &pattern(&json!({}))).expect("taken");

    let told = |name: &str, condition: &str, reason: &str, part: &str| {
        let message = bed.reason(name, condition, reason).expect(reason);
        assert!(message.contains(part), "{name}: {message}");
        println!("         {reason}: {message}");
    };
    told("none", "DevicesReady", "NoDeviceOnAnyNode", "desktopstream.dev/dri-amd");
    told("image", "DevicesReady", "ImageCannotBePulled", "docker.io/local/none:1");
    told("config", "DevicesReady", "ContainerConfigError", "configmap");
    told("ends", "DevicesReady", "DesktopEnded", "ended by itself");
    told("frames", "Capturing", "NoFrames", "sidecar doctor");
    told("idle", "Ready", "Idle", "desktopstream.dev/wake");
    bed.gone("pod", "idle-desktop").expect("it rests");
    bed.cluster
        .kubectl(&["annotate", "desktopstream", "idle", "desktopstream.dev/wake=1"])
        .expect("as the message says");
    bed.object("pod", "idle-desktop").expect("it woke");

    bed.reason("silent", "Ready", "AsAsked").expect("ready");
    let pid = pods::process(bed, "silent-desktop", SIDECAR).expect("it runs");
    pods::signal(pid, Signal::STOP).expect("stopped");
    told("silent", "Streaming", "SidecarSilent", "does not answer");
    pods::signal(pid, Signal::CONT).expect("goes on");
    bed.reason("silent", "Ready", "AsAsked").expect("ready again");

    // A sidecar that dies whenever it starts.
    bed.reason("killed", "Ready", "AsAsked").expect("ready");
    bed.eventually("it is crashing", || {
        if let Ok(pid) = pods::process(bed, "killed-desktop", SIDECAR) {
            pods::signal(pid, Signal::KILL)?;
        }
        let stream = bed.get(&["desktopstream", "killed"])?;
        let found = product::condition(&stream, "Ready");
        anyhow::ensure!(found["reason"] == "SidecarCrashing", "{found}");
        Ok(())
    })
    .expect("told");
    let pod = bed.get(&["pod", "killed-desktop"]).expect("there");
    assert_eq!(pods::container(&pod, "desktop").expect("there")["restartCount"], 0, "the desktop lives on");
    told("crash", "Capturing", "DesktopCrashing", "exit code 1");
    bed.remove(&["none", "image", "crash", "frames", "config", "idle", "ends", "killed", "silent"])
        .expect("they go");
}

fn host_agents_come_and_go(bed: &Bed) {
    let by_host = |changes: Value| {
        let mut spec = pattern(&json!({"encode": {"where": "HostAgent"}}));
        spec["hostAgent"] = changes;
        spec
    };
    bed.stream("paired", &by_host(json!({}))).expect("taken");
    bed.reason("paired", "Paired", "NoHostAgent").expect("there is none");
    // Found by itself, at the nodes' gateway.
    let object = json!({
        "apiVersion": "desktopstream.dev/v1alpha1", "kind": "HostAgent", "metadata": {"name": "default"},
        "spec": {"capacity": 1},
    });
    bed.cluster.apply(&object.to_string()).expect("taken");
    bed.reason("paired", "Paired", "HostAgentUnreachable").expect("it doesn't run yet");
    let agent = HostAgent::start(bed, "default").expect("it starts");
    bed.reason("paired", "Paired", "Paired").expect("it is found");
    bed.reason("paired", "Streaming", "ByPixels").expect("the host encodes");
    let status = bed.get(&["desktopstream", "paired"]).expect("there")["status"].clone();
    assert_eq!(
        (&status["hostAgent"], &status["capture"]["rung"]),
        (&json!("default"), &json!("Pixels")),
        "{status}"
    );
    bed.eventually("the HostAgent knows", || {
        let status = bed.get(&["hostagent", "default"])?["status"].clone();
        anyhow::ensure!(status["streams"] == 1 && status["nodes"] == 2, "{status}");
        Ok(())
    })
    .expect("told");
    bed.stream("second", &by_host(json!({}))).expect("taken");
    bed.reason("second", "Paired", "HostAgentFull").expect("it has room for one");
    bed.remove(&["second"]).expect("it goes");

    drop(agent);
    let message = bed.reason("paired", "Paired", "HostAgentGone").expect("told");
    println!("         HostAgentGone: {message}");
    bed.reason("paired", "Streaming", "NotByHostAgent").expect("the sidecar goes on");
    let agent = HostAgent::start(bed, "other").expect("it starts");
    let message = bed.reason("paired", "Paired", "TokenRefused").expect("told");
    println!("         TokenRefused: {message}");
    drop(agent);
    let agent = HostAgent::start(bed, "default").expect("it starts");
    bed.reason("paired", "Streaming", "ByPixels").expect("taken back");
    bed.remove(&["paired"]).expect("it goes");
    drop(agent);
    a_token_may_expire(bed, &by_host);
    bed.cluster.kubectl(&["delete", "hostagent", "default"]).expect("it goes");
}

/// Nobody renews it while the operator is away.
fn a_token_may_expire(bed: &Bed, by_host: &impl Fn(Value) -> Value) {
    // What a host-agent's clock may be wrong by.
    const LEEWAY: Duration = Duration::from_secs(32);
    const LIFE: Duration = Duration::from_secs(10);
    bed.apply_manifests(&["--operator-arg=--token-life=10s"]).expect("taken");
    bed.installed().expect("it works");
    let agent = HostAgent::start(bed, "default").expect("it starts");
    bed.stream("expires", &by_host(json!({}))).expect("taken");
    bed.reason("expires", "Streaming", "ByPixels").expect("the host encodes");
    bed.scale(0).expect("none");
    std::thread::sleep(LIFE + LEEWAY);
    drop(agent);
    let _agent = HostAgent::start(bed, "default").expect("it starts again");
    bed.scale(1).expect("one");
    let message = bed.reason("expires", "Paired", "TokenExpired").expect("told");
    println!("         TokenExpired: {message}");
    bed.reason("expires", "Streaming", "ByPixels").expect("renewed");
    bed.remove(&["expires"]).expect("it goes");
}

fn a_kubelet_may_restart(bed: &mut Bed) {
    let on = |node: &str| pattern(&json!({"desktop": {"nodeSelector": {"kubernetes.io/hostname": node}}}));
    bed.stream("before", &on("n1")).expect("taken");
    bed.reason("before", "Ready", "AsAsked").expect("ready");
    // A pod whose containers don't all run yet is a new one to the new kubelet, which has no device for it yet.
    bed.cluster
        .wait("default", "pod/before-desktop", "condition=Ready", product::PATIENCE)
        .expect("both run");
    let before = bed.get(&["pod", "before-desktop"]).expect("there");
    bed.cluster.stop(Daemon::Kubelet(1)).expect("it stops");
    bed.cluster.start(Daemon::Kubelet(1)).expect("it starts");
    bed.stream("after", &on("n1")).expect("taken");
    bed.reason("after", "Ready", "AsAsked").expect("the device is back");
    bed.eventually("both are well", || {
        let stream = bed.get(&["desktopstream", "before"])?;
        anyhow::ensure!(product::condition(&stream, "Ready")["status"] == "True", "{}", stream["status"]);
        Ok(())
    })
    .expect("well");
    let after = bed.get(&["pod", "before-desktop"]).expect("there");
    let events = ["get", "events", "--field-selector", "involvedObject.name=before-desktop"];
    let events = bed.cluster.kubectl(&events).expect("listed");
    // Now and then a kubelet refuses what runs, as its devices are not back yet (`OutOf…`): then there is a new one.
    let refused = events.contains("OutOfdesktopstream.dev") || events.contains("UnexpectedAdmissionError");
    assert!(refused || after["metadata"]["uid"] == before["metadata"]["uid"], "{events}\n{}", bed.logs());
    for name in ["desktop", SIDECAR] {
        let restarts = pods::container(&after, name).expect("it runs")["restartCount"].clone();
        assert_eq!(restarts, 0, "{name}");
    }
    let logs =
        bed.cluster.kubectl(&["-n", SYSTEM, "logs", "-l", "app.kubernetes.io/component=node", "--tail=-1"]);
    assert!(logs.expect("it has a log").contains("the kubelet is another one"));
    bed.remove(&["before", "after"]).expect("they go");
}

fn a_drained_node_is_left(bed: &Bed) {
    bed.stream("moves", &pattern(&json!({}))).expect("taken");
    bed.reason("moves", "Ready", "AsAsked").expect("ready");
    let from = bed.get(&["desktopstream", "moves"]).expect("there")["status"]["node"]
        .as_str()
        .expect("a node")
        .to_owned();
    let drain = ["drain", &from, "--ignore-daemonsets", "--force", "--delete-emptydir-data", "--timeout=60s"];
    bed.cluster.kubectl(&drain).expect("drained");
    bed.eventually("it runs on the other", || {
        let stream = bed.get(&["desktopstream", "moves"])?;
        anyhow::ensure!(stream["status"]["node"] != from.as_str(), "{}", stream["status"]);
        anyhow::ensure!(product::condition(&stream, "Ready")["status"] == "True", "{}", stream["status"]);
        Ok(())
    })
    .expect("moved");
    let events = bed.cluster.kubectl(&["get", "events.events.k8s.io", "-o", "json"]).expect("listed");
    assert!(events.contains("NodeGone"), "an Event says so");
    bed.cluster.kubectl(&["uncordon", &from]).expect("back");
    bed.remove(&["moves"]).expect("it goes");
}
