//! Host-agent, VM, desktop and sidecar on one machine.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use contract::{FramePath, SidecarStatus};
use lab::container::{Container, Spec};
use lab::{RenderAccess, Tap, Vm, VmConfig};

use crate::{HostAgent, Programs, http, wait};

/// Desktop image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Desktop {
    /// GNOME Shell, captured through PipeWire.
    Gnome,
    /// sway, captured through wlr-screencopy.
    Sway,
    /// Numbered test pattern, captured through wlr-screencopy.
    Pattern,
    /// labwc with a panel, captured through wlr-screencopy.
    Labwc,
    /// GNOME Shell with the programs of a daily desktop.
    GnomeFull,
    /// sway with the programs of a daily desktop.
    SwayFull,
}

impl Desktop {
    /// Image name.
    pub const fn image(self) -> &'static str {
        match self {
            Self::Gnome => "desktop-gnome",
            Self::Sway => "desktop-sway",
            Self::Pattern => "desktop-pattern",
            Self::Labwc => "desktop-labwc",
            Self::GnomeFull => "desktop-gnome-full",
            Self::SwayFull => "desktop-sway-full",
        }
    }

    /// The desktop with more programs, if there is one.
    #[must_use]
    pub const fn full(self) -> Self {
        match self {
            Self::Gnome => Self::GnomeFull,
            Self::Sway => Self::SwayFull,
            other => other,
        }
    }

    /// Time limit from start to first frame under emulation.
    const fn first_frame_timeout(self) -> Duration {
        match self {
            Self::Gnome | Self::GnomeFull => Duration::from_mins(8),
            Self::Sway | Self::SwayFull | Self::Labwc | Self::Pattern => Duration::from_mins(4),
        }
    }
}

/// Options of a rig.
#[derive(Debug, Clone)]
pub struct RigOptions {
    /// VM name.
    pub name: String,
    /// Desktop images that the VM contains.
    pub desktops: Vec<Desktop>,
    /// Loads the tap into QEMU.
    pub tap: bool,
    /// GPU of the VM.
    pub gpu: lab::Gpu,
    /// QEMU version.
    pub qemu: lab::Qemu,
    /// Container runtime in the guest.
    pub runtime: lab::Runtime,
    /// Additional arguments of `host-agent serve`.
    pub host_agent: Vec<String>,
}

impl RigOptions {
    /// Defaults of the product.
    pub fn new(name: &str, desktops: &[Desktop]) -> Self {
        Self {
            name: name.to_owned(),
            desktops: desktops.to_vec(),
            tap: true,
            gpu: lab::Gpu::Virgl,
            qemu: lab::Qemu::Installed,
            runtime: lab::Runtime::default(),
            host_agent: Vec::new(),
        }
    }
}

/// Options of a stream: a desktop container and a sidecar container.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    /// Desktop image.
    pub desktop: Desktop,
    /// Width and height, pixels.
    pub size: (u32, u32),
    /// Additional arguments of the `pattern` program.
    pub desktop_args: Vec<String>,
    /// Additional environment of the desktop.
    pub desktop_env: Vec<(String, String)>,
    /// Additional arguments of `sidecar run`.
    pub sidecar_args: Vec<String>,
    /// Sidecar's access to the render node.
    pub sidecar_render: RenderAccess,
    /// Desktop's access to the render node.
    pub desktop_render: RenderAccess,
    /// Host-agent endpoint; `None` uses the rig's own, `none` configures no host-agent.
    pub upstream: Option<String>,
    /// Token for the host-agent; `None` mints one.
    pub token: Option<String>,
}

impl StreamOptions {
    /// Defaults of the product for this desktop and size.
    pub fn new(desktop: Desktop, size: (u32, u32)) -> Self {
        Self {
            desktop,
            size,
            desktop_args: Vec::new(),
            desktop_env: Vec::new(),
            sidecar_args: Vec::new(),
            sidecar_render: RenderAccess::Yes,
            desktop_render: RenderAccess::Yes,
            upstream: None,
            token: None,
        }
    }
}

/// Token of viewers.
pub const VIEWER_TOKEN: &str = "for-the-lab-only";

/// A running host-agent and VM.
pub struct Rig {
    /// The VM. Declared first: dropped before the host-agent.
    pub vm: Vm,
    /// Host-agent of the VM.
    pub host_agent: HostAgent,
    runtime: lab::Runtime,
    next_port: u16,
}

