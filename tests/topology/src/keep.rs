//! A topology that outlives the command that asked for it: a process of its own holds it, and ends it when told to.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use cluster::Cluster;
use rustix::process::{Pid, Signal, kill_process};
use topology::Topology;
use topology::pieces::say;

/// Images are built the first time.
const PATIENCE: Duration = Duration::from_mins(40);
/// How long a VM, a cluster and what runs there may take to end.
const GRACE: Duration = Duration::from_secs(60);

/// A child that ends with this.
pub(crate) struct Reaped(pub(crate) Child);

impl Reaped {
    pub(crate) fn end(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        self.end();
    }
}

/// That somebody wants the end.
pub(crate) struct Told(Receiver<()>);

impl Told {
    pub(crate) fn wait(&self, limit: Option<Duration>) {
        // No sender is left, or the time is up: the end in any case.
        let _ = match limit {
            Some(limit) => self.0.recv_timeout(limit).is_ok(),
            None => self.0.recv().is_ok(),
        };
    }
}

/// From now on Ctrl-C and SIGTERM are words, not the end: what was put up must be taken down.
pub(crate) fn until_told() -> Result<Told> {
    let (tell, told) = channel();
    ctrlc::set_handler(move || {
        topology::pieces::stop();
        // Told once is told.
        let _ = tell.send(());
    })
    .context("listening for Ctrl-C")?;
    Ok(Told(told))
}

fn file(name: &str, what: &str) -> Result<PathBuf> {
    let folder = lab::cache::folder()?.join(".topologies");
    fs::create_dir_all(&folder)?;
    Ok(folder.join(format!("{name}.{what}")))
}

/// Starts a process that holds one, and returns when it is up.
pub(crate) fn up(name: &str, arguments: &[&str]) -> Result<()> {
    ensure!(!is_up(name)?, "it is up already: ./x lab cluster down ends it");
    let (log, ready) = (file(name, "log")?, file(name, "ready")?);
    let _ = fs::remove_file(&ready);
    let out = File::create(&log)?;
    let mut hold = Command::new(std::env::current_exe()?);
    hold.arg("hold").args(arguments).current_dir(lab::repository());
    hold.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).process_group(0);
    let mut child = hold.spawn().context("starting its holder")?;
    fs::write(file(name, "pid")?, child.id().to_string())?;
    let (deadline, mut told) = (Instant::now() + PATIENCE, 0);
    while !ready.exists() {
        let text = fs::read_to_string(&log).unwrap_or_default();
        for line in text.lines().skip(told) {
            eprintln!("{line}");
        }
        told = told.max(text.lines().count());
        if let Some(status) = child.try_wait()? {
            bail!("it did not come up ({status}); {} has all that it said", log.display());
        }
        ensure!(Instant::now() < deadline, "it is not up after {} s", PATIENCE.as_secs());
        sleep(Duration::from_millis(500));
    }
    println!("It is up. ./x lab cluster kubectl get nodes; ./x lab cluster down ends it.");
    Ok(())
}

/// Says that it is.
pub(crate) fn ready(topology: &Topology) -> Result<()> {
    let nodes = topology.bed.cluster.kubectl(&["get", "nodes"])?;
    Ok(fs::write(file(topology.bed.cluster.name(), "ready")?, nodes)?)
}

fn holder(name: &str) -> Result<Option<Pid>> {
    let Ok(text) = fs::read_to_string(file(name, "pid")?) else { return Ok(None) };
    let pid: i32 = text.trim().parse()?;
    // Numbers are used again: only a program of our name is it.
    let ours = fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("topology"));
    Ok(Pid::from_raw(pid).filter(|_| ours))
}

fn is_up(name: &str) -> Result<bool> {
    Ok(holder(name)?.is_some())
}

/// Ends it.
pub(crate) fn down(name: &str) -> Result<()> {
    let Some(pid) = holder(name)? else {
        println!("nothing is up");
        return Ok(());
    };
    kill_process(pid, Signal::TERM)?;
    let deadline = Instant::now() + GRACE;
    while is_up(name)? {
        ensure!(Instant::now() < deadline, "it has not ended after {} s", GRACE.as_secs());
        sleep(Duration::from_millis(200));
    }
    say("ended");
    Ok(())
}

/// What is in it.
pub(crate) fn status(name: &str) -> Result<()> {
    ensure!(is_up(name)?, "nothing is up: ./x lab cluster up");
    let cluster = Cluster::attach(name)?;
    for words in [
        &["get", "nodes", "-o", "wide"][..],
        &["get", "pods", "-A", "-o", "wide"],
        &["get", "dst,hostagents", "-A"],
    ] {
        println!("{}", cluster.kubectl(words)?);
    }
    Ok(())
}

/// kubectl's own words and status.
pub(crate) fn kubectl(name: &str, arguments: &[String]) -> ExitCode {
    let ran =
        Cluster::attach(name).and_then(|cluster| Ok(cluster.command("kubectl")?.args(arguments).status()?));
    match ran {
        Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(error) => {
            eprintln!("topology: {error:#}");
            ExitCode::FAILURE
        }
    }
}
