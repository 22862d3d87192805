//! docker/compose.yaml as a developer without a GPU uses it: up, a picture, down, and nothing is left. The desktop is sway,
//! drawn by the CPU; the sidecar encodes, then the host-agent of the same file.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use cluster::product::http;
use engine::Engine;
use engine::Output;
use serde_json::Value;

/// Long, for busy machines: the limits are for what hangs.
const PATIENCE: Duration = Duration::from_mins(3);

#[test]
#[ignore = "root, and minutes: brings a Docker Engine up, and builds images"]
fn compose_brings_a_desktop_and_leaves_nothing() {
    let mut watch = Watch(Instant::now());
    let names = ["operator", "sidecar", "host-agent", "desktop-sway"];
    let engine = Engine::up_with_images("compose", &names).expect("it comes up");
    watch.lap("engine and images");
    let before = everything(&engine);
    let mut compose =
        Compose { engine: &engine, env: vec![("STREAMS".to_owned(), "./streams/cpu".to_owned())] };

    compose.run(&["up", "--detach"]).expect("it starts");
    watch.lap("compose up");
    let stream = compose.await_condition("Ready", "AsAsked");
    watch.lap("ready");
    assert_eq!(stream["status"]["capture"]["rung"], "Local", "{:#}", stream["status"]);
    let url = compose.url();
    compose.eventually("its output says where to look", || {
        let log = compose.run(&["logs", "operator"])?;
        if log.contains(&format!(" sway: {url}\n")) { Ok(()) } else { Err(log) }
    });
    a_picture_that_moves(&compose, &url);
    watch.lap("pictures");
    let running = engine.docker(&["ps", "--format={{.Names}}"]).expect("listed");
    assert_eq!(running.lines().count(), 3, "operator, desktop, sidecar: {running}");

    let folder = tempfile::tempdir().expect("a folder");
    with_a_host_agent(&mut compose, folder.path());
    watch.lap("with a host-agent");

    compose.run(&["--profile", "host-agent", "down", "--volumes"]).expect("it ends");
    watch.lap("compose down");
    assert_eq!(everything(&engine), before, "nothing is left");
    engine.down().expect("it ends");
}

/// By the recipe at the top of the file. There is no GPU here: pictures go as pixels, and who wants it otherwise is told why
/// not. Without the host-agent the sidecar encodes again.
fn with_a_host_agent(compose: &mut Compose<'_>, folder: &Path) {
    let key = folder.join("key.pub").display().to_string();
    compose.run(&["cp", "operator:/var/lib/desktopstream/signing-key.pem.pub", &key]).expect("it has a key");
    let (link, streams) = (folder.join("link"), folder.join("streams"));
    fs::create_dir(&link).expect("made");
    std::os::unix::fs::chown(&link, Some(1000), Some(1000)).expect("it is given away");
    fs::create_dir(&streams).expect("made");
    let example = lab::repository().join("docker/streams/cpu/sway.yaml");
    let example = fs::read_to_string(example).expect("it is there");
    let write = |require: &str| {
        let text = example.replace("encode: {where: Sidecar}", "encode: {where: Auto}");
        let text = text.replace("capture: {", &format!("capture: {{require: {require}, "));
        assert!(text.contains("Auto}") && text.contains("require:"), "the example has both: {text}");
        fs::write(streams.join("sway.yaml"), text).expect("written");
    };
    write("Any");
    compose.env = vec![
        ("STREAMS".to_owned(), streams.display().to_string()),
        ("OPERATOR_HOST_AGENT".to_owned(), "tcp://127.0.0.1:15937".to_owned()),
        ("PUBLIC_KEY".to_owned(), key),
        ("LINK_FOLDER".to_owned(), link.display().to_string()),
    ];
    compose.run(&["up", "--detach", "operator", "host-agent"]).expect("both start");
    let stream = compose.await_condition("Streaming", "ByPixels");
    assert_eq!(stream["status"]["hostAgent"], "default", "{:#}", stream["status"]);
    a_picture_that_moves(compose, &compose.url());

    write("ZeroCopy");
    let stream = compose.await_condition("Ready", "InvalidSpec");
    println!("{}", condition(&stream, "Ready")["message"]);

    write("Any");
    compose.await_condition("Streaming", "ByPixels");
    compose.run(&["stop", "host-agent"]).expect("it stops");
    let stream = compose.await_condition("Streaming", "ByLocalEncoder");
    println!("{}", condition(&stream, "Paired")["message"]);
    a_picture_that_moves(compose, &compose.url());
}

