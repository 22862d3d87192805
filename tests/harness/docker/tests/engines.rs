//! The test engine itself, in both versions: images, devices, Compose, buildx, daemons, and a complete end.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cluster::instance::{Instance, Kind};
use cluster::product::gpus::{self, FUSE, GROUP};
use cluster::product::http;
use cluster::suite::{Fixture, Suite};
use cluster::tests;
use engine::engine::PROBE;
use engine::{Daemon, Engine, Image, Version};

/// Limit of each wait. Generous: it bounds conditions that never come, not slow machines.
const TIMEOUT: Duration = Duration::from_mins(3);
/// Name of an engine that a process of this binary starts, and that is orphaned when the process is killed.
const ORPHAN: &str = "ENGINE_ORPHAN";

const COMPOSE: &str = r#"
services:
  server:
    image: docker.io/local/probe:1
    command: [serve, ":8080", "from the server\n"]
    ports: ['127.0.0.1::8080']
  client:
    image: docker.io/local/probe:1
    command: [get, 'http://server:8080/']
    depends_on: [server]
volumes:
  unused:
"#;

struct Smoke(Engine);

impl Fixture for Smoke {
    fn restore(&mut self) -> Result<()> {
        self.0.start_ended_daemons()
    }
}

fn main() -> ExitCode {
    if let Some(name) = std::env::var_os(ORPHAN) {
        return hold_orphan(&name.to_string_lossy());
    }
    Suite::new()
        .test("engine_of_a_killed_process_is_ended_by_the_next_one", orphan_is_ended)
        .named_fixture(
            "current::",
            || Ok(Smoke(Engine::up("smoke", Version::Current)?)),
            tests![
                name_of_a_running_engine_is_refused,
                folder_runs_as_an_image,
                device_opens_only_if_given_and_with_its_group,
                compose_starts_publishes_and_removes,
                buildx_builds_on_a_loaded_base,
                dockerd_restarts_with_its_containers,
                ended_engine_leaves_nothing_behind,
            ],
        )
        .named_fixture(
            "oldest::",
            || Ok(Smoke(Engine::up("smoke-debian", Version::Debian)?)),
            tests![
                name_of_a_running_engine_is_refused,
                folder_runs_as_an_image,
                device_opens_only_if_given_and_with_its_group,
                compose_starts_publishes_and_removes,
                dockerd_restarts_with_its_containers,
                ended_engine_leaves_nothing_behind,
            ],
        )
        .main()
}

fn name_of_a_running_engine_is_refused(smoke: &Smoke) -> Result<()> {
    println!("{}", smoke.0.docker(&["version"])?);
    let error = Engine::up(smoke.0.name(), smoke.0.version()).err().context("it came up")?;
    ensure!(error.to_string().contains("already running"), "{error:#}");
    Ok(())
}

fn folder_runs_as_an_image(smoke: &Smoke) -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::copy(smoke.0.tools().program("probe")?, folder.path().join("who"))?;
    let image = Image::of_folder("docker.io/local/who:1", folder.path()).entrypoint(&["/who", "id"]).user(7);
    smoke.0.load(&image)?;
    let identity = smoke.0.docker(&["run", "--rm", "--group-add", "4109", "local/who:1"])?;
    ensure!(identity.starts_with("uid=7 gid=0 ") && identity.contains("4109]"), "{identity}");
    Ok(())
}

fn device_opens_only_if_given_and_with_its_group(smoke: &Smoke) -> Result<()> {
    let dev = smoke.0.outside("/var/lib/gpus/dev");
    fs::create_dir_all(&dev)?;
    gpus::device_file(&dev.join("renderD129"), FUSE)?;
    let open = |node: &str, options: &[&str]| {
        let run = ["run", "--rm", "--user=1000", "--cap-drop=ALL"];
        smoke.0.try_docker(&[&run, options, &[PROBE, "open", node][..]].concat())
    };
    let group = format!("--group-add={GROUP}");
    let device = "--device=/var/lib/gpus/dev/renderD129:/dev/dri/renderD129";
    let output = open("/dev/dri/renderD129", &[device, &group])?;
    ensure!(output.stdout.trim() == "opened", "{output:?}");
    let output = open("/dev/dri/renderD129", &[device])?;
    ensure!(output.stderr.contains("permission denied"), "without its group: {output:?}");
    // The file is visible and its mode permits it: the device cgroup must deny it.
    let output = open("/gpus/renderD129", &["--volume=/var/lib/gpus/dev:/gpus", &group])?;
    ensure!(output.stderr.contains("operation not permitted"), "not given: {output:?}");
    fs::remove_dir_all(&dev)?;
    Ok(())
}

