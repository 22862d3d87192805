//! Containers in a VM, by `runc`: what a desktop or a sidecar would be in a cluster.
//!
//! Each has its own mounts, processes and host name over a throw-away copy of an image, and shares the guest's network as
//! the containers of a pod share theirs. It has no capability and can't get any, and its device cgroup admits the usual
//! harmless devices and the GPU's nodes that its [`Spec`] asks for. A desktop and its sidecar meet in one shared folder,
//! `XDG_RUNTIME_DIR`.

mod oci;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::guest::{Guest, Output, quote};
use crate::payload;

/// The group that owns the render node in containers: no usual one, so that nobody is a member by chance.
pub const RENDER_GROUP: u32 = 4242;
/// The user that desktops and sidecars run as.
pub const DESKTOP_UID: u32 = 1000;
/// Where the shared folder is, in the desktop and in its sidecar.
pub const RUNTIME_DIR: &str = "/run/desktop";
/// Where the render node is.
pub const RENDER_NODE: &str = "/dev/dri/renderD128";

/// runc is started anew for each command, and slow under emulation.
const RUNC_TIMEOUT: Duration = Duration::from_mins(5);

/// What a container has of the render node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RenderAccess {
    /// It is there and its group is the process's.
    #[default]
    Yes,
    /// It isn't there, and the device cgroup refuses one made by hand.
    No,
    /// It is there, of a group that the process doesn't have: what goes wrong most often in clusters.
    WrongGroup,
}

/// Who runs a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Runtime {
    /// runc alone: starts in under half the time under emulation, and what it runs is the same.
    #[default]
    Runc,
    /// containerd, as on Kubernetes nodes; it is started for the first one.
    Containerd,
}

/// A host folder or file of the guest in a container.
#[derive(Debug, Clone)]
pub struct Mount {
    /// In the guest.
    pub from: String,
    /// In the container.
    pub to: String,
    /// Whether it may be written.
    pub writable: bool,
}

/// What to run.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Its name, in this VM.
    pub name: String,
    /// The image whose disk it runs over; the VM must have it.
    pub image: String,
    /// Who runs it.
    pub runtime: Runtime,
    /// The command.
    pub argv: Vec<String>,
    /// Its environment, beside `PATH`, `HOME` and `XDG_RUNTIME_DIR`.
    pub env: Vec<(String, String)>,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its other groups, beside the render node's.
    pub groups: Vec<u32>,
    /// What it has of the render node.
    pub render: RenderAccess,
    /// Whether it has the card node too.
    pub card: bool,
    /// The guest's folder that it has at [`RUNTIME_DIR`]; made for its user if need be.
    pub runtime_dir: Option<String>,
    /// What else is mounted.
    pub mounts: Vec<Mount>,
}

impl Spec {
    /// A command in an image, as the desktop's user, with the render node, sharing nothing.
    pub fn new(name: &str, image: &str, argv: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            image: image.to_owned(),
            runtime: Runtime::default(),
            argv: argv.iter().map(ToString::to_string).collect(),
            env: Vec::new(),
            uid: DESKTOP_UID,
            gid: DESKTOP_UID,
            groups: Vec::new(),
            render: RenderAccess::Yes,
            card: false,
            runtime_dir: None,
            mounts: Vec::new(),
        }
    }

    /// The desktop of an image, in a shared folder of its name.
    pub fn desktop(name: &str, image: &str, (width, height): (u32, u32)) -> Self {
        Self::new(name, image, &["/usr/local/bin/desktop"])
            .share(name)
            .env("DESKTOP_SIZE", &format!("{width}x{height}"))
    }

    /// A command beside a desktop, with what it needs to find that.
    pub fn sidecar(name: &str, desktop: &str, argv: &[&str]) -> Self {
        Self::new(name, "sidecar", argv)
            .share(desktop)
            .env("DBUS_SESSION_BUS_ADDRESS", &format!("unix:path={RUNTIME_DIR}/bus"))
            .env("WAYLAND_DISPLAY", "wayland-1")
            .env("GST_REGISTRY", "/usr/share/desktopstream/gstreamer-registry.bin")
            .env("GST_REGISTRY_UPDATE", "no")
    }

    /// Shares the folder of a desktop.
    #[must_use]
    pub fn share(mut self, desktop: &str) -> Self {
        self.runtime_dir = Some(runtime_dir(desktop));
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets who runs it.
    #[must_use]
    pub fn runtime(mut self, runtime: Runtime) -> Self {
        self.runtime = runtime;
        self
    }

    /// Sets what it has of the render node.
    #[must_use]
    pub fn render(mut self, render: RenderAccess) -> Self {
        self.render = render;
        self
    }
}

/// Where in the guest a desktop's shared folder is.
pub fn runtime_dir(desktop: &str) -> String {
    format!("/run/desktops/{desktop}")
}

/// A container that was started. Dropping the handle leaves it alone: it ends with the VM or by [`Container::remove`].
#[derive(Debug, Clone)]
pub struct Container {
    guest: Guest,
    name: String,
}

