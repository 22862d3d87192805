//! A host-agent process on the host, with its own keys, sockets and ports.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use contract::HostAgentStatus;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{http, wait};

/// A running host-agent; terminated on drop.
#[derive(Debug)]
pub struct HostAgent {
    program: PathBuf,
    name: String,
    arguments: Vec<String>,
    /// Number of leading `arguments` that are not `extra`.
    base_arguments: usize,
    folder: TempDir,
    /// Ports for sidecars: TLS, and plaintext.
    port: u16,
    plaintext_port: u16,
    fingerprint: String,
    admin: u16,
    child: Child,
}

impl HostAgent {
    /// Starts `program` under the name `lab` with `extra` arguments appended, and waits until it is ready.
    ///
    /// # Errors
    /// Fails if the process does not become ready; the error contains its log.
    pub fn start(program: &Path, extra: &[&str]) -> Result<Self> {
        Self::start_as("lab", program, extra)
    }

    /// Like [`start`](Self::start) under another name: that of its `HostAgent` object.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_as(name: &str, program: &Path, extra: &[&str]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("host-agent-").tempdir()?;
        let key = |name: &str| folder.path().join(name).display().to_string();
        let made = Command::new(program)
            .args(["keygen", &key("key.pem")])
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("starting {}", program.display()))?;
        ensure!(made.status.success(), "host-agent keygen: {}", String::from_utf8_lossy(&made.stderr));
        let tls_key = key("tls.key");
        let printed = Command::new(program)
            .args(["fingerprint", "--tls-key", &tls_key])
            .stdin(Stdio::null())
            .output()?;
        ensure!(
            printed.status.success(),
            "host-agent fingerprint: {}",
            String::from_utf8_lossy(&printed.stderr)
        );
        let fingerprint = String::from_utf8(printed.stdout)?.trim().to_owned();
        let (port, plaintext_port, admin) = (free_port()?, free_port()?, free_port()?);
        let mut arguments: Vec<String> = [
            "serve",
            "--listen",
            &format!("tls://127.0.0.1:{port}"),
            "--listen",
            &format!("tcp://127.0.0.1:{plaintext_port}"),
            "--tls-key",
            &tls_key,
            "--admin",
            &format!("tcp://127.0.0.1:{admin}"),
            "--link",
            &key("link.sock"),
            "--public-key",
            &key("key.pem.pub"),
            "--name",
            name,
        ]
        .map(str::to_owned)
        .into();
        let base_arguments = arguments.len();
        arguments.extend(extra.iter().map(ToString::to_string));
        let child = spawn(program, &arguments, folder.path())?;
        let (program, name) = (program.to_owned(), name.to_owned());
        let it = Self {
            program,
            name,
            arguments,
            base_arguments,
            folder,
            port,
            plaintext_port,
            fingerprint,
            admin,
            child,
        };
        it.wait_ready()?;
        Ok(it)
    }

    fn wait_ready(&self) -> Result<()> {
        wait::until("host-agent ready", Duration::from_mins(2), || {
            let (status, body) = http::status(&format!("http://127.0.0.1:{}/readyz", self.admin), None)?;
            ensure!(status == 200, "readyz is {status}: {}", String::from_utf8_lossy(&body));
            Ok(())
        })
        .with_context(|| self.log())
    }

    /// Endpoint for sidecars in a VM with QEMU user networking.
    pub fn upstream(&self) -> String {
        format!("tls://10.0.2.2:{}#sha256={}", self.port, self.fingerprint)
    }

    /// The same without TLS, for programs that send hostile bytes.
    pub fn plaintext_upstream(&self) -> String {
        format!("tcp://10.0.2.2:{}", self.plaintext_port)
    }

    /// Unix socket for taps.
    pub fn link(&self) -> PathBuf {
        self.folder.path().join("link.sock")
    }

    /// Private key of accepted tokens.
    pub fn signing_key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    /// Mints a token for `stream`; `extra` arguments of `host-agent token`, e.g. `--seconds=-120` for an expired one.
    ///
    /// # Errors
    /// Fails if `host-agent token` fails.
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

    /// Response of `/status`.
    ///
    /// # Errors
    /// Fails without a valid response.
    pub fn status(&self) -> Result<HostAgentStatus> {
        http::json(&format!("http://127.0.0.1:{}/status", self.admin), None)
    }

    /// Port of `/status`, `/metrics` and probes.
    pub fn admin_port(&self) -> u16 {
        self.admin
    }

    /// Process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Log so far.
    pub fn log(&self) -> String {
        let log = std::fs::read(self.folder.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Kills the process (SIGKILL).
    ///
    /// # Errors
    /// Fails if the signal cannot be sent.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Kills the process and starts it with other `extra` arguments.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn restart_with(&mut self, extra: &[&str]) -> Result<()> {
        self.kill()?;
        self.arguments.truncate(self.base_arguments);
        self.arguments.extend(extra.iter().map(ToString::to_string));
        self.restart()
    }

    /// Starts the process again with the same keys, ports and socket.
    ///
    /// # Errors
    /// As [`start`](Self::start).
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
                self.child.try_wait()?.context("still running")
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

/// Port that was free when asked.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