/// A running stream.
#[derive(Debug)]
pub struct Stream {
    /// Stream name.
    pub name: String,
    /// Options that it was started with.
    pub options: StreamOptions,
    /// Desktop container.
    pub desktop: Container,
    /// Sidecar container.
    pub sidecar: Container,
    /// Base URL of the sidecar.
    pub url: String,
    specs: (Spec, Spec),
}

impl Rig {
    /// Starts host-agent and VM; the VM has the architecture of `programs`.
    ///
    /// # Errors
    /// Fails if either does not become ready.
    pub fn up(programs: &Programs, options: &RigOptions) -> Result<Self> {
        let extra: Vec<&str> = options.host_agent.iter().map(String::as_str).collect();
        let host_agent = HostAgent::start(&programs.host_agent, &extra)?;
        let vm = boot(programs, options, &host_agent.link())?;
        Ok(Self { vm, host_agent, runtime: options.runtime, next_port: 8080 })
    }

    /// Starts a desktop and its sidecar. Returns when both containers run.
    ///
    /// # Errors
    /// Fails if a container does not start.
    pub fn start(&mut self, name: &str, options: StreamOptions) -> Result<Stream> {
        let port = self.next_port;
        self.next_port += 1;
        let upstream = options.upstream.clone().unwrap_or_else(|| self.host_agent.upstream());
        let token = match &options.token {
            Some(token) => token.clone(),
            None => self.host_agent.token(&format!("lab/{name}"), &[])?,
        };
        let (width, height) = options.size;
        let mut desktop =
            Spec::desktop(&format!("{name}-desktop"), options.desktop.image(), options.size).share(name);
        if options.desktop == Desktop::Pattern {
            desktop.argv = [&format!("{}/pattern", lab::payload::IN_CONTAINER), "serve", "--size"]
                .map(str::to_owned)
                .into();
            desktop.argv.push(format!("{width}x{height}"));
            desktop.argv.extend(options.desktop_args.iter().cloned());
        }
        desktop.env.extend(options.desktop_env.iter().cloned());
        let desktop = desktop.render(options.desktop_render).runtime(self.runtime);
        let program = format!("{}/sidecar", lab::payload::IN_CONTAINER);
        let mut sidecar = Spec::sidecar(&format!("{name}-sidecar"), name, &[&program, "run"]);
        sidecar.argv.extend(["--name", name, "--listen", &format!("0.0.0.0:{port}")].map(str::to_owned));
        // The VM's sidecars share its network.
        sidecar.argv.extend(["--admin-listen", "127.0.0.1:0"].map(str::to_owned));
        if upstream != "none" {
            sidecar.argv.extend(["--upstream".to_owned(), upstream]);
        }
        sidecar.argv.extend(options.sidecar_args.iter().cloned());
        let sidecar = sidecar
            .render(options.sidecar_render)
            .runtime(self.runtime)
            .env("DESKTOPSTREAM_TOKEN", &token)
            .env("DESKTOPSTREAM_VIEWER_TOKEN", VIEWER_TOKEN)
            .env("RUST_LOG", "info");
        let url = format!("http://127.0.0.1:{}", self.vm.host_port(port)?);
        let guest = self.vm.guest();
        Ok(Stream {
            name: name.to_owned(),
            desktop: Container::start(guest, &desktop)?,
            sidecar: Container::start(guest, &sidecar)?,
            options,
            url,
            specs: (desktop, sidecar),
        })
    }
}

/// Boots a VM whose tap connects to the Unix socket `link`.
///
/// # Errors
/// Fails if the VM does not boot.
pub fn boot(programs: &Programs, options: &RigOptions, link: &Path) -> Result<Vm> {
    let images: Vec<&str> =
        ["sidecar"].into_iter().chain(options.desktops.iter().map(|desktop| desktop.image())).collect();
    let mut config = VmConfig::new(&options.name, &images);
    // One port per stream; a bench starts two dozen streams.
    config.ports = 40;
    config.arch = programs.arch;
    config.gpu = options.gpu;
    config.qemu = options.qemu;
    config.payload = Some(programs.payload().to_owned());
    config.tap = options.tap.then(|| tap(programs, &options.name, link));
    Vm::boot(config)
}

