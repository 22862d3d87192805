//! docker/compose.yaml in a VM with a virtio-gpu: desktops stream by resource ID to a browser.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cluster::suite::{Fixture, Suite};
use cluster::tests;
use contract::{FramePath, SidecarStatus};
use e2e::browser::{self, in_order};
use e2e::http::{self, number};
use e2e::{Desktop, wait};
use engine::vm::{DockerVm, GuestEngine};

/// Limit of each wait; containers start on an emulated processor.
const TIMEOUT: Duration = Duration::from_mins(8);
/// Bytes that a frame may send across the VM's boundary.
const MAX_BYTES_PER_FRAME: f64 = 128.0;
/// A second stream, whose pictures the browser test can tell apart.
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
  encode: {placement: HostAgent}
";

fn main() -> ExitCode {
    Suite::new()
        .fixture(
            Lab::up,
            tests![
                example_streams_by_resource_id,
                added_file_starts_a_second_stream,
                two_streams_play_at_once_in_a_browser,
                compose_down_leaves_nothing_and_ends_the_sessions,
            ],
        )
        .main()
}

/// A VM in which the example is up.
struct Lab {
    vm: DockerVm,
    /// Containers, networks and volumes before `compose up`.
    before: String,
}

impl Fixture for Lab {}

impl Lab {
    fn up() -> Result<Self> {
        browser::install()?;
        let vm = DockerVm::up("lab-docker", &[Desktop::Sway, Desktop::Pattern])?;
        let before = objects(&vm.engine)?;
        vm.engine.docker(&["compose", "up", "--detach"])?;
        Ok(Self { vm, before })
    }

    /// Adds the second stream's file.
    fn add_pattern(&self) -> Result<()> {
        let file = "/payload/desktopstream/docker/streams/gpu/pattern.yaml";
        self.vm.engine.guest().write(file, PATTERN.as_bytes())
    }

    /// Waits until a stream uses the frame path `ResourceId` and a frame costs no more than promised.
    fn await_resource_id(&self, name: &str) -> Result<()> {
        let stream = wait::until(&format!("{name} by resource ID"), TIMEOUT, || {
            let stream = self.vm.engine.stream(name)?;
            let status = &stream["status"];
            ensure!(status["capture"]["framePath"] == "ResourceId", "{status:#}");
            // The average includes the handshake, which some frames have to outweigh.
            let bytes = number(status, "/stats/bytesPerFrameToHost")?;
            ensure!(bytes > 0.0 && bytes <= MAX_BYTES_PER_FRAME, "{bytes} bytes per frame: {status:#}");
            Ok(stream)
        })
        .with_context(|| self.logs(name))?;
        let status = &stream["status"];
        println!("         {name}: {} {}", status["capture"], status["stats"]);
        ensure!(status["hostAgentName"] == "default", "{status:#}");
        Ok(())
    }

    fn logs(&self, name: &str) -> String {
        let commands: [&[&str]; 4] = [
            &["ps", "--all"],
            &["compose", "logs", "--tail=40"],
            &["logs", "--tail=40", &format!("desktopstream_{name}_sidecar")],
            &["logs", "--tail=20", &format!("desktopstream_{name}_desktop")],
        ];
        let outputs = commands.iter().map(|command| match self.vm.engine.try_docker(command) {
            Ok(output) => output.stdout + &output.stderr,
            Err(error) => format!("{error:#}"),
        });
        outputs.chain([self.vm.host_agent.log()]).collect::<Vec<_>>().join("\n---\n")
    }
}

fn example_streams_by_resource_id(lab: &Lab) -> Result<()> {
    lab.await_resource_id("sway")
}

fn added_file_starts_a_second_stream(lab: &Lab) -> Result<()> {
    lab.add_pattern()?;
    lab.await_resource_id("pattern")
}

/// The browser shows the pattern's numbers in order while the example's frames continue.
fn two_streams_play_at_once_in_a_browser(lab: &Lab) -> Result<()> {
    lab.add_pattern()?;
    for name in ["sway", "pattern"] {
        lab.await_resource_id(name)?;
    }
    let (sway, sway_token) = lab.vm.engine.viewers("sway")?;
    let (pattern, token) = lab.vm.engine.viewers("pattern")?;
    let frames = || -> Result<u64> {
        Ok(http::json::<SidecarStatus>(&format!("{sway}/status"), Some(&sway_token))?.frames.encoded)
    };
    let before = frames()?;
    let seen = browser::Watch::start(&pattern, &token, 20, 1, 0)?.finish()?;
    in_order(&seen, 20, 0)?;
    wait::until("the other stream continues", TIMEOUT, || {
        let encoded = frames()? - before;
        ensure!(encoded >= 20, "{encoded} frames");
        Ok(())
    })?;
    let status: SidecarStatus = http::json(&format!("{pattern}/status"), Some(&token))?;
    println!("         pattern: {} fps, latency {:?}", status.fps, status.latency_ms);
    ensure!(status.frame_path == Some(FramePath::ResourceId), "{status:?}");
    let status = lab.vm.host_agent.status()?;
    ensure!(status.sessions.len() == 2, "{:?}", status.sessions);
    let tap = &status.vms.first().context("no VM is connected")?.stats;
    ensure!(tap.faults == 0 && !tap.disabled, "{tap:?}");
    Ok(())
}

fn compose_down_leaves_nothing_and_ends_the_sessions(lab: Lab) -> Result<()> {
    lab.vm.engine.docker(&["compose", "down", "--volumes"])?;
    let left = objects(&lab.vm.engine)?;
    ensure!(left == lab.before, "{} before, {left} after", lab.before);
    wait::until("the host-agent has no session", TIMEOUT, || {
        let sessions = lab.vm.host_agent.status()?.sessions;
        ensure!(sessions.is_empty(), "{sessions:?}");
        Ok(())
    })?;
    // The other tests need the example.
    drop(lab);
    Ok(())
}

/// Names of containers, networks and volumes.
fn objects(engine: &GuestEngine) -> Result<String> {
    let mut all = engine.docker(&["ps", "--all", "--format={{.Names}}"])?;
    for kind in ["network", "volume"] {
        all += &engine.docker(&[kind, "ls", "--format={{.Name}}"])?;
    }
    Ok(all)
}
