//! Running desktops: their pods and pictures, conditions of real faults, host-agents, and nodes that restart or drain. GPUs are
//! simulated ([`cluster::product::gpus`]); the picture is the sidecar's test pattern.

mod restarts;
mod secrets;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use cluster::product::gpus::{self, GROUP};
use cluster::product::host_agent::HostAgent;
use cluster::product::pods::{self, pattern};
use cluster::product::{self, Installed, SYSTEM, TIMEOUT, condition, http};
use cluster::suite::Suite;
use cluster::{Daemon, tests};
use rustix::process::Signal;
use serde_json::{Value, json};

const SIDECAR: &str = "desktopstream-sidecar";
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

fn main() -> ExitCode {
    let up = || Installed::up("desktop", 2, &["--card-nodes"]);
    Suite::new()
        .fixture(
            up,
            tests![
                nodes_offer_shares_of_their_gpus,
                desktop_streams_and_reports_its_frame_path,
                desktop_pod_is_unprivileged_and_starts_its_sidecar_first,
                desktop_opens_its_own_gpu_only,
                viewers_get_a_moving_picture_with_the_token_only,
                deleted_desktop_leaves_no_objects,
                gpu_of_no_node_is_reported,
                image_that_cannot_be_pulled_is_reported,
                missing_config_map_is_reported,
                ended_desktop_is_reported,
                crashing_desktop_is_reported,
                desktop_without_a_compositor_is_reported,
                idle_stream_is_stopped_until_it_is_woken,
                silent_sidecar_is_reported_until_it_answers,
                crashing_sidecar_is_reported_and_the_desktop_runs_on,
                stream_waits_for_a_host_agent_and_is_encoded_by_it,
                full_host_agent_is_reported,
                lost_host_agent_is_reported_and_the_sidecar_encodes,
                host_agent_of_another_name_refuses_the_token,
                expired_token_is_reported_and_renewed,
                restarts::late_node_list_unpairs_no_stream,
                restarts::restarted_operator_keeps_streams_ready,
                secrets::deleted_viewer_secret_is_created_again,
                secrets::missing_viewer_secret_is_named_until_it_exists,
                secrets::rotated_viewer_token_is_followed,
                restarted_kubelet_keeps_desktops_and_offers_devices_again,
                drained_node_moves_the_desktop,
            ],
        )
        .main()
}

