//! The program itself: its command line, its exit codes, its end.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::Client;
use crate::rig::PATIENCE;

pub fn host_agent(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_host-agent"));
    command.args(arguments).stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

fn run(arguments: &[&str]) -> Output {
    host_agent(arguments).output().expect("runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr()).expect("a port").port()
}

/// A daemon as a process; killed if the test fails.
pub struct Daemon {
    pub child: Child,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn legs(report: &Output) -> Vec<(String, String)> {
    let report: Value = serde_json::from_slice(&report.stdout).expect("JSON");
    let word = |leg: &Value, key: &str| leg[key].as_str().expect("text").to_owned();
    report["legs"]
        .as_array()
        .expect("legs")
        .iter()
        .map(|leg| (word(leg, "leg"), word(leg, "outcome")))
        .collect()
}

fn outcome(legs: &[(String, String)], name: &str) -> String {
    let found = legs.iter().find(|(leg, _)| leg.starts_with(name));
    found.unwrap_or_else(|| panic!("no leg {name}: {legs:?}")).1.clone()
}

async fn ended(daemon: &mut Daemon) -> i32 {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = daemon.child.try_wait().expect("waits") {
            return status.code().expect("an exit code, not a signal");
        }
        assert!(Instant::now() < end, "it never ends");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_keygen_to_sigterm() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (key, public, link) = (path("key"), path("key.pub"), path("link.sock"));
    assert!(run(&["keygen", &key]).status.success());
    let token = run(&["token", "--key", &key, "--stream", "team/desk", "--host-agent", "mac"]);
    let token = text(&token.stdout).trim().to_owned();
    let (port, admin) = (free_port(), format!("127.0.0.1:{}", free_port()));
    let listen = format!("tcp://127.0.0.1:{port}");
    // Half of it by file, half by flags.
    std::fs::write(
        path("config.toml"),
        format!("public-key = ['{public}']\nname = 'mac'\nencoder = 'null'\n"),
    )
    .expect("written");
    let config = path("config.toml");
    let common = ["--config", &config, "--listen", &listen, "--admin", &admin, "--link", &link];
    let doctor = || run(&[&["doctor", "--json"], &common[..]].concat());

    let before = doctor();
    assert_eq!(before.status.code(), Some(0), "{}", text(&before.stdout));
    assert_eq!(outcome(&legs(&before), "daemon"), "skipped");
    assert_eq!(outcome(&legs(&before), "listen"), "ok");

    let log = std::fs::File::create(path("log")).expect("a log");
    let child =
        host_agent(&[&["serve", "--log-json"], &common[..]].concat()).stderr(log).spawn().expect("starts");
    let mut daemon = Daemon { child };
    let end = Instant::now() + PATIENCE;
    while outcome(&legs(&doctor()), "daemon") != "ok" {
        assert!(Instant::now() < end, "{}", std::fs::read_to_string(path("log")).unwrap_or_default());
    }
    let after = doctor();
    let found = legs(&after);
    for (name, wanted) in
        [("key", "ok"), ("listen", "ok"), ("link", "ok"), ("taps", "skipped"), ("encoder x264enc", "ok")]
    {
        assert_eq!(outcome(&found, name), wanted, "{name}: {}", text(&after.stdout));
    }
    let second = run(&[&["serve"], &common[..]].concat());
    assert_eq!(second.status.code(), Some(1), "the addresses are taken");
    assert!(text(&second.stderr).contains("choose another"), "{}", text(&second.stderr));

    let mut client = Client::connect(&listen.parse().expect("an endpoint")).await;
    client.hello(&token).await;
    let pid = rustix::process::Pid::from_raw(daemon.child.id() as i32).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
    assert_eq!(client.error().await.0, protocol::stream::ErrorCode::ShuttingDown);
    client.closed().await;
    assert_eq!(ended(&mut daemon).await, 0);
    assert!(!Path::new(&link).exists(), "its socket is gone");
    for line in std::fs::read_to_string(path("log")).expect("a log").lines() {
        serde_json::from_str::<Value>(line).expect("every line of the log is JSON");
    }
}

#[test]
fn mistakes_are_told_by_exit_code_and_remedy() {
    let usage = run(&["serve", "--listen", "nonsense"]);
    assert_eq!(usage.status.code(), Some(2));
    assert!(text(&usage.stderr).contains("write tcp://"), "{}", text(&usage.stderr));
    let open = run(&["serve", "--insecure-no-auth", "--listen", "tcp://0.0.0.0:0"]);
    assert_eq!(open.status.code(), Some(1));
    assert!(text(&open.stderr).contains("--public-key"), "{}", text(&open.stderr));
    let no_keys = run(&["serve"]);
    assert_eq!(no_keys.status.code(), Some(1));
    assert!(text(&no_keys.stderr).contains("keygen"), "{}", text(&no_keys.stderr));
    let sick = run(&["doctor", "--public-key", "/does/not/exist", "--admin", "127.0.0.1:1"]);
    assert_eq!(sick.status.code(), Some(1));
    assert!(text(&sick.stdout).contains("FAILED"), "{}", text(&sick.stdout));
}
