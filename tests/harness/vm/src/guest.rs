//! Commands and files of a running guest, over one shared ssh connection.
//!
//! The user key and the host key are generated once per user; the guest receives them in its initramfs and is reachable only
//! from the host's loopback. Every command has a time limit.

use std::fs;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cache::Recipe;
use crate::host;
use crate::vm::Network;

/// Time limit of a command. Generous, because emulated guests are slow on a busy machine.
const EXEC_TIMEOUT: Duration = Duration::from_mins(5);
const COPY_TIMEOUT: Duration = Duration::from_mins(5);
/// ssh control socket in the VM's state folder; relative because Unix socket paths are limited to 107 bytes.
const CONTROL_SOCKET: &str = "ssh.sock";

/// Result of a command.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit status; 255 also if ssh failed.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// True for exit status 0.
    pub fn success(&self) -> bool {
        self.status == 0
    }

    /// Standard output of a successful command.
    ///
    /// # Errors
    /// Quotes the output of a failed command.
    pub fn ok(self) -> Result<String> {
        if !self.success() {
            bail!(
                "exit status {}\nstdout: {}\nstderr: {}",
                self.status,
                self.stdout.trim_end(),
                self.stderr.trim_end()
            );
        }
        Ok(self.stdout)
    }
}

/// Handle on a running guest, cheap to clone.
#[derive(Debug, Clone)]
pub struct Guest {
    state: PathBuf,
    port: u16,
    /// Network namespace whose loopback has the port; `None` for that of this process.
    namespace: Option<PathBuf>,
}

impl Guest {
    pub(crate) fn new(state: PathBuf, port: u16, network: Option<&Network>) -> Self {
        Self { state, port, namespace: network.map(|network| network.namespace.clone()) }
    }

    /// The VM's state folder.
    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    /// True if an ssh server answers. A successful connection is not sufficient: QEMU accepts before the guest listens.
    pub(crate) fn answers(&self) -> bool {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let connect = move || TcpStream::connect_timeout(&address, Duration::from_millis(500));
        let namespace = self.namespace.as_deref().map(fs::File::open).transpose();
        let Ok(mut stream) = namespace.and_then(|it| host::within_network(it, connect)) else {
            return false;
        };
        let mut banner = [0; 4];
        stream.set_read_timeout(Some(Duration::from_secs(2))).is_ok()
            && stream.read_exact(&mut banner).is_ok()
            && &banner == b"SSH-"
    }

