//! docker/compose.yaml on a machine without a GPU: a sway desktop that the CPU draws, encoded by the sidecar or by the file's
//! host-agent.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use cluster::product::{condition, http};
use cluster::suite::{Fixture, Suite};
use cluster::tests;
use engine::Engine;
use serde_json::Value;
use tempfile::TempDir;

/// Limit of each wait. Generous: it bounds conditions that never come, not slow machines.
const TIMEOUT: Duration = Duration::from_mins(4);
/// The example's stream.
const STREAM: &str = "sway";
/// Option of compose.yaml for the host-agent's key.
const TLS_KEY: &str = "--tls-key=/var/lib/host-agent/tls.key";
/// Arguments of Compose that select the services of all profiles.
const ALL_PROFILES: [&str; 2] = ["--profile", "host-agent"];

fn main() -> ExitCode {
    Suite::new()
        .fixture(
            Compose::up,
            tests![
                example_is_ready_with_the_local_frame_path,
                operator_log_prints_the_viewers_url,
                example_runs_operator_desktop_and_sidecar,
                viewers_get_a_moving_picture_with_the_token_only,
                host_agent_of_the_file_encodes_pixels,
                zero_copy_without_a_gpu_is_refused,
                sidecar_encodes_after_the_host_agent_stops,
                compose_down_leaves_nothing,
            ],
        )
        .main()
}

/// An engine with the images, on which the example is up.
struct Compose {
    engine: Engine,
    /// Containers, networks and volumes before `compose up`.
    before: Vec<String>,
    /// Environment of `docker compose`.
    env: Vec<(String, String)>,
    /// Folder with the host-agent's key, its socket and a copy of the example.
    folder: TempDir,
}

impl Fixture for Compose {
    fn restore(&mut self) -> Result<()> {
        self.use_sidecar()
    }
}

impl Compose {
    fn up() -> Result<Self> {
        let engine =
            Engine::up_with_images("compose", &["operator", "sidecar", "host-agent", "desktop-sway"])?;
        let before = objects(&engine)?;
        let mut compose = Self { engine, before, env: Vec::new(), folder: tempfile::tempdir()? };
        compose.use_sidecar()?;
        Ok(compose)
    }

    /// Starts the example as it is in the repository, without a host-agent.
    fn use_sidecar(&mut self) -> Result<()> {
        self.env = vec![("STREAMS".to_owned(), "./streams/cpu".to_owned())];
        self.run(&[&ALL_PROFILES[..], &["stop", "host-agent"]].concat())?;
        self.run(&["up", "--detach"])?;
        self.await_reason("Streaming", "ByLocalEncoder")?;
        self.await_url().map(drop)
    }

    /// Starts operator and host-agent, as the comment in the file describes, with a copy of the example that requires this
    /// frame path.
    fn use_host_agent(&mut self, require: &str) -> Result<()> {
        let folder = self.folder.path();
        let key = folder.join("key.pub").display().to_string();
        self.run(&["cp", "operator:/var/lib/desktopstream/signing-key.pem.pub", &key])?;
        let (link, keys) = (folder.join("link"), folder.join("keys"));
        for folder in [&link, &keys] {
            fs::create_dir_all(folder)?;
            std::os::unix::fs::chown(folder, Some(1000), Some(1000))?;
        }
        let streams = self.write_stream(require)?;
        self.env = vec![
            ("STREAMS".to_owned(), streams),
            ("PUBLIC_KEY".to_owned(), key),
            ("LINK_FOLDER".to_owned(), link.display().to_string()),
            ("KEY_FOLDER".to_owned(), keys.display().to_string()),
        ];
        let print = ["run", "--rm", "--no-TTY", "host-agent", "fingerprint", TLS_KEY];
        let fingerprint = self.run(&print)?;
        // The runtime folder is empty after a restart of the machine.
        fs::remove_dir_all(&link)?;
        fs::create_dir_all(&link)?;
        std::os::unix::fs::chown(&link, Some(1000), Some(1000))?;
        ensure!(self.run(&print)? == fingerprint, "the key is in the runtime folder");
        let endpoint = format!("tls://127.0.0.1:15937#sha256={}", fingerprint.trim());
        self.env.push(("OPERATOR_HOST_AGENT".to_owned(), endpoint));
        self.run(&["up", "--detach", "operator", "host-agent"]).map(drop)
    }