/// The tap, inserted by `host-agent run` as users insert it. The environment is set here too, for QEMU in another root.
pub fn tap(programs: &Programs, vm: &str, link: &Path) -> Tap {
    let [program, library, link] =
        [&*programs.host_agent, &*programs.tap, link].map(|path| path.display().to_string());
    let words = [&program, "run", "--name", vm, "--tap", &library, "--link", &link, "--"];
    Tap {
        library: programs.tap.clone(),
        env: vec![
            ("DESKTOPSTREAM_LINK".to_owned(), link.clone()),
            ("DESKTOPSTREAM_VM".to_owned(), vm.to_owned()),
            ("DESKTOPSTREAM_TAP_LOG".to_owned(), "1".to_owned()),
        ],
        starter: words.map(str::to_owned).into(),
    }
}

impl Stream {
    /// Response of the sidecar's `/status`.
    ///
    /// # Errors
    /// Fails without a valid response.
    pub fn status(&self) -> Result<SidecarStatus> {
        http::json(&format!("{}/status", self.url), Some(VIEWER_TOKEN))
    }

    /// URL of the viewer page, with token.
    pub fn page(&self) -> String {
        format!("{}/#token={VIEWER_TOKEN}", self.url)
    }

    /// Waits until frames travel by `path`. Returns the status then.
    ///
    /// # Errors
    /// Fails after the desktop's time limit; the error contains the logs.
    pub fn wait_for_frame_path(&self, path: FramePath) -> Result<SidecarStatus> {
        let limit = self.options.desktop.first_frame_timeout();
        wait::until(&format!("stream {} by {path}", self.name), limit, || {
            let status = self.status()?;
            ensure!(status.frame_path == Some(path) && status.frames.encoded > 0, "{status:?}");
            Ok(status)
        })
        .with_context(|| self.logs())
    }

    /// Last log lines of both containers.
    pub fn logs(&self) -> String {
        let tail = |container: &Container| {
            let log = container.logs().unwrap_or_else(|error| format!("{error:#}"));
            let lines: Vec<&str> = log.lines().collect();
            lines[lines.len().saturating_sub(40)..].join("\n")
        };
        format!("--- desktop\n{}\n--- sidecar\n{}", tail(&self.desktop), tail(&self.sidecar))
    }

    /// Runs `sidecar doctor --json` in a container like the sidecar's. Returns exit code and output.
    ///
    /// # Errors
    /// Fails if the container does not start or does not end in time.
    pub fn doctor(&self, rig: &Rig) -> Result<(i32, String)> {
        let mut spec = self.specs.1.clone();
        spec.name = format!("{}-doctor", self.name);
        let upstream = spec.argv.iter().skip_while(|word| *word != "--upstream").take(2).cloned();
        spec.argv = spec.argv[..1]
            .iter()
            .cloned()
            .chain(["doctor".to_owned(), "--json".to_owned()])
            .chain(upstream)
            .collect();
        // stdout and stderr share the container's log, which must contain JSON only.
        spec.env.retain(|(name, _)| name != "RUST_LOG");
        spec.env.push(("RUST_LOG".to_owned(), "off".to_owned()));
        spec.env.push(("PIPEWIRE_DEBUG".to_owned(), "0".to_owned()));
        // A session of the same stream would replace the sidecar's.
        if self.options.token.is_none() {
            let token = rig.host_agent.token(&format!("lab/{}", spec.name), &[])?;
            spec.env.retain(|(name, _)| name != "DESKTOPSTREAM_TOKEN");
            spec.env.push(("DESKTOPSTREAM_TOKEN".to_owned(), token));
        }
        Container::run(rig.vm.guest(), &spec, Duration::from_mins(4))
    }

    /// Starts the sidecar again after it was killed.
    ///
    /// # Errors
    /// Fails if the container does not start.
    pub fn restart_sidecar(&mut self, rig: &Rig) -> Result<()> {
        self.sidecar.remove()?;
        self.sidecar = Container::start(rig.vm.guest(), &self.specs.1)?;
        Ok(())
    }

    /// Starts the desktop again after it was killed.
    ///
    /// # Errors
    /// Fails if the container does not start.
    pub fn restart_desktop(&mut self, rig: &Rig) -> Result<()> {
        self.desktop.remove()?;
        self.desktop = Container::start(rig.vm.guest(), &self.specs.0)?;
        Ok(())
    }

    /// Removes both containers.
    ///
    /// # Errors
    /// Fails if a container cannot be removed.
    pub fn stop(self) -> Result<()> {
        self.sidecar.remove()?;
        self.desktop.remove()
    }
}
