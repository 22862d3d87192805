//! A host-agent on the host, with keys, sockets and ports of its own.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::{http, wait};

/// A running host-agent; ends with this handle.
#[derive(Debug)]
pub struct HostAgent {
    program: PathBuf,
    name: String,
    arguments: Vec<String>,
    /// How many of them are not `extra`.
    own: usize,
    folder: TempDir,
    port: u16,
    admin: u16,
    child: Child,
}

impl HostAgent {
    /// Starts `program` under the name `lab`, and waits until it is ready. `extra` arguments go behind our own.
    pub fn start(program: &Path, extra: &[&str]) -> Result<Self> {
        Self::start_as("lab", program, extra)
    }

    /// The same under another name: that of its HostAgent.
    pub fn start_as(name: &str, program: &Path, extra: &[&str]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("host-agent-").tempdir()?;
        let key = |name: &str| folder.path().join(name).display().to_string();
        let made = Command::new(program)
            .args(["keygen", &key("key.pem")])
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("starting {}", program.display()))?;
        ensure!(made.status.success(), "host-agent keygen: {}", String::from_utf8_lossy(&made.stderr));
        let (port, admin) = (free_port()?, free_port()?);
        let mut arguments: Vec<String> = [
            "serve",
            "--listen",
            &format!("tcp://127.0.0.1:{port}"),
            "--admin",
            &format!("127.0.0.1:{admin}"),
            "--link",
            &key("link.sock"),
            "--public-key",
            &key("key.pem.pub"),
            "--name",
            name,
        ]
        .map(str::to_owned)
        .into();
        let own = arguments.len();
        arguments.extend(extra.iter().map(ToString::to_string));
        let child = spawn(program, &arguments, folder.path())?;
        let (program, name) = (program.to_owned(), name.to_owned());
        let it = Self { program, name, arguments, own, folder, port, admin, child };
        it.wait_ready()?;
        Ok(it)
    }

    fn wait_ready(&self) -> Result<()> {
        wait::until("host-agent ready", Duration::from_secs(10), || {
            let (status, body) = http::status(&format!("http://127.0.0.1:{}/readyz", self.admin), None)?;
            ensure!(status == 200, "readyz is {status}: {}", String::from_utf8_lossy(&body));
            Ok(())
        })
        .with_context(|| self.log())
    }

    /// Where sidecars in a VM with user networking reach it.
    pub fn upstream(&self) -> String {
        format!("tcp://10.0.2.2:{}", self.port)
    }

    /// Where taps connect.
    pub fn link(&self) -> PathBuf {
        self.folder.path().join("link.sock")
    }

    /// The private key whose tokens it takes.
    pub fn signing_key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    /// A token for a stream; `extra` arguments e.g. for one that has expired.
    pub fn token(&self, stream: &str, extra: &[&str]) -> Result<String> {
        let output = Command::new(&self.program)
            .args(["token", "--stream", stream, "--host-agent", &self.name, "--key"])
            .arg(self.signing_key())
            .args(extra)
            .stdin(Stdio::null())
            .output()?;
        ensure!(output.status.success(), "host-agent token: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Its `/status`.
    pub fn status(&self) -> Result<Value> {
        http::json(&format!("http://127.0.0.1:{}/status", self.admin), None)
    }

    /// Port of its admin endpoint.
    pub fn admin_port(&self) -> u16 {
        self.admin
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        let log = std::fs::read(self.folder.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Ends it and starts it with other `extra` arguments.
    pub fn restart_with(&mut self, extra: &[&str]) -> Result<()> {
        self.kill()?;
        self.arguments.truncate(self.own);
        self.arguments.extend(extra.iter().map(ToString::to_string));
        self.restart()
    }

    /// Starts it again, as a supervisor would: same keys, ports and socket.
    pub fn restart(&mut self) -> Result<()> {
        self.child = spawn(&self.program, &self.arguments, self.folder.path())?;
        self.wait_ready()
    }
}

impl Drop for HostAgent {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
                let _ = kill_process(pid, Signal::TERM);
            }
            let ended = wait::until("host-agent ended", Duration::from_secs(3), || {
                self.child.try_wait()?.context("it runs")
            });
            if ended.is_err() {
                let _ = self.child.kill();
            }
        }
        let _ = self.child.wait();
    }
}

fn spawn(program: &Path, arguments: &[String], folder: &Path) -> Result<Child> {
    let log = File::options().create(true).append(true).open(folder.join("log"))?;
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("starting {}", program.display()))?;
    Ok(child)
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
