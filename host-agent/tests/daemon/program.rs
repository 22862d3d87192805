//! The program: command line, exit status, shutdown.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use contract::Endpoint;
use contract::doctor::{Outcome, Report};
use serde_json::Value;

use crate::client::Client;
use crate::rig::{POLL_INTERVAL, TIMEOUT};

fn host_agent<S: AsRef<OsStr>>(arguments: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_host-agent"));
    command.args(arguments).stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

/// Arguments of a daemon whose link and admin sockets are in `folder`.
fn serve(folder: &Path, arguments: &[&str]) -> Vec<String> {
    let link = folder.join("link.sock").display().to_string();
    let tls_key = folder.join("tls.key").display().to_string();
    let all = [&["serve", "--log-json", "--link", &link, "--tls-key", &tls_key], arguments].concat();
    all.into_iter().map(str::to_owned).collect()
}

fn insecure(folder: &Path, arguments: &[&str]) -> Vec<String> {
    let listen = format!("unix:{}", folder.join("stream.sock").display());
    serve(folder, &[&["--insecure-no-auth", "--listen", &listen], arguments].concat())
}

fn run(arguments: &[&str]) -> Output {
    host_agent(arguments).output().expect("runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A daemon as a process; killed when it is dropped.
pub struct Process {
    pub child: Child,
    /// Endpoint for sidecars, with the assigned port.
    pub listen: Endpoint,
    /// Endpoint of the admin server.
    pub admin: Endpoint,
    log: PathBuf,
}

impl Process {
    /// Starts `host-agent serve` with an assigned TCP port; its other sockets and its log are in `folder`.
    pub async fn start(folder: &Path, arguments: &[&str]) -> Self {
        let listen = ["--listen", "tcp://127.0.0.1:0"];
        Self::spawn(host_agent(&serve(folder, &[&listen, arguments].concat())), folder).await
    }

    /// The same without authentication, on a Unix socket.
    pub async fn start_insecure(folder: &Path, arguments: &[&str]) -> Self {
        Self::spawn(host_agent(&insecure(folder, arguments)), folder).await
    }

    /// The same with this soft limit of descriptors.
    pub async fn start_with_descriptors(folder: &Path, descriptors: u32, arguments: &[&str]) -> Self {
        let script = format!("ulimit -S -n {descriptors} && exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_host-agent")]).args(insecure(folder, arguments));
        command.stdin(Stdio::null()).env_remove("RUST_LOG");
        Self::spawn(command, folder).await
    }

    async fn spawn(mut command: Command, folder: &Path) -> Self {
        let log = folder.join("log");
        let child =
            command.stderr(std::fs::File::create(&log).expect("log created")).spawn().expect("started");
        let unknown = Endpoint::Unix(folder.to_owned());
        let mut process = Self { child, listen: unknown.clone(), admin: unknown, log };
        let (listen, admin) = (process.logged("endpoint").await, process.logged("admin").await);
        process.listen = listen.parse().expect("an endpoint");
        process.admin = admin.parse().expect("an endpoint");
        process
    }

    /// Waits for a log message with this field.
    async fn logged(&self, field: &str) -> String {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let log = std::fs::read_to_string(&self.log).expect("log read");
            let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let value = lines.find_map(|line| line["fields"][field].as_str().map(str::to_owned));
            if let Some(value) = value {
                return value;
            }
            assert!(Instant::now() < deadline, "timeout: {field} in the log: {log}");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits for the process to exit and returns its exit status.
    async fn exited(&mut self) -> i32 {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait().expect("waited") {
                return status.code().expect("an exit status, not a signal");
            }
            assert!(Instant::now() < deadline, "timeout: exit");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn doctor(arguments: &[&str]) -> (Option<i32>, Report) {
    let output = run(&[&["doctor", "--json"], arguments].concat());
    (output.status.code(), serde_json::from_slice(&output.stdout).expect("a report"))
}

/// The outcome of the first check whose name starts with `prefix`.
fn outcome(report: &Report, prefix: &str) -> Outcome {
    let found = report.checks.iter().find(|check| check.name.starts_with(prefix));
    found.unwrap_or_else(|| panic!("no check {prefix}: {report:?}")).outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn daemon_serves_a_generated_token_and_shuts_down_on_sigterm() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (key, public) = (path("key"), path("key.pub"));
    assert!(run(&["keygen", &key]).status.success());
    let token = run(&["token", "--key", &key, "--stream", "team/desk", "--host-agent", "mac"]);
    let token = text(&token.stdout).trim().to_owned();
    // One half of the options is in the file, the other on the command line.
    let options = format!("public-key = ['{public}']\nname = 'mac'\nencoder = 'null'\n");
    std::fs::write(path("config.toml"), options).expect("file written");
    let config = ["--config", &path("config.toml")];
    let mut process = Process::start(folder.path(), &config).await;

    let mut client = Client::connect(&process.listen).await;
    client.hello(&token).await;
    let pid = rustix::process::Pid::from_raw(process.child.id() as i32).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
    assert_eq!(client.error().await.0, protocol::stream::ErrorCode::ShuttingDown);
    client.closed().await;
    assert_eq!(process.exited().await, 0);
    assert!(!folder.path().join("link.sock").exists(), "the link's socket is removed");
    for line in std::fs::read_to_string(path("log")).expect("log read").lines() {
        serde_json::from_str::<Value>(line).expect("JSON");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_checks_a_running_daemon_and_a_machine_without_one() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (key, public, link) = (path("key"), path("key.pub"), path("link.sock"));
    assert!(run(&["keygen", &key]).status.success());
    let common = ["--public-key", &public, "--link", &link];

    let absent = ["--listen", "tcp://127.0.0.1:0"];
    let (code, report) = doctor(&[&common[..], &absent].concat());
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(outcome(&report, "daemon"), Outcome::Skipped);
    assert_eq!(outcome(&report, "listen"), Outcome::Ok);

    let process = Process::start(folder.path(), &["--public-key", &public]).await;
    let listen = process.listen.to_string();
    let running = ["--listen", &listen];
    let (code, report) = doctor(&[&common[..], &running].concat());
    assert_eq!(code, Some(0), "{report}");
    for name in ["keys", "daemon", "listen", "link", "encoder x264enc"] {
        assert_eq!(outcome(&report, name), Outcome::Ok, "{name}: {report}");
    }
    assert_eq!(outcome(&report, "taps"), Outcome::Skipped);
}

#[tokio::test(flavor = "multi_thread")]
async fn second_daemon_with_the_same_addresses_fails_with_a_remedy() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let process = Process::start_insecure(folder.path(), &[]).await;
    let (listen, admin) = (process.listen.to_string(), process.admin.to_string());
    let second = run(&["serve", "--insecure-no-auth", "--listen", &listen, "--admin", &admin]);
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains("choose another"), "{}", text(&second.stderr));
}

#[test]
fn invalid_command_line_exits_with_2() {
    let output = run(&["serve", "--listen", "nonsense"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("write tls://"), "{}", text(&output.stderr));
}

#[test]
fn invalid_configuration_exits_with_1_and_a_remedy() {
    let cases: [(&[&str], &str); 2] = [
        (&["serve", "--insecure-no-auth", "--listen", "tcp://127.0.0.1:0"], "--public-key"),
        (&["serve"], "keygen"),
    ];
    for (arguments, remedy) in cases {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(text(&output.stderr).contains(remedy), "{}", text(&output.stderr));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn printed_fingerprint_is_that_of_the_daemons_endpoint() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    assert!(run(&["keygen", &path("key")]).status.success());
    let printed = run(&["fingerprint", "--tls-key", &path("tls.key")]);
    assert!(printed.status.success(), "{}", text(&printed.stderr));
    let arguments = ["--public-key", &path("key.pub"), "--encoder", "null", "--listen", "tls://127.0.0.1:0"];
    let process = Process::spawn(host_agent(&serve(folder.path(), &arguments)), folder.path()).await;
    let endpoint = process.listen.to_string();
    assert!(endpoint.starts_with("tls://127.0.0.1:"), "{endpoint}");
    assert!(endpoint.ends_with(&format!("#sha256={}", text(&printed.stdout).trim())), "{endpoint}");
}

#[test]
fn doctor_with_a_failed_check_exits_with_1() {
    let output = run(&["doctor", "--public-key", "/missing", "--admin", "unix:/missing/admin.sock"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("FAILED"), "{}", text(&output.stdout));
}