    /// Writes the example with automatic placement and this requirement; returns its folder.
    fn write_stream(&self, require: &str) -> Result<String> {
        let streams = self.folder.path().join("streams");
        fs::create_dir_all(&streams)?;
        let example = fs::read_to_string(lab::repository().join("docker/streams/cpu/sway.yaml"))?;
        let mut stream: Value = serde_yaml_ng::from_str(&example)?;
        stream["spec"]["encode"]["placement"] = "Auto".into();
        stream["spec"]["capture"]["require"] = require.into();
        fs::write(streams.join("sway.yaml"), stream.to_string())?;
        Ok(streams.display().to_string())
    }

    /// Runs `docker compose` with the file of the repository; returns its stdout.
    fn run(&self, arguments: &[&str]) -> Result<String> {
        let file = lab::repository().join("docker/compose.yaml").display().to_string();
        let mut command = self.engine.command("docker")?;
        command.args(["compose", "--file", &file]).args(arguments).envs(self.env.clone());
        let output = cluster::cluster::run(&mut command, b"")?;
        output.ok().with_context(|| format!("docker compose {}", arguments.join(" ")))
    }

    /// Runs a subcommand of `operator docker`, which prints JSON.
    fn operator(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.run(&[&["exec", "-T", "operator", "operator", "docker"], arguments].concat())?;
        serde_json::from_str(&text).with_context(|| text.clone())
    }

    /// Waits until the stream's condition has this reason; returns the stream.
    fn await_reason(&self, kind: &str, reason: &str) -> Result<Value> {
        self.eventually(&format!("{kind} with reason {reason}"), || {
            let all = self.operator(&["status", "--json"])?;
            let mut all = all.as_array().into_iter().flatten();
            let stream = all.find(|it| it["metadata"]["name"] == STREAM).context("the stream is missing")?;
            ensure!(condition(stream, kind)["reason"] == reason, "{:#}", stream["status"]);
            Ok(stream.clone())
        })
    }

    /// URL of the stream's viewers in the engine's network, once the sidecar runs. After the operator was recreated, which
    /// removes the stream's containers, the status may still be an earlier one.
    fn await_url(&self) -> Result<String> {
        self.eventually("the viewers' URL", || {
            let printed = self.operator(&["open", "--json", STREAM])?;
            Ok(printed["url"].as_str().context("`open` printed no URL")?.to_owned())
        })
    }

    fn eventually<T>(&self, condition: &str, mut question: impl FnMut() -> Result<T>) -> Result<T> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            match question() {
                Ok(answer) => return Ok(answer),
                Err(error) if Instant::now() > deadline => {
                    let logs = self.run(&[&ALL_PROFILES[..], &["logs", "--tail", "30"]].concat());
                    let logs = logs.unwrap_or_else(|error| format!("{error:#}"));
                    bail!("{condition}: not within {} s: {error:#}\n{logs}", TIMEOUT.as_secs());
                }
                Err(_) => std::thread::sleep(Duration::from_millis(300)),
            }
        }
    }

    /// Checks that the viewers' server requires the token, and that the clock on the desktop's bar advances.
    fn check_moving_picture(&self) -> Result<()> {
        let url = self.await_url()?;
        let rest = url.strip_prefix("http://127.0.0.1:").context("not published on the loopback")?;
        let (port, rest) = rest.split_once('/').context("the URL has no path")?;
        let (_, token) = rest.split_once("#token=").context("the URL has no token")?;
        let forward = self.engine.forward((Ipv4Addr::LOCALHOST, port.parse()?).into())?;
        let (status, _) = http::get(forward.address(), "/snapshot.png", None)?;
        ensure!(status == 401, "{status} without the token");
        let picture = || {
            let (status, body) = http::get(forward.address(), "/snapshot.png", Some(token))?;
            ensure!(status == 200, "{status}: {}", String::from_utf8_lossy(&body));
            Picture::decode(&body)
        };
        let first = self.eventually("a picture", picture)?;
        ensure!(first.size == (1280, 720), "{:?}", first.size);
        ensure!(first.colours > 8, "only {} colours", first.colours);
        self.eventually("another picture", || {
            ensure!(picture()?.pixels != first.pixels, "the same picture");
            Ok(())
        })
    }
}

