//! A topology that outlives the command that started it, held by a process of its own.

use std::process::{Child, ExitCode};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cluster::Cluster;
use lab::hold::Held;

/// The process that holds the topology that `up` started.
pub(crate) const HELD: Held = Held("lab-cluster");

/// A child process. Ended on drop.
pub(crate) struct Reaped(pub(crate) Child);

impl Reaped {
    pub(crate) fn end(&mut self) {
        // The process may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        self.end();
    }
}

/// Receives the first SIGINT or SIGTERM.
pub(crate) struct Signals(Receiver<()>);

impl Signals {
    /// Waits for a signal, at most for `limit`.
    pub(crate) fn wait(&self, limit: Option<Duration>) {
        // An error means that the time is up or that no sender is left: the end in either case.
        let _ = match limit {
            Some(limit) => self.0.recv_timeout(limit).is_ok(),
            None => self.0.recv().is_ok(),
        };
    }
}

/// Replaces the default action of SIGINT and SIGTERM, so that a topology is taken down.
pub(crate) fn handle_signals() -> Result<Signals> {
    let (sender, receiver) = channel();
    ctrlc::set_handler(move || {
        topology::interrupt();
        // The receiver is gone after the first signal.
        let _ = sender.send(());
    })
    .context("listening for Ctrl-C")?;
    Ok(Signals(receiver))
}

/// Starts a process that holds a topology; returns when the topology is up.
pub(crate) fn up(arguments: &[&str]) -> Result<()> {
    ensure!(!HELD.is_up()?, "the topology is already running: end it with ./x lab cluster down");
    HELD.up(&[&["hold"], arguments].concat())?;
    println!(
        "The topology is up. List its nodes with ./x lab cluster kubectl get nodes, end it with ./x lab cluster down."
    );
    Ok(())
}

/// Ends the topology.
pub(crate) fn down() -> Result<()> {
    println!("{}", if HELD.down()? { "ended" } else { "not running" });
    Ok(())
}

/// Prints nodes, pods and streams.
pub(crate) fn status(name: &str) -> Result<()> {
    ensure!(HELD.is_up()?, "the topology is not running: start it with ./x lab cluster up");
    let cluster = Cluster::attach(name)?;
    for arguments in [
        &["get", "nodes", "-o", "wide"][..],
        &["get", "pods", "-A", "-o", "wide"],
        &["get", "dst,hostagents", "-A"],
    ] {
        println!("{}", cluster.kubectl(arguments)?);
    }
    Ok(())
}

/// Runs kubectl on this process's terminal; returns its exit status.
pub(crate) fn kubectl(name: &str, arguments: &[String]) -> Result<ExitCode> {
    let status = Cluster::attach(name)?.command("kubectl")?.args(arguments).status()?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