    /// Opens the shared connection.
    pub(crate) fn connect(&self) -> Result<()> {
        // A log file, because the background process would keep a pipe of the caller open.
        let log = fs::File::create(self.state.join("ssh.log"))?;
        // Other ssh processes use the control socket, which does not depend on their network namespace.
        let mut master = host::in_network(self.ssh("yes"), self.namespace.as_deref());
        master.args(["-o", "ConnectTimeout=30", "-o", "ServerAliveInterval=0", "-N", "-f", "guest"]);
        let status =
            master.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).status().context("starting ssh")?;
        if !status.success() {
            bail!("ssh failed: {status}: {}", host::tail(&self.state.join("ssh.log"), 5));
        }
        Ok(())
    }

    pub(crate) fn disconnect(&self) {
        let mut exit = self.ssh("no");
        exit.args(["-O", "exit", "guest"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // There may be no connection.
        let _ = exit.status();
    }

    /// Runs a shell command as root, for at most five minutes.
    pub fn exec(&self, command: &str) -> Result<Output> {
        self.exec_within(EXEC_TIMEOUT, command)
    }

    /// Like [`exec`](Self::exec) with another time limit.
    pub fn exec_within(&self, limit: Duration, command: &str) -> Result<Output> {
        self.exec_with_input(limit, command, &[])
    }

    /// Like [`exec_within`](Self::exec_within) with standard input.
    pub fn exec_with_input(&self, limit: Duration, command: &str, input: &[u8]) -> Result<Output> {
        let mut ssh = self.ssh("no");
        ssh.arg("guest").arg(command);
        run_within(ssh, limit, input).with_context(|| format!("in the guest: {}", shorten(command)))
    }

    /// Standard output of a command that must succeed.
    ///
    /// # Errors
    /// Quotes the output of a failed command.
    pub fn check(&self, command: &str) -> Result<String> {
        self.exec(command)?.ok().with_context(|| format!("in the guest: {}", shorten(command)))
    }

    /// Runs a command, or a shell, with the standard streams of this process.
    pub fn interact(&self, command: Option<&str>) -> Result<ExitStatus> {
        let mut ssh = self.ssh("no");
        if command.is_none() {
            ssh.arg("-t");
        }
        ssh.arg("guest").args(command);
        ssh.status().context("starting ssh")
    }

    /// Forwards a free port of the host's loopback to `port` of the guest over ssh while the VM runs. Returns the host port.
    pub fn forward(&self, port: u16) -> Result<u16> {
        let own = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut ssh = self.ssh("no");
        ssh.args(["-O", "forward", "-L", &format!("127.0.0.1:{own}:127.0.0.1:{port}"), "guest"]);
        run_within(ssh, EXEC_TIMEOUT, &[])?
            .ok()
            .with_context(|| format!("forwarding to port {port} of the guest"))?;
        Ok(own)
    }

    /// Copies a file or folder into the guest. A file replaces `to` atomically, even a running program.
    pub fn copy_to(&self, from: &Path, to: &str) -> Result<()> {
        let metadata = fs::metadata(from).with_context(|| format!("reading {}", from.display()))?;
        if metadata.is_dir() {
            return self.scp(&[&from.display().to_string(), &format!("guest:{to}")]);
        }
        let mode = metadata.permissions().mode() & 0o777;
        let (to, new) = (quote(to), quote(&format!("{to}.new")));
        let command =
            format!("mkdir -p \"$(dirname {to})\" && cat >{new} && chmod {mode:o} {new} && mv -f {new} {to}");
        self.exec_with_input(COPY_TIMEOUT, &command, &fs::read(from)?)?.ok()?;
        Ok(())
    }

    /// Copies a file or folder out of the guest.
    pub fn copy_from(&self, from: &str, to: &Path) -> Result<()> {
        self.scp(&[&format!("guest:{from}"), &to.display().to_string()])
    }

    /// Writes a file in the guest.
    pub fn write(&self, to: &str, contents: &[u8]) -> Result<()> {
        self.exec_with_input(COPY_TIMEOUT, &format!("cat >{}", quote(to)), contents)?.ok()?;
        Ok(())
    }

    fn scp(&self, paths: &[&str]) -> Result<()> {
        let mut scp = Command::new("scp");
        scp.args(["-q", "-r"]).args(self.options("no")).args(paths);
        // Relative paths refer to the working directory of the caller.
        run_within(scp, COPY_TIMEOUT, &[])?.ok().with_context(|| format!("scp {}", paths.join(" ")))?;
        Ok(())
    }

    fn ssh(&self, master: &str) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args(self.options(master)).current_dir(&self.state);
        ssh
    }

    fn options(&self, master: &str) -> Vec<String> {
        let control = if master == "no" {
            self.state.join(CONTROL_SOCKET).display().to_string()
        } else {
            CONTROL_SOCKET.to_owned()
        };
        let config = self.state.join("ssh_config").display().to_string();
        vec![
            "-F".into(),
            config,
            "-o".into(),
            format!("ControlMaster={master}"),
            "-o".into(),
            format!("ControlPath={control}"),
        ]
    }

    /// Writes `ssh_config` for the guest to the state folder; usable with `ssh -F`.
    pub(crate) fn write_config(&self, keys: &Keys) -> Result<()> {
        let known_hosts = self.state.join("known_hosts");
        fs::write(&known_hosts, format!("* {}", fs::read_to_string(keys.host_public())?))?;
        let config = format!(
            "Host *\n HostName 127.0.0.1\n Port {}\n User root\n IdentityFile {}\n IdentitiesOnly yes\n \
             UserKnownHostsFile {}\n GlobalKnownHostsFile none\n StrictHostKeyChecking yes\n \
             KexAlgorithms curve25519-sha256\n LogLevel ERROR\n",
            self.port,
            keys.user().display(),
            known_hosts.display(),
        );
        fs::write(self.state.join("ssh_config"), config)?;
        Ok(())
    }
}