struct Picture {
    pixels: Vec<u8>,
    /// Width and height in pixels.
    size: (u32, u32),
    /// Number of different colours.
    colours: usize,
}

impl Picture {
    fn decode(file: &[u8]) -> Result<Self> {
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info()?;
        let mut pixels = vec![0; reader.output_buffer_size().context("the picture is too large")?];
        let info = reader.next_frame(&mut pixels)?;
        let colours: BTreeSet<&[u8]> = pixels.chunks_exact(info.color_type.samples()).collect();
        let colours = colours.len();
        Ok(Self { pixels, size: (info.width, info.height), colours })
    }
}

/// Names of containers, networks and volumes.
fn objects(engine: &Engine) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for list in [
        &["ps", "--all", "--format={{.Names}}"][..],
        &["network", "ls", "--format={{.Name}}"],
        &["volume", "ls", "--format={{.Name}}"],
    ] {
        all.extend(engine.docker(list)?.lines().map(str::to_owned));
    }
    Ok(all)
}

fn example_is_ready_with_the_local_frame_path(compose: &mut Compose) -> Result<()> {
    let stream = compose.await_reason("Ready", "PathSatisfied")?;
    ensure!(stream["status"]["capture"]["framePath"] == "Local", "{:#}", stream["status"]);
    Ok(())
}

fn operator_log_prints_the_viewers_url(compose: &mut Compose) -> Result<()> {
    let url = compose.await_url()?;
    compose.eventually("the URL in the log", || {
        let log = compose.run(&["logs", "operator"])?;
        ensure!(log.contains(&format!(" {STREAM}: {url}\n")), "{log}");
        Ok(())
    })
}

fn example_runs_operator_desktop_and_sidecar(compose: &mut Compose) -> Result<()> {
    compose.eventually("three containers", || {
        let running = compose.engine.docker(&["ps", "--format={{.Names}}"])?;
        ensure!(running.lines().count() == 3, "{running}");
        Ok(())
    })
}

fn viewers_get_a_moving_picture_with_the_token_only(compose: &mut Compose) -> Result<()> {
    compose.check_moving_picture()
}

fn host_agent_of_the_file_encodes_pixels(compose: &mut Compose) -> Result<()> {
    compose.use_host_agent("Any")?;
    let stream = compose.await_reason("Streaming", "ByPixels")?;
    ensure!(stream["status"]["hostAgentName"] == "default", "{:#}", stream["status"]);
    compose.check_moving_picture()?;
    compose.use_sidecar()
}

fn zero_copy_without_a_gpu_is_refused(compose: &mut Compose) -> Result<()> {
    compose.use_host_agent("ZeroCopy")?;
    let stream = compose.await_reason("Ready", "InvalidSpec")?;
    println!("{}", condition(&stream, "Ready")["message"]);
    compose.write_stream("Any")?;
    compose.await_reason("Streaming", "ByPixels")?;
    compose.use_sidecar()
}

fn sidecar_encodes_after_the_host_agent_stops(compose: &mut Compose) -> Result<()> {
    compose.use_host_agent("Any")?;
    compose.await_reason("Streaming", "ByPixels")?;
    compose.run(&["stop", "host-agent"])?;
    let stream = compose.await_reason("Streaming", "ByLocalEncoder")?;
    println!("{}", condition(&stream, "Paired")["message"]);
    compose.check_moving_picture()?;
    compose.use_sidecar()
}

fn compose_down_leaves_nothing(compose: Compose) -> Result<()> {
    compose.run(&[&ALL_PROFILES[..], &["down", "--volumes"]].concat())?;
    let left = objects(&compose.engine)?;
    ensure!(left == compose.before, "{:?} before, {left:?} after", compose.before);
    compose.engine.down()
}
