//! The engine itself: what every test of the Docker mode takes for granted.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cluster::product::gpus::{self, FUSE, GROUP};
use cluster::product::http;
use engine::engine::PROBE;
use engine::{Daemon, Engine, Image, Version};

/// Long, for busy machines: the limits are for what hangs.
const PATIENCE: Duration = Duration::from_mins(2);

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

#[test]
#[ignore = "root, and minutes: brings a Docker Engine up"]
fn the_current_engine() {
    an_engine("smoke", Version::Current);
}

#[test]
#[ignore = "root, and Debian's docker.io: brings it up"]
fn the_oldest_engine() {
    an_engine("smoke-debian", Version::Debian);
}

fn an_engine(name: &str, version: Version) {
    let mut watch = Watch(Instant::now());
    let orphan = an_orphan(name, version);
    watch.lap("a run is killed");
    let mut engine = Engine::up(name, version).expect("it comes up");
    watch.lap("up");
    let running = Engine::running().expect("readable");
    assert!(running.contains(&name.to_owned()) && !running.contains(&orphan), "{running:?}");
    assert!(Engine::up(name, version).is_err(), "a name is taken once");
    println!("{}", engine.docker(&["version"]).expect("it says what it is"));

    images_come_from_folders(&engine);
    devices_are_given_one_by_one(&engine);
    watch.lap("images and devices");
    compose_works(&engine);
    watch.lap("compose up, ps, down");
    if version == Version::Current {
        buildx_builds_on_an_imported_base(&engine);
        watch.lap("buildx");
    }
    it_can_be_stopped(&mut engine);
    watch.lap("dockerd stopped and started");

    let (folder, cgroup) = (engine.folder().expect("it has one"), engine.cgroup());
    engine.down().expect("it ends");
    assert!(!folder.exists(), "{}", folder.display());
    for hierarchy in ["/sys/fs/cgroup", "/sys/fs/cgroup/devices", "/sys/fs/cgroup/memory"] {
        assert!(!Path::new(hierarchy).join(&cgroup).exists(), "{hierarchy}/{cgroup}");
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("readable");
    assert!(!mounts.contains(&folder.display().to_string()), "nothing of it is mounted outside");
    watch.lap("down");
}

/// An engine whose process was killed.
fn an_orphan(name: &str, version: Version) -> String {
    let orphan = format!("{name}-orphan");
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--ignored", "--exact", "is_killed"])
        .env("ENGINE_ORPHAN", &orphan)
        .env("ENGINE_DEBIAN", if version == Version::Debian { "1" } else { "" })
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    let deadline = Instant::now() + PATIENCE;
    while !Engine::attach(&orphan).is_ok_and(|engine| engine.try_docker(&["ps"]).is_ok_and(|it| it.success()))
    {
        assert!(Instant::now() < deadline, "the orphan never came up");
        assert!(child.try_wait().expect("ours").is_none(), "the orphan's process ended");
        std::thread::sleep(Duration::from_millis(200));
    }
    child.kill().expect("ours");
    child.wait().expect("ours");
    orphan
}

/// Not a test: what [`an_orphan`] kills.
#[test]
#[ignore = "run by another test"]
fn is_killed() {
    let Ok(name) = std::env::var("ENGINE_ORPHAN") else { return };
    let debian = std::env::var("ENGINE_DEBIAN").is_ok_and(|it| !it.is_empty());
    let version = if debian { Version::Debian } else { Version::Current };
    let _engine = Engine::up(&name, version).expect("it comes up");
    std::thread::sleep(PATIENCE * 2);
}

fn images_come_from_folders(engine: &Engine) {
    let folder = tempfile::tempdir().expect("a folder");
    let probe = engine.tools().program("probe").expect("built");
    fs::copy(probe, folder.path().join("who")).expect("copied");
    let image = Image::of_folder("docker.io/local/who:1", folder.path()).entrypoint(&["/who", "id"]).user(7);
    engine.load(&image).expect("taken");
    let said = engine.docker(&["run", "--rm", "--group-add", "4109", "local/who:1"]).expect("it runs");
    assert!(said.starts_with("uid=7 gid=0 ") && said.contains("4109]"), "{said}");
}

/// A render node that is given can be opened by its group, and nothing else can, though it is in sight.
fn devices_are_given_one_by_one(engine: &Engine) {
    let dev = engine.outside("/var/lib/gpus/dev");
    fs::create_dir_all(&dev).expect("made");
    gpus::device_file(&dev.join("renderD129"), FUSE).expect("made");
    let open = |node: &str, more: &[&str]| {
        let first = ["run", "--rm", "--user=1000", "--cap-drop=ALL"];
        let words = [&first, more, &[PROBE, "open", node][..]].concat();
        engine.try_docker(&words).expect("docker runs")
    };
    let group = format!("--group-add={GROUP}");
    let fuse = "/var/lib/gpus/dev/renderD129";
    let given = format!("--device={fuse}:/dev/dri/renderD129");
    let output = open("/dev/dri/renderD129", &[&given, &group]);
    assert_eq!(output.stdout.trim(), "opened", "{}", output.stderr);
    let output = open("/dev/dri/renderD129", &[&given]);
    assert!(output.stderr.contains("permission denied"), "without its group: {output:?}");
    // Its file lies there, its group is had, and yet: the device cgroup.
    let output = open("/gpus/renderD129", &["--volume=/var/lib/gpus/dev:/gpus", &group]);
    assert!(output.stderr.contains("operation not permitted"), "not given: {output:?}");
}

fn compose_works(engine: &Engine) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("compose.yaml");
    fs::write(&file, COMPOSE).expect("written");
    let compose = |words: &[&str]| {
        let file = file.display().to_string();
        let all = [&["compose", "--project-name", "smoke", "--file", &file], words].concat();
        engine.docker(&all).expect("compose works")
    };
    compose(&["up", "--detach"]);
    let deadline = Instant::now() + PATIENCE;
    while !compose(&["logs", "client"]).contains("from the server") {
        assert!(Instant::now() < deadline, "{}", compose(&["logs"]));
        std::thread::sleep(Duration::from_millis(200));
    }
    let services = compose(&["ps", "--services"]);
    assert_eq!(services.trim(), "server", "the client has ended");
    let published = compose(&["port", "server", "8080"]);
    let port = published.trim().rsplit(':').next().and_then(|it| it.parse().ok()).expect("a port");
    let forward = engine.forward((Ipv4Addr::LOCALHOST, port).into()).expect("it leads there");
    let (status, body) = http::get(forward.address(), "/", None).expect("it answers");
    assert_eq!((status, String::from_utf8_lossy(&body).as_ref()), (200, "from the server\n"));
    compose(&["down", "--volumes"]);
    assert_eq!(engine.docker(&["ps", "--all", "--quiet"]).expect("listed"), "");
    assert_eq!(engine.docker(&["volume", "ls", "--quiet"]).expect("listed"), "");
    let networks = engine.docker(&["network", "ls", "--format={{.Name}}"]).expect("listed");
    assert!(!networks.contains("smoke"), "{networks}");
}