fn nodes_offer_shares_of_their_gpus(bed: &Installed) -> Result<()> {
    for node in ["n1", "n2"] {
        bed.eventually(&format!("{node} offers its GPUs"), || {
            let node = bed.get(&["node", node])?;
            let labels = &node["metadata"]["labels"];
            ensure!(labels["desktopstream.dev/render-gid"] == GROUP.to_string().as_str(), "{labels}");
            ensure!(labels["gpu.desktopstream.dev/virtio"] == "1", "{labels}");
            ensure!(labels["gpu.desktopstream.dev/intel"] == "1", "{labels}");
            let shares = &node["status"]["allocatable"];
            for (resource, count) in [("dri", "64"), ("dri-virtio", "32"), ("dri-intel-card", "32")] {
                ensure!(shares[format!("desktopstream.dev/{resource}")] == count, "{resource}: {shares}");
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Starts a desktop; returns its pod when both containers are ready. The sidecar streams before the desktop is ready.
fn start(bed: &Installed, name: &str, changes: &Value) -> Result<Value> {
    bed.apply_stream(name, &pattern(changes))?;
    bed.await_ready(name)?;
    let pod = format!("{name}-desktop");
    bed.cluster.wait("default", &format!("pod/{pod}"), "condition=Ready", TIMEOUT)?;
    bed.get(&["pod", &pod])
}

/// Runs the probe in a desktop.
fn probe(bed: &Installed, name: &str, arguments: &[&str]) -> Result<cluster::Output> {
    bed.cluster.exec("default", &format!("{name}-desktop"), "desktop", &[&["/probe"], arguments].concat())
}

fn desktop_streams_and_reports_its_frame_path(bed: &Installed) -> Result<()> {
    start(bed, "desk", &json!({}))?;
    let stream = bed.get(&["desktopstream", "desk"])?;
    let status = &stream["status"];
    ensure!(status["phase"] == "Streaming", "{status}");
    let capture = &status["capture"];
    ensure!(
        capture["framePath"] == "Local" && capture["width"] == 320 && capture["height"] == 180,
        "{capture}"
    );
    ensure!(condition(&stream, "Streaming")["reason"] == "ByLocalEncoder", "{status}");
    bed.delete_streams(&["desk"])
}

fn desktop_pod_is_unprivileged_and_starts_its_sidecar_first(bed: &Installed) -> Result<()> {
    let pod = start(bed, "desk", &json!({}))?;
    let spec = &pod["spec"];
    let text = spec.to_string();
    ensure!(!text.contains("\"privileged\":true") && !text.contains("hostPath"), "{spec}");
    ensure!(spec["securityContext"]["runAsNonRoot"] == true, "{spec}");
    let all = ["initContainers", "containers"].map(|list| spec[list].as_array().cloned().unwrap_or_default());
    for container in all.iter().flatten() {
        let security = &container["securityContext"];
        ensure!(security["allowPrivilegeEscalation"] == false, "{container}");
        ensure!(security["capabilities"]["drop"] == json!(["ALL"]), "{container}");
    }
    let started = |name| -> Result<String> {
        let container = pods::container(&pod, name)?;
        let started = container["state"]["running"]["startedAt"].as_str();
        Ok(started.with_context(|| format!("{name} is not running"))?.to_owned())
    };
    ensure!(started(SIDECAR)? <= started("desktop")?, "{} after {}", started(SIDECAR)?, started("desktop")?);
    bed.delete_streams(&["desk"])
}

fn desktop_opens_its_own_gpu_only(bed: &Installed) -> Result<()> {
    start(bed, "virtio", &json!({}))?;
    start(bed, "intel", &json!({"gpu": {"class": "Intel", "deviceNodes": "RenderAndCard"}}))?;
    let identity = probe(bed, "virtio", &["id"])?.ok()?;
    ensure!(identity.contains("uid=1000 gid=1000") && identity.contains(&GROUP.to_string()), "{identity}");
    for (name, nodes, render) in [
        ("virtio", "renderD128\n", "/dev/dri/renderD128"),
        ("intel", "card1\nrenderD129\n", "/dev/dri/renderD129"),
    ] {
        let listed = probe(bed, name, &["list", "/dev/dri"])?.ok()?;
        ensure!(listed == nodes, "{name}: {listed}");
        let opened = probe(bed, name, &["open", render])?.ok()?;
        ensure!(opened == "opened\n", "{name}: {opened}");
    }
    // Other device files are placed in the container: the device cgroup must deny them, not their absence.
    let pid = pods::process(bed, "virtio-desktop", "desktop")?;
    let dev = std::path::PathBuf::from(format!("/proc/{pid}/root/dev"));
    for (name, number, opens) in [("own", gpus::FUSE, true), ("other", gpus::LOOP, false)] {
        gpus::device_file(&dev.join(name), number)?;
        let output = probe(bed, "virtio", &["open", &format!("/dev/{name}")])?;
        ensure!(output.success() == opens, "{name}: {output:?}");
        ensure!(opens || output.stderr.contains("operation not permitted"), "{}", output.stderr);
    }
    bed.delete_streams(&["virtio", "intel"])
}

fn viewers_get_a_moving_picture_with_the_token_only(bed: &Installed) -> Result<()> {
    start(bed, "desk", &json!({}))?;
    let service = bed.get(&["service", "desk-viewers"])?;
    let address = service["spec"]["clusterIP"].as_str().context("the Service has no address")?;
    let forward = bed.cluster.forward(format!("{address}:80").parse()?)?;
    let template = "go-template={{.data.token | base64decode}}";
    let token = bed.cluster.kubectl(&["get", "secret", "desk-viewer", "-o", template])?;
    let (status, _) = http::get(forward.address(), "/snapshot.png", None)?;
    ensure!(status == 401, "{status} without the token");
    let picture = || -> Result<Vec<u8>> {
        let (status, body) = http::get(forward.address(), "/snapshot.png", Some(&token))?;
        ensure!(status == 200, "{status}: {}", String::from_utf8_lossy(&body));
        ensure!(body.starts_with(PNG) && body.len() > 1000, "{} bytes", body.len());
        let side = |at: usize| body[at..at + 4].try_into().map(u32::from_be_bytes);
        ensure!((side(16)?, side(20)?) == (320, 180), "{}x{}", side(16)?, side(20)?);
        Ok(body)
    };
    let first = picture()?;
    bed.eventually("the picture changes", || {
        ensure!(picture()? != first, "the same picture");
        Ok(())
    })?;
    bed.delete_streams(&["desk"])
}

fn deleted_desktop_leaves_no_objects(bed: &Installed) -> Result<()> {
    start(bed, "desk", &json!({}))?;
    bed.delete_streams(&["desk"])?;
    bed.eventually("no object is left", || {
        let kinds = "pods,services,secrets,networkpolicies,pvc,ingresses,endpointslices";
        let left = bed.cluster.kubectl(&["get", kinds, "-l", "desktopstream.dev/stream", "-o", "name"])?;
        ensure!(left.trim().is_empty(), "{left}");
        Ok(())
    })
}

/// Checks that a stream with these changes gets a condition with this reason, whose message contains `part`.
fn is_reported(bed: &Installed, name: &str, changes: &Value, expected: [&str; 3]) -> Result<()> {
    let [kind, reason, part] = expected;
    bed.apply_stream(name, &pattern(changes))?;
    let message = bed.await_reason(name, kind, reason)?;
    println!("         {reason}: {message}");
    ensure!(message.contains(part), "{message}");
    bed.delete_streams(&[name])
}

fn gpu_of_no_node_is_reported(bed: &Installed) -> Result<()> {
    let expected = ["DevicesReady", "NoDeviceOnAnyNode", "desktopstream.dev/dri-amd"];
    is_reported(bed, "none", &json!({"gpu": {"class": "Amd"}}), expected)
}

fn image_that_cannot_be_pulled_is_reported(bed: &Installed) -> Result<()> {
    let image = "docker.io/local/none:1";
    let changes = json!({"desktop": {"image": image}});
    is_reported(bed, "image", &changes, ["DevicesReady", "ImageCannotBePulled", image])
}

fn missing_config_map_is_reported(bed: &Installed) -> Result<()> {
    let variable = json!({"name": "X", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "x"}}});
    let changes = json!({"desktop": {"env": [variable]}});
    is_reported(bed, "config", &changes, ["DevicesReady", "ContainerConfigError", "configmap"])
}

fn ended_desktop_is_reported(bed: &Installed) -> Result<()> {
    let container = json!({"name": "desktop", "image": product::images::DESKTOP, "imagePullPolicy": "Never", "args": ["id"]});
    let spec = json!({
        "desktop": {"podTemplate": {"spec": {"restartPolicy": "Never", "containers": [container]}}},
        "gpu": {"count": 0}, "encode": {"placement": "Sidecar"}, "capture": {"source": "TestPattern"},
    });
    bed.apply_stream("ends", &spec)?;
    let message = bed.await_reason("ends", "DevicesReady", "DesktopEnded")?;
    println!("         DesktopEnded: {message}");
    ensure!(message.contains("ended by itself"), "{message}");
    bed.delete_streams(&["ends"])
}

fn crashing_desktop_is_reported(bed: &Installed) -> Result<()> {
    let changes = json!({"desktop": {"args": ["nonsense"]}});
    is_reported(bed, "crash", &changes, ["Capturing", "DesktopCrashing", "code 1"])
}

fn desktop_without_a_compositor_is_reported(bed: &Installed) -> Result<()> {
    let changes = json!({"capture": {"source": "Wayland"}});
    is_reported(bed, "frames", &changes, ["Capturing", "NoFrames", "doctor"])
}

fn idle_stream_is_stopped_until_it_is_woken(bed: &Installed) -> Result<()> {
    bed.apply_stream("idle", &pattern(&json!({"lifecycle": {"idleTimeoutSeconds": 5}})))?;
    let message = bed.await_reason("idle", "Ready", "Idle")?;
    ensure!(message.contains("desktopstream.dev/wake"), "{message}");
    bed.await_deleted("pod", "idle-desktop")?;
    bed.cluster.kubectl(&["annotate", "desktopstream", "idle", "desktopstream.dev/wake=1"])?;
    bed.await_object("pod", "idle-desktop")?;
    bed.delete_streams(&["idle"])
}

fn silent_sidecar_is_reported_until_it_answers(bed: &Installed) -> Result<()> {
    start(bed, "silent", &json!({}))?;
    let pid = pods::process(bed, "silent-desktop", SIDECAR)?;
    pods::signal(pid, Signal::STOP)?;
    let message = bed.await_reason("silent", "Streaming", "SidecarSilent")?;
    println!("         SidecarSilent: {message}");
    ensure!(message.contains("does not answer"), "{message}");
    pods::signal(pid, Signal::CONT)?;
    bed.await_ready("silent")?;
    bed.delete_streams(&["silent"])
}

fn crashing_sidecar_is_reported_and_the_desktop_runs_on(bed: &Installed) -> Result<()> {
    start(bed, "killed", &json!({}))?;
    bed.eventually("the sidecar crashes at each start", || {
        if let Ok(pid) = pods::process(bed, "killed-desktop", SIDECAR) {
            pods::signal(pid, Signal::KILL)?;
        }
        let stream = bed.get(&["desktopstream", "killed"])?;
        let found = condition(&stream, "Ready");
        ensure!(found["reason"] == "SidecarCrashing", "{found}");
        Ok(())
    })?;
    let pod = bed.get(&["pod", "killed-desktop"])?;
    let restarts = pods::container(&pod, "desktop")?["restartCount"].clone();
    ensure!(restarts == 0, "the desktop restarted {restarts} times");
    bed.delete_streams(&["killed"])
}

/// Spec of a stream that is encoded by a host-agent.
fn on_host_agent() -> Value {
    pattern(&json!({"encode": {"placement": "HostAgent"}, "hostAgent": {}}))
}

/// Runs `test` with a `HostAgent` that is found at the nodes' gateway.
fn with_host_agent_object(bed: &Installed, test: impl FnOnce() -> Result<()>) -> Result<()> {
    let object = json!({
        "apiVersion": "desktopstream.dev/v1alpha1", "kind": "HostAgent", "metadata": {"name": "default"},
        "spec": {"capacity": 1, "fingerprint": HostAgent::fingerprint(bed)?},
    });
    bed.cluster.apply(&object.to_string())?;
    test()?;
    bed.cluster.kubectl(&["delete", "hostagent", "default"])?;
    Ok(())
}

/// Starts a host-agent and a stream that is encoded by it.
fn start_paired(bed: &Installed, name: &str) -> Result<HostAgent> {
    let agent = HostAgent::start(bed, "default")?;
    bed.apply_stream(name, &on_host_agent())?;
    bed.await_reason(name, "Streaming", "ByPixels")?;
    Ok(agent)
}

fn stream_waits_for_a_host_agent_and_is_encoded_by_it(bed: &Installed) -> Result<()> {
    bed.apply_stream("paired", &on_host_agent())?;
    bed.await_reason("paired", "Paired", "NoHostAgent")?;
    with_host_agent_object(bed, || {
        bed.await_reason("paired", "Paired", "HostAgentUnreachable")?;
        let _agent = HostAgent::start(bed, "default")?;
        bed.await_reason("paired", "Paired", "Paired")?;
        bed.await_reason("paired", "Streaming", "ByPixels")?;
        let status = bed.get(&["desktopstream", "paired"])?["status"].clone();
        ensure!(status["hostAgentName"] == "default", "{status}");
        ensure!(status["capture"]["framePath"] == "Pixels", "{status}");
        bed.eventually("the HostAgent's status", || {
            let status = bed.get(&["hostagent", "default"])?["status"].clone();
            ensure!(status["streams"] == 1 && status["nodes"] == 2, "{status}");
            Ok(())
        })?;
        bed.delete_streams(&["paired"])
    })
}

fn full_host_agent_is_reported(bed: &Installed) -> Result<()> {
    with_host_agent_object(bed, || {
        let _agent = start_paired(bed, "first")?;
        bed.apply_stream("second", &on_host_agent())?;
        bed.await_reason("second", "Paired", "HostAgentFull")?;
        bed.delete_streams(&["first", "second"])
    })
}

fn lost_host_agent_is_reported_and_the_sidecar_encodes(bed: &Installed) -> Result<()> {
    with_host_agent_object(bed, || {
        drop(start_paired(bed, "lost")?);
        let message = bed.await_reason("lost", "Paired", "HostAgentGone")?;
        println!("         HostAgentGone: {message}");
        bed.await_reason("lost", "Streaming", "NotByHostAgent")?;
        let _agent = HostAgent::start(bed, "default")?;
        bed.await_reason("lost", "Streaming", "ByPixels")?;
        bed.delete_streams(&["lost"])
    })
}

fn host_agent_of_another_name_refuses_the_token(bed: &Installed) -> Result<()> {
    with_host_agent_object(bed, || {
        drop(start_paired(bed, "refused")?);
        let agent = HostAgent::start(bed, "other")?;
        let message = bed.await_reason("refused", "Paired", "TokenRefused")?;
        println!("         TokenRefused: {message}");
        drop(agent);
        let _agent = HostAgent::start(bed, "default")?;
        bed.await_reason("refused", "Streaming", "ByPixels")?;
        bed.delete_streams(&["refused"])
    })
}

/// The operator, which renews tokens, is stopped until the token has expired on the host-agent's clock, too.
fn expired_token_is_reported_and_renewed(bed: &Installed) -> Result<()> {
    /// More than the clock difference that a host-agent tolerates.
    const LEEWAY: u64 = 32;
    bed.apply_manifests(&["--operator-arg=--token-life=10s"])?;
    bed.await_installation()?;
    with_host_agent_object(bed, || {
        let agent = start_paired(bed, "expires")?;
        bed.scale(0)?;
        let expiry = token_expiry(bed, "expires")?;
        while unix_time()? <= expiry + LEEWAY {
            std::thread::sleep(Duration::from_millis(500));
        }
        drop(agent);
        let _agent = HostAgent::start(bed, "default")?;
        bed.scale(1)?;
        let message = bed.await_reason("expires", "Paired", "TokenExpired")?;
        println!("         TokenExpired: {message}");
        bed.await_reason("expires", "Streaming", "ByPixels")?;
        bed.delete_streams(&["expires"])
    })?;
    bed.reinstall()
}

/// Claim `exp` of a stream's host-agent token, in seconds since 1970.
fn token_expiry(bed: &Installed, name: &str) -> Result<u64> {
    let secret = format!("{name}-host-agent");
    let template = "go-template={{.data.token | base64decode}}";
    let token = bed.cluster.kubectl(&["get", "secret", &secret, "-o", template])?;
    let claims = token.split('.').nth(1).context("the token is not a JWT")?;
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims)?;
    let claims: Value = serde_json::from_slice(&claims)?;
    claims["exp"].as_u64().with_context(|| format!("no expiry in {claims}"))
}

fn unix_time() -> Result<u64> {
    Ok(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs())
}

fn restarted_kubelet_keeps_desktops_and_offers_devices_again(bed: &mut Installed) -> Result<()> {
    let on_n1 = json!({"desktop": {"nodeSelector": {"kubernetes.io/hostname": "n1"}}});
    let before = start(bed, "before", &on_n1)?;
    bed.cluster.stop(Daemon::Kubelet(1))?;
    bed.cluster.start(Daemon::Kubelet(1))?;
    start(bed, "after", &on_n1)?;
    bed.eventually("both streams are ready", || {
        let stream = bed.get(&["desktopstream", "before"])?;
        ensure!(condition(&stream, "Ready")["status"] == "True", "{}", stream["status"]);
        Ok(())
    })?;
    let after = bed.get(&["pod", "before-desktop"])?;
    let events = ["get", "events", "--field-selector", "involvedObject.name=before-desktop"];
    let events = bed.cluster.kubectl(&events)?;
    // A kubelet may admit its pods again before device plugins are registered. It then refuses a running pod (`OutOf…`), and the
    // operator replaces the pod.
    let refused = events.contains("OutOfdesktopstream.dev") || events.contains("UnexpectedAdmissionError");
    let same = after["metadata"]["uid"] == before["metadata"]["uid"];
    ensure!(refused || same, "the pod was replaced: {events}\n{}", bed.logs());
    for name in ["desktop", SIDECAR] {
        let restarts = pods::container(&after, name)?["restartCount"].clone();
        ensure!(restarts == 0, "{name} restarted {restarts} times");
    }
    let log = ["-n", SYSTEM, "logs", "-l", "app.kubernetes.io/component=node", "--tail=-1"];
    let log = bed.cluster.kubectl(&log)?;
    ensure!(log.contains(KUBELET_RESTARTED), "the node-agent did not notice the restart: {log}");
    bed.delete_streams(&["before", "after"])
}

/// The node-agent's log message about a new kubelet socket.
const KUBELET_RESTARTED: &str = "kubelet restarted";

fn drained_node_moves_the_desktop(bed: &Installed) -> Result<()> {
    start(bed, "moves", &json!({}))?;
    let node = |stream: &Value| stream["status"]["nodeName"].as_str().map(ToOwned::to_owned);
    let from = node(&bed.get(&["desktopstream", "moves"])?).context("the status has no node")?;
    let options = ["--ignore-daemonsets", "--force", "--delete-emptydir-data", "--timeout=180s"];
    bed.cluster.kubectl(&[&["drain", &from], &options[..]].concat())?;
    bed.eventually("the desktop runs on the other node", || {
        let stream = bed.get(&["desktopstream", "moves"])?;
        ensure!(node(&stream).is_some_and(|to| to != from), "{}", stream["status"]);
        ensure!(condition(&stream, "Ready")["status"] == "True", "{}", stream["status"]);
        Ok(())
    })?;
    let events = bed.cluster.kubectl(&["get", "events.events.k8s.io", "-o", "json"])?;
    ensure!(events.contains("NodeGone"), "no Event NodeGone: {events}");
    bed.cluster.kubectl(&["uncordon", &from])?;
    bed.delete_streams(&["moves"])
}
