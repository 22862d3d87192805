//! docker/compose.yaml inside a VM with a virtio-gpu: up, two desktops by resource ID in a browser, down, and nothing is left.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::browser::{self, in_order};
use e2e::http::{self, number};
use e2e::{Desktop, wait};
use engine::vm::{DockerVm, GuestEngine};

/// For containers that start on an emulated processor.
const PATIENCE: Duration = Duration::from_mins(5);
/// What may cross the VM boundary a frame.
const MOST_BYTES: f64 = 128.0;
/// A second stream, which a browser can tell the pictures of: a file beside the example's.
const PATTERN: &str = "
apiVersion: desktopstream.dev/v1alpha1
kind: DesktopStream
metadata:
  name: pattern
spec:
  desktop:
    image: desktopstream/desktop-pattern
    imagePullPolicy: Never
  gpu: {class: Virtio}
  capture: {source: Wayland, width: 640, height: 360, require: ZeroCopy}
  encode: {where: HostAgent}
";

#[test]
#[ignore = "minutes: boots a VM with a Docker Engine in it; run by ./x test docker"]
fn compose_in_a_vm_streams_by_resource_id() -> Result<()> {
    browser::install()?;
    let mut lap = Lap(Instant::now());
    let it = DockerVm::up("lab-docker", &[Desktop::Sway, Desktop::Pattern])?;
    let engine = &it.engine;
    lap.tell("VM, engine and images");
    let before = everything(engine)?;

    let begin = Instant::now();
    engine.docker(&["compose", "up", "--detach"])?;
    lap.tell("compose up");
    by_resource_id(&it, "sway")?;
    println!("         sway by ResourceId {:.1} s after compose up", begin.elapsed().as_secs_f64());
    lap.tell("the example by resource ID");

    engine.guest().write("/payload/desktopstream/docker/streams/gpu/pattern.yaml", PATTERN.as_bytes())?;
    by_resource_id(&it, "pattern")?;
    lap.tell("a second stream, by its file");
    two_at_once(&it)?;
    lap.tell("both in Chromium");

    engine.docker(&["compose", "down", "--volumes"])?;
    let after = everything(engine)?;
    ensure!(after == before, "compose down left something: {after}\nbefore: {before}");
    wait::until("the host-agent has no session", PATIENCE, || {
        let sessions = it.host_agent.status()?["sessions"].clone();
        ensure!(sessions.as_array().is_some_and(Vec::is_empty), "{sessions}");
        Ok(())
    })?;
    lap.tell("compose down");
    Ok(())
}

/// The operator says so, and that a frame costs what we promise.
fn by_resource_id(it: &DockerVm, name: &str) -> Result<()> {
    let stream = wait::until(&format!("{name} by resource ID"), PATIENCE, || {
        let stream = it.engine.stream(name)?;
        let status = &stream["status"];
        ensure!(status["capture"]["rung"] == "ResourceId", "{status:#}");
        // The greeting counts, too: it takes some frames to be paid for.
        let bytes = number(status, "/stats/bytesPerFrameToHost")?;
        ensure!(bytes > 0.0 && bytes <= MOST_BYTES, "{bytes} bytes a frame: {status:#}");
        Ok(stream)
    })
    .with_context(|| logs(it, name))?;
    let status = &stream["status"];
    println!("         {name}: {} {}", status["capture"], status["stats"]);
    ensure!(status["hostAgent"] == "default", "{status:#}");
    Ok(())
}

/// Chromium draws the pattern's numbers in order while the example's frames go on beside it.
fn two_at_once(it: &DockerVm) -> Result<()> {
    let (sway, sway_token) = it.engine.viewers("sway")?;
    let (pattern, token) = it.engine.viewers("pattern")?;
    let frames = || -> Result<f64> {
        number(&http::json(&format!("{sway}/status"), Some(&sway_token))?, "/frames/encoded")
    };
    let (begin, before) = (Instant::now(), frames()?);
    let seen = browser::Watch::start(&pattern, &token, 8, 1, 0)?.finish()?;
    let rate = (frames()? - before) / begin.elapsed().as_secs_f64();
    println!("         sway beside it: {rate:.1} fps");
    in_order(&seen, 20, 0)?;
    ensure!(rate > 1.0, "the other stream stood still: {rate} fps");
    let of_both = http::json(&format!("{pattern}/status"), Some(&token))?;
    println!("         pattern: {} fps, latency {}", of_both["fps"], of_both["latency_ms"]);
    ensure!(of_both["rung"] == "ResourceId", "{of_both}");
    let status = it.host_agent.status()?;
    ensure!(status["sessions"].as_array().is_some_and(|all| all.len() == 2), "{}", status["sessions"]);
    let tap = &status["vms"][0]["stats"];
    ensure!(tap["faults"] == 0 && tap["disabled"] == false, "{tap}");
    Ok(())
}

/// Containers, networks and volumes.
fn everything(engine: &GuestEngine) -> Result<String> {
    let mut all = engine.docker(&["ps", "--all", "--format={{.Names}}"])?;
    for kind in ["network", "volume"] {
        all += &engine.docker(&[kind, "ls", "--format={{.Name}}"])?;
    }
    Ok(all)
}

fn logs(it: &DockerVm, name: &str) -> String {
    let tries: [&[&str]; 4] = [
        &["ps", "--all"],
        &["compose", "logs", "--tail=40"],
        &["logs", "--tail=40", &format!("desktopstream_{name}_sidecar")],
        &["logs", "--tail=20", &format!("desktopstream_{name}_desktop")],
    ];
    let said = tries.iter().map(|words| match it.engine.try_docker(words) {
        Ok(output) => output.stdout + &output.stderr,
        Err(error) => format!("{error:#}"),
    });
    said.chain([it.host_agent.log()]).collect::<Vec<_>>().join("\n---\n")
}

/// Tells how long the parts of a test took.
struct Lap(Instant);

impl Lap {
    fn tell(&mut self, what: &str) {
        println!("{:6.1} s  {what}", self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}
