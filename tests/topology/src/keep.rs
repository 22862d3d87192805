//! A topology that outlives the command that asked for it: a process of its own holds it, and ends it when told to.

use std::process::{Child, ExitCode};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cluster::Cluster;
use lab::hold::Held;

/// Who holds the one that `up` left.
pub(crate) const HELD: Held = Held("lab-cluster");

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

/// Starts a process that holds one, and returns when it is up.
pub(crate) fn up(arguments: &[&str]) -> Result<()> {
    ensure!(!HELD.is_up()?, "it is up already: ./x lab cluster down ends it");
    HELD.up(&[&["hold"], arguments].concat())?;
    println!("It is up. ./x lab cluster kubectl get nodes; ./x lab cluster down ends it.");
    Ok(())
}

/// Ends it.
pub(crate) fn down() -> Result<()> {
    println!("{}", if HELD.down()? { "ended" } else { "nothing is up" });
    Ok(())
}

/// What is in it.
pub(crate) fn status(name: &str) -> Result<()> {
    ensure!(HELD.is_up()?, "nothing is up: ./x lab cluster up");
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