fn buildx_builds_on_an_imported_base(engine: &Engine) {
    let folder = tempfile::tempdir().expect("a folder");
    let text =
        "ARG BASE\nFROM ${BASE}\nCOPY message /message\nRUN [\"/probe\", \"write\", \"/made\", \"x\"]\n";
    fs::write(folder.path().join("Dockerfile"), text).expect("written");
    fs::write(folder.path().join("message"), "built").expect("written");
    let at = folder.path().display().to_string();
    let base = format!("BASE={PROBE}");
    engine
        .docker(&["buildx", "build", "--build-arg", &base, "--tag", "local/built:1", "--load", &at])
        .expect("it builds");
    let said = engine.docker(&["run", "--rm", "local/built:1", "list", "/"]).expect("it runs");
    assert!(["made", "message"].iter().all(|name| said.lines().any(|line| line == *name)), "{said}");
}

fn it_can_be_stopped(engine: &mut Engine) {
    engine.docker(&["run", "--detach", "--name=stays", "--restart=always", PROBE, "wait"]).expect("it runs");
    engine.stop(Daemon::Dockerd).expect("it stops");
    assert!(!engine.try_docker(&["ps"]).expect("docker runs").success());
    engine.start(Daemon::Dockerd).expect("it starts");
    let deadline = Instant::now() + PATIENCE;
    while engine.docker(&["ps", "--format={{.Names}}"]).expect("listed").trim() != "stays" {
        assert!(Instant::now() < deadline, "the container came up again");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Tells how long the parts of a test took.
struct Watch(Instant);

impl Watch {
    fn lap(&mut self, what: &str) {
        println!("{:6.1} s  {what}", self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}
