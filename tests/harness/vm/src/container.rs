//! Containers in a VM, with the same isolation as containers of a pod.
//!
//! Each container has its own mount, PID, IPC and UTS namespaces over a temporary copy of an image, and shares the guest's
//! network. It has no capabilities and no way to gain them. Its device cgroup admits the default devices and the GPU nodes
//! that its [`Spec`] requests. A desktop and its sidecar share one folder, `XDG_RUNTIME_DIR`.

mod oci;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::guest::{Guest, Output, quote};
use crate::payload;

/// Group of the render node in containers. Not a common ID, so that membership is never accidental.
pub const RENDER_GROUP: u32 = 4242;
/// User and group ID of desktops and sidecars.
pub const DESKTOP_UID: u32 = 1000;
/// Path of the shared folder in containers.
pub const RUNTIME_DIR: &str = "/run/desktop";
/// Path of the render node in containers.
pub const RENDER_NODE: &str = "/dev/dri/renderD128";

/// Time limit of a runtime command; slow under emulation.
const RUNC_TIMEOUT: Duration = Duration::from_mins(5);

/// Access of a container to the render node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RenderAccess {
    /// The node exists, and the process has its group.
    #[default]
    Yes,
    /// The node does not exist, and the device cgroup denies a node created with mknod.
    No,
    /// The node exists, but the process lacks its group: the most frequent fault in clusters.
    WrongGroup,
}

/// Container runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Runtime {
    /// runc only: starts in less than half the time under emulation.
    #[default]
    Runc,
    /// containerd, as on Kubernetes nodes; started with the first container.
    Containerd,
}

/// Bind mount of a guest folder or file.
#[derive(Debug, Clone)]
pub struct Mount {
    /// Path in the guest.
    pub from: String,
    /// Path in the container.
    pub to: String,
    /// Read-write mount.
    pub writable: bool,
}

/// Specification of a container.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Name in the VM.
    pub name: String,
    /// Image; the VM must contain it.
    pub image: String,
    /// Runtime that starts the container.
    pub runtime: Runtime,
    /// Command and its arguments.
    pub argv: Vec<String>,
    /// Environment in addition to `PATH`, `HOME` and `XDG_RUNTIME_DIR`.
    pub env: Vec<(String, String)>,
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// Supplementary groups in addition to that of the render node.
    pub groups: Vec<u32>,
    /// Access to the render node.
    pub render: RenderAccess,
    /// Adds the card node.
    pub card: bool,
    /// Guest folder to mount at [`RUNTIME_DIR`]; created for the container's user if missing.
    pub runtime_dir: Option<String>,
    /// Further mounts.
    pub mounts: Vec<Mount>,
}

impl Spec {
    /// A command in an image as the desktop user, with the render node and without a shared folder.
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

    /// The desktop of an image, with a shared folder of the same name.
    pub fn desktop(name: &str, image: &str, (width, height): (u32, u32)) -> Self {
        Self::new(name, image, &["/usr/local/bin/desktop"])
            .share(name)
            .env("DESKTOP_SIZE", &format!("{width}x{height}"))
    }

    /// A command beside a desktop, with the environment to find it.
    pub fn sidecar(name: &str, desktop: &str, argv: &[&str]) -> Self {
        Self::new(name, "sidecar", argv)
            .share(desktop)
            .env("DBUS_SESSION_BUS_ADDRESS", &format!("unix:path={RUNTIME_DIR}/bus"))
            .env("WAYLAND_DISPLAY", "wayland-1")
            .env("GST_REGISTRY", "/usr/share/desktopstream/gstreamer-registry.bin")
            .env("GST_REGISTRY_UPDATE", "no")
    }

    /// Mounts the shared folder of a desktop.
    #[must_use]
    pub fn share(mut self, desktop: &str) -> Self {
        self.runtime_dir = Some(runtime_dir(desktop));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the runtime.
    #[must_use]
    pub fn runtime(mut self, runtime: Runtime) -> Self {
        self.runtime = runtime;
        self
    }

    /// Sets the access to the render node.
    #[must_use]
    pub fn render(mut self, render: RenderAccess) -> Self {
        self.render = render;
        self
    }
}

/// Guest path of a desktop's shared folder.
pub fn runtime_dir(desktop: &str) -> String {
    format!("/run/desktops/{desktop}")
}

/// Handle on a started container. Dropping it does not end the container: [`Container::remove`] or the end of the VM does.
#[derive(Debug, Clone)]
pub struct Container {
    guest: Guest,
    name: String,
}

impl Container {
    /// Starts a container and returns when its process exists.
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