impl Container {
    /// Starts one; returns when its process exists.
    pub fn start(guest: &Guest, spec: &Spec) -> Result<Self> {
        let config = serde_json::to_vec(&oci::config(spec))?;
        let mut words = vec![quote(&spec.name), quote(&spec.image)];
        if let Some(folder) = &spec.runtime_dir {
            words.extend([quote(folder), spec.uid.to_string(), spec.gid.to_string()]);
        }
        let runtime = match spec.runtime {
            Runtime::Runc => "runc",
            Runtime::Containerd => "containerd",
        };
        let command = format!("CONTAINER_RUNTIME={runtime} container start {}", words.join(" "));
        let output = guest.exec_with_input(RUNC_TIMEOUT, &command, &config)?;
        output.ok().with_context(|| format!("starting container {}", spec.name))?;
        Ok(Self { guest: guest.clone(), name: spec.name.clone() })
    }

    /// Runs one to its end, at most for `limit`, and removes it. Its log is its stdout and stderr in one.
    pub fn run(guest: &Guest, spec: &Spec, limit: Duration) -> Result<(i32, String)> {
        let container = Self::start(guest, spec)?;
        let status = container.wait(limit);
        let log = container.logs();
        container.remove()?;
        let log = log?;
        Ok((status.with_context(|| format!("its log:\n{log}"))?, log))
    }

    /// A handle on one started before.
    pub fn named(guest: &Guest, name: &str) -> Self {
        Self { guest: guest.clone(), name: name.to_owned() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its first process, as the guest counts.
    pub fn pid(&self) -> Result<u32> {
        let pid = self.guest.check(&format!("cat {}/pid", self.bundle()))?;
        pid.trim().parse().with_context(|| format!("container {}'s process ID", self.name))
    }

    /// Runs a command in it, as its user and with its environment.
    pub fn exec_in(&self, argv: &[&str]) -> Result<Output> {
        let words: Vec<String> = argv.iter().map(|word| quote(word)).collect();
        self.guest.exec(&format!("{} exec {} {}", self.runc(), quote(&self.name), words.join(" ")))
    }

    /// Sends a signal to its first process.
    pub fn kill(&self, signal: Signal) -> Result<()> {
        self.guest.check(&format!("{} kill {} {}", self.runc(), quote(&self.name), signal.as_raw()))?;
        Ok(())
    }

    /// Waits for its end, at most for `limit`, and returns its exit status (128 + the signal that ended it).
    pub fn wait(&self, limit: Duration) -> Result<i32> {
        let command = format!("container wait {} {}", quote(&self.name), limit.as_secs().max(1));
        let status = self.guest.exec_within(limit + RUNC_TIMEOUT, &command)?.ok()?;
        status.trim().parse().with_context(|| format!("container {}'s exit status", self.name))
    }

    /// How it ended, if it has.
    pub fn exit_status(&self) -> Result<Option<i32>> {
        let status = self.guest.check(&format!("cat {}/exit 2>/dev/null || echo none", self.bundle()))?;
        Ok(status.trim().parse().ok())
    }

    /// What it wrote so far.
    pub fn logs(&self) -> Result<String> {
        self.guest.check(&format!("cat {}/log", self.bundle()))
    }

    /// Waits until its log has a line with `text`. An error, with the log, when it ends first or `limit` is over.
    pub fn wait_for_log(&self, text: &str, limit: Duration) -> Result<()> {
        self.wait_until(&format!("grep -qF -- {} {}/log", quote(text), self.bundle()), limit)
            .with_context(|| format!("waiting for {text:?} in the log"))
    }

    /// Waits until a line of shell in the guest (not in the container) succeeds; errors as for the log.
    pub fn wait_until(&self, condition: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        // A round in the guest, as each round trip starts a shell there.
        let round = format!(
            "n=0; until {condition}; do n=$((n+1)); [ $n -lt 50 ] && [ ! -e {}/exit ] || exit 1; sleep 0.1; done",
            self.bundle()
        );
        loop {
            if self.guest.exec(&round)?.success() {
                return Ok(());
            }
            let ended = self.exit_status()?;
            if ended.is_some() || Instant::now() > deadline {
                let end = ended.map_or_else(|| "runs".to_owned(), |status| format!("ended with {status}"));
                bail!(
                    "{condition}: not within {} s; container {} {end}; its log:\n{}",
                    limit.as_secs(),
                    self.name,
                    self.logs()?
                );
            }
        }
    }

    /// Ends it if it runs, and forgets all of it but its shared folder.
    pub fn remove(&self) -> Result<()> {
        self.guest.exec_within(RUNC_TIMEOUT, &format!("container remove {}", quote(&self.name)))?.ok()?;
        Ok(())
    }

    fn bundle(&self) -> String {
        bundle(&self.name)
    }

    /// runc, looking where its starter has put it.
    fn runc(&self) -> String {
        format!("runc --root \"$(cat {}/root)\"", self.bundle())
    }
}

/// A container's folder in the guest.
fn bundle(name: &str) -> String {
    format!("/run/containers/{name}")
}

/// Where containers find the payload.
fn payload_mount() -> Mount {
    Mount { from: payload::IN_GUEST.to_owned(), to: payload::IN_CONTAINER.to_owned(), writable: false }
}
