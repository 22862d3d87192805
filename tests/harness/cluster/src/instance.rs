//! The handle of a running cluster or engine.
//!
//! ```text
//!           create                     detach
//! (nothing) ──▶ instance, ends with its handle ──▶ instance without an owner ──▶ down
//!                │ its process is killed                  ▲ attach │
//!                ▼                                        └────────┘
//!               orphan: the next `create` of that kind ends it
//! ```

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};

use crate::daemon::{Daemon, Launch, Running};
use crate::machine::Machine;
use crate::progress;
use crate::state::State;

pub use crate::state::Kind;

static KEEP_FOLDERS: AtomicBool = AtomicBool::new(false);

/// Keeps the folders, with the daemons' logs, of all instances that this process drops from now on. For failed tests.
pub fn keep_folders() {
    KEEP_FOLDERS.store(true, Ordering::Relaxed);
}

/// A running cluster or engine: machines, daemons, and a folder.
///
/// Dropping the handle ends the instance if this process created it, unless it was [detached](Self::detach). The folder stays
/// when the thread panics, when [`keep_folders`] was called, and when bringing the instance up failed: the next
/// [`create`](Self::create) removes it.
pub struct Instance {
    state: State,
    /// Empty if another process created the instance.
    daemons: Mutex<Vec<Running>>,
    /// First processes of the machines, to be reaped.
    holders: Vec<Child>,
    owned: bool,
    complete: bool,
}

impl Instance {
    /// Creates an instance without machines, after ending instances of this kind whose process was killed.
    ///
    /// # Errors
    /// If the name is invalid or in use.
    pub fn create(kind: Kind, name: &str, nodes: u8) -> Result<Self> {
        let state = State::create(kind, name, nodes)?;
        Ok(Self { state, daemons: Mutex::default(), holders: Vec::new(), owned: true, complete: false })
    }

    /// A handle on a running instance. Dropping it changes nothing; [`down`](Self::down) ends the instance.
    ///
    /// # Errors
    /// If no instance of that name runs.
    pub fn attach(kind: Kind, name: &str) -> Result<Self> {
        let Some(state) = State::find(kind, name)? else {
            let running = Self::running(kind)?;
            let running = if running.is_empty() { "none".to_owned() } else { running.join(", ") };
            bail!(
                "no {} {name} is running (running: {running}): start it with {} up",
                kind.noun(),
                kind.command()
            );
        };
        Ok(Self { state, daemons: Mutex::default(), holders: Vec::new(), owned: false, complete: true })
    }

    /// Names of all running instances of a kind.
    pub fn running(kind: Kind) -> Result<Vec<String>> {
        Ok(State::running(kind)?.into_iter().map(|state| state.name).collect())
    }

    /// Adds and starts a machine.
    pub fn start_machine(&mut self, name: &str) -> Result<Machine> {
        let (machine, holder) = Machine::start(name, &self.folder()?.join(name))?;
        self.holders.push(holder);
        self.state.machines.push(machine.clone());
        // Saved before anything else happens: after a kill the next instance has to find the machine.
        self.state.save()?;
        Ok(machine)
    }

    /// Starts a daemon with this `PATH`.
    pub fn start_daemon(&self, launch: Launch, path: &OsStr) -> Result<()> {
        self.lock().push(launch.start(path)?);
        Ok(())
    }

    /// Declares that the instance is up: a later failure is not one of bringing it up.
    pub fn mark_complete(&mut self) {
        self.complete = true;
    }

    /// Lets the instance run on after this process.
    pub fn detach(mut self) -> Result<()> {
        self.owned = false;
        self.state.owner = None;
        self.state.save()
    }

    /// Ends the instance and removes its folder.
    pub fn down(mut self) -> Result<()> {
        self.end()?;
        self.state.remove()
    }

    /// Ends all machines with all processes and mounts in them. The folder stays.
    pub fn end(&mut self) -> Result<()> {
        self.owned = false;
        let ended = self.state.end();
        self.lock().iter_mut().for_each(Running::reap);
        for holder in &mut self.holders {
            // Already reaped is fine.
            let _ = holder.wait();
        }
        ended
    }

    /// Name of the cluster, unique on this machine.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// Folder with configuration and logs, and one folder in it per machine.
    pub fn folder(&self) -> Result<PathBuf> {
        self.state.folder()
    }

    /// The machines in the order in which they were started.
    pub fn machines(&self) -> &[Machine] {
        &self.state.machines
    }

    /// Name of the parent cgroup of the pods or containers of node `number`, counted from 1.
    pub fn cgroup(&self, number: u8) -> String {
        self.state.cgroup(number)
    }

    /// Stops a daemon as an administrator would: SIGTERM, and SIGKILL after a grace period.
    ///
    /// # Errors
    /// If another process started the daemon.
    pub fn stop(&self, daemon: Daemon) -> Result<()> {
        self.with_daemon(daemon, Running::stop)
    }

    /// Starts a daemon that was stopped, with the same arguments.
    ///
    /// # Errors
    /// If the daemon is running or another process started it.
    pub fn start(&self, daemon: Daemon) -> Result<()> {
        self.with_daemon(daemon, Running::start_again)
    }

    /// Starts the daemons of this process that have ended.
    pub fn start_ended_daemons(&self) -> Result<()> {
        let mut daemons = self.lock();
        let ended = daemons.iter_mut().filter_map(|daemon| daemon.check().is_err().then_some(daemon));
        ended.into_iter().try_for_each(Running::start_again)
    }

    /// Log of a daemon.
    pub fn daemon_log(&self, daemon: Daemon) -> Result<String> {
        let log = self.with_daemon(daemon, |running| Ok(running.log()))?;
        Ok(String::from_utf8_lossy(&fs::read(log)?).into_owned())
    }

    /// The daemons that this process started, with their process IDs on the host.
    pub fn daemons(&self) -> Vec<(Daemon, Vec<u32>)> {
        self.lock().iter().map(|running| (running.daemon(), running.processes())).collect()
    }

    /// Fails with the end of a daemon's log if a daemon has ended.
    pub fn check_daemons(&self) -> Result<()> {
        self.lock().iter_mut().try_for_each(Running::check)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Running>> {
        // A panic leaves the list complete.
        self.daemons.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_daemon<T>(&self, daemon: Daemon, action: impl FnOnce(&mut Running) -> Result<T>) -> Result<T> {
        let mut daemons = self.lock();
        let found = daemons.iter_mut().find(|running| running.daemon() == daemon);
        action(found.with_context(|| {
            format!("{daemon} was not started by this process: ask the process that created the instance")
        })?)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        if let Err(error) = self.end() {
            progress!("ending {} {}: {error:#}", self.state.kind.noun(), self.name());
        }
        let failed = !self.complete || std::thread::panicking() || KEEP_FOLDERS.load(Ordering::Relaxed);
        if !failed {
            // The next instance removes folders that could not be removed.
            let _ = self.state.remove();
        }
    }
}
