//! docker/compose.yaml as a developer without a GPU uses it: up, a picture, down, and nothing is left. The desktop is sway,
//! drawn by the CPU; the sidecar encodes.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use cluster::product::http;
use engine::Output;
use engine::{Engine, Version, images};
use serde_json::Value;

/// Long, for busy machines: the limits are for what hangs.
const PATIENCE: Duration = Duration::from_mins(3);

#[test]
#[ignore = "root, and minutes: brings a Docker Engine up, and builds images"]
fn compose_brings_a_desktop_and_leaves_nothing() {
    let mut watch = Watch(Instant::now());
    let engine = Engine::up("compose", Version::Current).expect("it comes up");
    images::build(&engine, &["operator", "sidecar", "desktop-sway"]).expect("they are built");
    watch.lap("engine and images");
    let before = everything(&engine);

    compose(&engine, &["up", "--detach"]).expect("it starts");
    watch.lap("compose up");
    let stream = eventually(&engine, "the stream is ready", || {
        let stream = stream(&engine)?;
        let ready = condition(&stream, "Ready") == "True";
        if ready { Ok(stream) } else { Err(format!("{:#}", stream["status"])) }
    });
    watch.lap("ready");
    assert_eq!(stream["status"]["capture"]["rung"], "Local", "{:#}", stream["status"]);
    let log = compose(&engine, &["logs", "operator"]).expect("it has one");
    println!("{log}");

    let open = ["exec", "-T", "operator", "operator", "docker", "open", "--json", "sway"];
    let said = compose(&engine, &open).expect("it has a URL");
    let said: Value = serde_json::from_str(&said).expect("JSON");
    let url = said["url"].as_str().expect("a URL").to_owned();
    println!("{url}");
    a_picture_that_moves(&engine, &url);
    watch.lap("pictures");

    let running = engine.docker(&["ps", "--format={{.Names}}"]).expect("listed");
    assert_eq!(running.lines().count(), 3, "operator, desktop, sidecar: {running}");
    compose(&engine, &["down", "--volumes"]).expect("it ends");
    watch.lap("compose down");
    assert_eq!(everything(&engine), before, "nothing is left");
    engine.down().expect("it ends");
}

/// The viewers' server answers who has the token, and the clock on the desktop goes on.
fn a_picture_that_moves(engine: &Engine, url: &str) {
    let rest = url.strip_prefix("http://127.0.0.1:").expect("published on the loopback");
    let (port, rest) = rest.split_once('/').expect("a path");
    let (_, token) = rest.split_once("token=").expect("a token");
    let port: u16 = port.parse().expect("a port");
    let forward = engine.forward((Ipv4Addr::LOCALHOST, port).into()).expect("it leads there");
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
    let (first, size, colours) = eventually(engine, "a picture", picture);
    assert_eq!(size, (1280, 720));
    assert!(colours > 8, "there is something on it: {colours} colours");
    eventually(engine, "another picture", || {
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

/// The example, as `operator docker status --json` has it.
fn stream(engine: &Engine) -> Result<Value, String> {
    let words = ["exec", "-T", "operator", "operator", "docker", "status", "--json"];
    let text = compose(engine, &words)?;
    let all: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
    let items = all.as_array().or_else(|| all["items"].as_array()).cloned().unwrap_or_default();
    let found = items.into_iter().find(|stream| stream["metadata"]["name"] == "sway");
    found.ok_or_else(|| format!("no stream sway: {text}"))
}

fn condition(stream: &Value, kind: &str) -> String {
    let all = stream["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = all.into_iter().find(|it| it["type"] == kind).unwrap_or_default();
    found["status"].as_str().unwrap_or_default().to_owned()
}

/// `docker compose` with the file that we ship and the streams for machines without a GPU.
fn compose(engine: &Engine, words: &[&str]) -> Result<String, String> {
    let file = lab::repository().join("docker/compose.yaml").display().to_string();
    let mut command = engine.command("docker").expect("built");
    command.args(["compose", "--file", &file]).args(words).env("STREAMS", "./streams/cpu");
    let output: Output = cluster::cluster::run(&mut command, b"").expect("it runs");
    output.ok().map_err(|error| format!("{error:#}"))
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
fn eventually<T>(engine: &Engine, what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(error) if Instant::now() > deadline => {
                let logs = compose(engine, &["logs", "--tail=40"]).unwrap_or_else(|error| error);
                let containers = engine.docker(&["ps", "--all"]).unwrap_or_default();
                unreachable!("{what}: not within {} s: {error}\n{containers}\n{logs}", PATIENCE.as_secs());
            }
            Err(_) => std::thread::sleep(Duration::from_millis(500)),
        }
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