    /// Runs a container to its end, for at most `limit`, and removes it. Returns the exit status and the combined output.
    pub fn run(guest: &Guest, spec: &Spec, limit: Duration) -> Result<(i32, String)> {
        let container = Self::start(guest, spec)?;
        let status = container.wait(limit);
        let log = container.logs();
        container.remove()?;
        let log = log?;
        Ok((status.with_context(|| format!("its log:\n{log}"))?, log))
    }

    /// Handle on an existing container.
    pub fn named(guest: &Guest, name: &str) -> Self {
        Self { guest: guest.clone(), name: name.to_owned() }
    }

    /// Name of the container, unique in the VM.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Process ID of the first process in the guest.
    pub fn pid(&self) -> Result<u32> {
        let pid = self.guest.check(&format!("cat {}/pid", self.bundle()))?;
        pid.trim().parse().with_context(|| format!("process ID of container {}", self.name))
    }

    /// Runs a command in the container with its user and environment.
    pub fn exec_in(&self, argv: &[&str]) -> Result<Output> {
        let words: Vec<String> = argv.iter().map(|word| quote(word)).collect();
        self.guest.exec(&format!("{} exec {} {}", self.runc(), quote(&self.name), words.join(" ")))
    }

    /// Sends a signal to the first process.
    pub fn kill(&self, signal: Signal) -> Result<()> {
        self.guest.check(&format!("{} kill {} {}", self.runc(), quote(&self.name), signal.as_raw()))?;
        Ok(())
    }

    /// Waits for the end, for at most `limit`. Returns the exit status, or 128 plus the signal number.
    pub fn wait(&self, limit: Duration) -> Result<i32> {
        let command = format!("container wait {} {}", quote(&self.name), limit.as_secs().max(1));
        let status = self.guest.exec_within(limit + RUNC_TIMEOUT, &command)?.ok()?;
        status.trim().parse().with_context(|| format!("exit status of container {}", self.name))
    }

    /// Exit status, if the container has ended.
    pub fn exit_status(&self) -> Result<Option<i32>> {
        let status = self.guest.check(&format!("cat {}/exit 2>/dev/null || echo none", self.bundle()))?;
        Ok(status.trim().parse().ok())
    }

    /// Output so far.
    pub fn logs(&self) -> Result<String> {
        self.guest.check(&format!("cat {}/log", self.bundle()))
    }

    /// Waits until the output contains `text`.
    ///
    /// # Errors
    /// Fails with the output if the container ends first or `limit` passes.
    pub fn wait_for_log(&self, text: &str, limit: Duration) -> Result<()> {
        self.wait_until(&format!("grep -qF -- {} {}/log", quote(text), self.bundle()), limit)
            .with_context(|| format!("waiting for {text:?} in the log"))
    }

    /// Waits until a shell command in the guest (not in the container) succeeds.
    ///
    /// # Errors
    /// As [`wait_for_log`](Self::wait_for_log).
    pub fn wait_until(&self, condition: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        // The guest polls in a loop because each round trip starts a shell.
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
                let end =
                    ended.map_or_else(|| "is running".to_owned(), |status| format!("ended with {status}"));
                bail!(
                    "{condition}: not met within {} s; container {} {end}; its log:\n{}",
                    limit.as_secs(),
                    self.name,
                    self.logs()?
                );
            }
        }
    }

    /// Ends the container and removes everything but its shared folder.
    pub fn remove(&self) -> Result<()> {
        self.guest.exec_within(RUNC_TIMEOUT, &format!("container remove {}", quote(&self.name)))?.ok()?;
        Ok(())
    }

    fn bundle(&self) -> String {
        bundle(&self.name)
    }

    /// runc with the root directory that the starter used.
    fn runc(&self) -> String {
        format!("runc --root \"$(cat {}/root)\"", self.bundle())
    }
}

/// Bundle folder of a container in the guest.
fn bundle(name: &str) -> String {
    format!("/run/containers/{name}")
}

/// Mount of the payload.
fn payload_mount() -> Mount {
    Mount { from: payload::IN_GUEST.to_owned(), to: payload::IN_CONTAINER.to_owned(), writable: false }
}