/// The viewers' server answers who has the token, and the clock on the desktop goes on.
fn a_picture_that_moves(compose: &Compose<'_>, url: &str) {
    let rest = url.strip_prefix("http://127.0.0.1:").expect("published on the loopback");
    let (port, rest) = rest.split_once('/').expect("a path");
    let (_, token) = rest.split_once("token=").expect("a token");
    let port: u16 = port.parse().expect("a port");
    let forward = compose.engine.forward((Ipv4Addr::LOCALHOST, port).into()).expect("it leads there");
    let (status, _) = http::get(forward.address(), "/snapshot.png", None).expect("it answers");
    assert_eq!(status, 401, "without the token");
    let picture = || {
        let (status, body) =
            http::get(forward.address(), "/snapshot.png", Some(token)).map_err(|it| it.to_string())?;
        if status != 200 {
            return Err(format!("{status}: {}", String::from_utf8_lossy(&body)));
        }
        Ok(decode(&body))
    };
    let (first, size, colours) = compose.eventually("a picture", picture);
    assert_eq!(size, (1280, 720));
    assert!(colours > 8, "there is something on it: {colours} colours");
    compose.eventually("another picture", || {
        let (next, ..) = picture()?;
        if next == first { Err("it is the same".to_owned()) } else { Ok(()) }
    });
}

/// Pixels, size, number of colours.
fn decode(file: &[u8]) -> (Vec<u8>, (u32, u32), usize) {
    let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().expect("a PNG");
    let mut pixels = vec![0; reader.output_buffer_size().expect("it fits")];
    let info = reader.next_frame(&mut pixels).expect("whole");
    let samples = info.color_type.samples();
    let colours: BTreeSet<&[u8]> = pixels.chunks_exact(samples).collect();
    let colours = colours.len();
    (pixels, (info.width, info.height), colours)
}

fn condition(stream: &Value, kind: &str) -> Value {
    let all = stream["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|it| it["type"] == kind).unwrap_or_default()
}

/// `docker compose` with the file that we ship.
struct Compose<'e> {
    engine: &'e Engine,
    env: Vec<(String, String)>,
}

impl Compose<'_> {
    fn run(&self, words: &[&str]) -> Result<String, String> {
        let file = lab::repository().join("docker/compose.yaml").display().to_string();
        let mut command = self.engine.command("docker").expect("built");
        command.args(["compose", "--file", &file]).args(words).envs(self.env.clone());
        let output: Output = cluster::cluster::run(&mut command, b"").expect("it runs");
        output.ok().map_err(|error| format!("{error:#}"))
    }

    /// What `operator docker WORDS` prints.
    fn operator(&self, words: &[&str]) -> Result<Value, String> {
        let text = self.run(&[&["exec", "-T", "operator", "operator", "docker"], words].concat())?;
        serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))
    }

    /// The example, when a condition has come to that reason.
    fn await_condition(&self, kind: &str, reason: &str) -> Value {
        self.eventually(&format!("{kind} is {reason}"), || {
            let all = self.operator(&["status", "--json"])?;
            let stream = all.as_array().into_iter().flatten().find(|it| it["metadata"]["name"] == "sway");
            let stream = stream.ok_or_else(|| format!("no stream sway: {all}"))?;
            let is = condition(stream, kind)["reason"] == reason;
            if is { Ok(stream.clone()) } else { Err(format!("{:#}", stream["status"])) }
        })
    }

    fn url(&self) -> String {
        let said = self.operator(&["open", "--json", "sway"]).expect("it has a URL");
        said["url"].as_str().expect("a URL").to_owned()
    }

    fn eventually<T>(&self, what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match ask() {
                Ok(found) => return found,
                Err(error) if Instant::now() > deadline => {
                    let logs = self.run(&["--profile", "host-agent", "logs", "--tail", "30"]);
                    unreachable!("{what}: not in time: {error}\n{}", logs.unwrap_or_else(|error| error));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(300)),
            }
        }
    }
}

/// Containers, networks and volumes.
fn everything(engine: &Engine) -> Vec<String> {
    let lists: [&[&str]; 3] = [
        &["ps", "--all", "--format={{.Names}}"],
        &["network", "ls", "--format={{.Name}}"],
        &["volume", "ls", "--format={{.Name}}"],
    ];
    let all = lists.map(|words| engine.docker(words).expect("listed"));
    all.iter().flat_map(|list| list.lines().map(str::to_owned)).collect()
}

/// Asks again until it is so; an end without carries the last answer and the operator's log.
/// Tells how long the parts of a test took.
struct Watch(Instant);

impl Watch {
    fn lap(&mut self, what: &str) {
        println!("{:6.1} s  {what}", self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}