/// ssh key pairs of the lab, generated once per user: the user key and the host key of all guests.
pub(crate) struct Keys(PathBuf);

impl Keys {
    pub(crate) fn make() -> Result<Self> {
        let folder = Recipe::new("ssh-keys", 1).build(|out| {
            for name in ["user", "host"] {
                let mut keygen = Command::new("ssh-keygen");
                keygen
                    .args(["-q", "-t", "ed25519", "-N", "", "-C", "desktopstream-lab", "-f"])
                    .arg(out.join(name));
                host::run(&mut keygen)?;
            }
            Ok(())
        })?;
        Ok(Self(folder))
    }

    fn user(&self) -> PathBuf {
        self.0.join("user")
    }

    pub(crate) fn user_public(&self) -> PathBuf {
        self.0.join("user.pub")
    }

    pub(crate) fn host(&self) -> PathBuf {
        self.0.join("host")
    }

    fn host_public(&self) -> PathBuf {
        self.0.join("host.pub")
    }
}

/// Quotes a word for a POSIX shell.
pub fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn shorten(command: &str) -> String {
    let line: String = command.chars().take(200).collect();
    if line.len() < command.len() { format!("{line}…") } else { line }
}

/// Time limit for the output of a command that was killed.
const KILLED_TIMEOUT: Duration = Duration::from_secs(2);

fn run_within(mut command: Command, limit: Duration, input: &[u8]) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting ssh: is it installed? ./x installs what is missing")?;
    let (stdin, input) = (child.stdin.take(), input.to_vec());
    // A command that doesn't read what it is given says so by its status, if it cares.
    thread::spawn(move || stdin.map(|mut pipe| pipe.write_all(&input)));
    let (stdout, stderr) = (reader(child.stdout.take()), reader(child.stderr.take()));
    let status = wait_within(&mut child, limit);
    // The connection's master process has the pipes, too, until the command in the guest ends.
    let is_killed = matches!(status, Ok(None));
    let read = |output: &Receiver<String>| {
        if is_killed { output.recv_timeout(KILLED_TIMEOUT).ok() } else { output.recv().ok() }
            .unwrap_or_default()
    };
    let (stdout, stderr) = (read(&stdout), read(&stderr));
    let Some(status) = status? else {
        bail!(
            "still running after {} s\nstdout: {}\nstderr: {}",
            limit.as_secs(),
            stdout.trim_end(),
            stderr.trim_end()
        );
    };
    let status = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255);
    Ok(Output { status, stdout, stderr })
}

/// Exit status, or `None` if the process was killed at the time limit.
fn wait_within(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Receives the whole output of a pipe once it is closed.
fn reader(pipe: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // Output read before an error is kept.
        let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_word_survives_a_shell() {
        for word in ["plain", "two words", "it's", "$HOME `id` \\ \"", ""] {
            let output = Command::new("sh")
                .arg("-c")
                .arg(format!("printf %s {}", quote(word)))
                .output()
                .expect("sh runs");
            assert_eq!(String::from_utf8_lossy(&output.stdout), word);
        }
    }

    #[test]
    fn command_that_exceeds_its_limit_fails_with_its_output() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo begun; exec sleep 60"]);
        let error = run_within(command, Duration::from_millis(300), &[]).expect_err("killed");
        assert!(error.to_string().contains("begun"), "{error}");
    }
}