fn compose_starts_publishes_and_removes(smoke: &Smoke) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("compose.yaml");
    fs::write(&file, COMPOSE)?;
    let file = file.display().to_string();
    let compose = |arguments: &[&str]| {
        smoke.0.docker(&[&["compose", "--project-name", "smoke", "--file", &file], arguments].concat())
    };
    compose(&["up", "--detach"])?;
    until("the client prints the server's answer", || {
        let log = compose(&["logs", "client"])?;
        ensure!(log.contains("from the server"), "{log}");
        Ok(())
    })?;
    until("only the server is running", || {
        let services = compose(&["ps", "--services"])?;
        ensure!(services.trim() == "server", "{services}");
        Ok(())
    })?;
    let published = compose(&["port", "server", "8080"])?;
    let port = published.trim().rsplit(':').next().context("no port")?.parse()?;
    let forward = smoke.0.forward((Ipv4Addr::LOCALHOST, port).into())?;
    let (status, body) = http::get(forward.address(), "/", None)?;
    let body = String::from_utf8_lossy(&body);
    ensure!(status == 200 && body == "from the server\n", "{status}: {body}");
    compose(&["down", "--volumes"])?;
    for list in [
        &["ps", "--all", "--format={{.Names}}"][..],
        &["volume", "ls", "--format={{.Name}}"],
        &["network", "ls", "--format={{.Name}}"],
    ] {
        let left = smoke.0.docker(list)?;
        ensure!(!left.lines().any(|name| name.starts_with("smoke")), "{left}");
    }
    Ok(())
}

fn buildx_builds_on_a_loaded_base(smoke: &Smoke) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let dockerfile =
        "ARG BASE\nFROM ${BASE}\nCOPY message /message\nRUN [\"/probe\", \"write\", \"/made\", \"x\"]\n";
    fs::write(folder.path().join("Dockerfile"), dockerfile)?;
    fs::write(folder.path().join("message"), "built")?;
    let context = folder.path().display().to_string();
    let base = format!("BASE={PROBE}");
    let build = ["buildx", "build", "--build-arg", &base, "--tag", "local/built:1", "--load", &context];
    smoke.0.docker(&build)?;
    let files = smoke.0.docker(&["run", "--rm", "local/built:1", "list", "/"])?;
    ensure!(["made", "message"].iter().all(|name| files.lines().any(|line| line == *name)), "{files}");
    Ok(())
}

fn dockerd_restarts_with_its_containers(smoke: &mut Smoke) -> Result<()> {
    let engine = &smoke.0;
    engine.docker(&["run", "--detach", "--name=stays", "--restart=always", PROBE, "wait"])?;
    engine.stop(Daemon::Dockerd)?;
    ensure!(!engine.try_docker(&["ps"])?.success(), "docker answers without dockerd");
    engine.start_and_wait(Daemon::Dockerd)?;
    until("the container runs again", || {
        let running = engine.docker(&["ps", "--format={{.Names}}"])?;
        ensure!(running.trim() == "stays", "{running}");
        Ok(())
    })?;
    engine.docker(&["rm", "--force", "stays"]).map(drop)
}

fn ended_engine_leaves_nothing_behind(smoke: Smoke) -> Result<()> {
    let engine = smoke.0;
    engine.docker(&["run", "--detach", PROBE, "wait"])?;
    let (folder, cgroup) = (engine.folder()?, engine.cgroup(1));
    engine.down()?;
    ensure!(!folder.exists(), "{} exists", folder.display());
    for hierarchy in ["/sys/fs/cgroup", "/sys/fs/cgroup/devices", "/sys/fs/cgroup/memory"] {
        ensure!(!Path::new(hierarchy).join(&cgroup).exists(), "{hierarchy}/{cgroup} exists");
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(!mounts.contains(&folder.display().to_string()), "mounted: {mounts}");
    Ok(())
}

/// Starts an engine and waits to be killed.
fn hold_orphan(name: &str) -> ExitCode {
    match Engine::up(name, Version::Current) {
        Ok(_engine) => loop {
            std::thread::park();
        },
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn orphan_is_ended() -> Result<()> {
    let name = "smoke-orphan";
    let mut child = Command::new(std::env::current_exe()?).env(ORPHAN, name).stdout(Stdio::null()).spawn()?;
    until("the orphan answers", || {
        ensure!(child.try_wait()?.is_none(), "its process ended");
        Engine::attach(name)?.docker(&["ps"])
    })?;
    let folder = Engine::attach(name)?.folder()?;
    child.kill()?;
    child.wait()?;
    ensure!(Engine::running()?.contains(&name.to_owned()), "it ended with its process");
    Instance::create(Kind::Engine, "smoke-next", 1)?.down()?;
    ensure!(!Engine::running()?.contains(&name.to_owned()), "it is running");
    ensure!(!folder.exists(), "{} exists", folder.display());
    Ok(())
}

fn until<T>(condition: &str, mut question: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match question() {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("{condition}: not within {} s", TIMEOUT.as_secs())));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}
