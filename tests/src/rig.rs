//! Host-agent, VM, desktop and sidecar, joined: the topology of the product on one machine.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lab::container::{Container, Spec};
use lab::{RenderAccess, Tap, Vm, VmConfig};
use serde_json::Value;

use crate::{HostAgent, Programs, http, wait};

/// Which desktop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Desktop {
    /// GNOME Shell, captured by PipeWire.
    Gnome,
    /// sway, captured by wlr-screencopy.
    Sway,
    /// Our numbered pattern, captured by wlr-screencopy: the truth for tests.
    Pattern,
}

impl Desktop {
    /// The name of its image.
    pub const fn image(self) -> &'static str {
        match self {
            Self::Gnome => "desktop-gnome",
            Self::Sway => "desktop-sway",
            Self::Pattern => "desktop-pattern",
        }
    }

    /// How long it may take from start to its first frame, under emulation.
    const fn patience(self) -> Duration {
        match self {
            Self::Gnome => Duration::from_secs(300),
            Self::Sway | Self::Pattern => Duration::from_secs(60),
        }
    }
}

/// What to put up.
#[derive(Debug, Clone)]
pub struct RigOptions {
    /// The VM's name.
    pub name: String,
    /// The images that the VM has: those of all desktops that will run in it.
    pub desktops: Vec<Desktop>,
    /// Whether the tap is loaded into QEMU.
    pub tap: bool,
    /// The VM's GPU.
    pub gpu: lab::Gpu,
    /// Whose QEMU runs the VM.
    pub qemu: lab::Qemu,
    /// Who runs its containers.
    pub runtime: lab::Runtime,
    /// More arguments for the host-agent.
    pub host_agent: Vec<String>,
}

impl RigOptions {
    /// Everything as the product wants it.
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

/// A stream: a desktop's container and its sidecar's.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    /// The desktop.
    pub desktop: Desktop,
    /// Its size.
    pub size: (u32, u32),
    /// Arguments of the desktop's program (`pattern` only).
    pub desktop_args: Vec<String>,
    /// More variables of the desktop's environment.
    pub desktop_env: Vec<(String, String)>,
    /// More arguments for `sidecar run`.
    pub sidecar_args: Vec<String>,
    /// What the sidecar has of the render node.
    pub sidecar_render: RenderAccess,
    /// What the desktop has of it.
    pub desktop_render: RenderAccess,
    /// The host-agent to use; `None` for none.
    pub upstream: Option<String>,
    /// The token for it; minted when not given.
    pub token: Option<String>,
}

impl StreamOptions {
    /// This desktop at this size, otherwise as the product wants it.
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

/// What viewers of a rig's streams must bring.
pub const VIEWER_TOKEN: &str = "for-the-lab-only";

/// Host-agent and VM.
pub struct Rig {
    /// The VM. Declared first: it ends before the host-agent.
    pub vm: Vm,
    /// The host-agent.
    pub host_agent: HostAgent,
    runtime: lab::Runtime,
    next_port: u16,
}

/// A running stream.
#[derive(Debug)]
pub struct Stream {
    /// Its name.
    pub name: String,
    /// What it was started from.
    pub options: StreamOptions,
    /// The desktop.
    pub desktop: Container,
    /// The sidecar.
    pub sidecar: Container,
    /// Where its viewers go.
    pub url: String,
    specs: (Spec, Spec),
}

impl Rig {
    /// Puts up host-agent and VM; the VM has the processor that the programs are for.
    pub fn up(programs: &Programs, options: &RigOptions) -> Result<Self> {
        let extra: Vec<&str> = options.host_agent.iter().map(String::as_str).collect();
        let host_agent = HostAgent::start(&programs.host_agent, &extra)?;
        let vm = boot(programs, options, &host_agent.link())?;
        Ok(Self { vm, host_agent, runtime: options.runtime, next_port: 8080 })
    }

    /// Starts a desktop and its sidecar; returns when both containers run.
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

/// Boots a VM whose tap talks to `link`.
pub fn boot(programs: &Programs, options: &RigOptions, link: &Path) -> Result<Vm> {
    let images: Vec<&str> =
        ["sidecar"].into_iter().chain(options.desktops.iter().map(|desktop| desktop.image())).collect();
    let mut config = VmConfig::new(&options.name, &images);
    // One for each stream of a rig's life: a bench starts two dozen.
    config.ports = 40;
    config.arch = programs.arch;
    config.gpu = options.gpu;
    config.qemu = options.qemu;
    config.payload = Some(programs.payload().to_owned());
    config.tap = options.tap.then(|| tap(programs, &options.name, link));
    Vm::boot(config)
}

/// The tap as users have it inserted, by `host-agent run`; what that sets is here, too, for a QEMU of another Debian.
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
    /// The sidecar's `/status`.
    pub fn status(&self) -> Result<Value> {
        http::json(&format!("{}/status", self.url), Some(VIEWER_TOKEN))
    }

    /// The page that a person opens.
    pub fn page(&self) -> String {
        format!("{}/?token={VIEWER_TOKEN}", self.url)
    }

    /// Waits until frames flow by `rung`; its status then.
    pub fn wait_for_rung(&self, rung: &str) -> Result<Value> {
        let limit = self.options.desktop.patience();
        wait::until(&format!("stream {} on rung {rung}", self.name), limit, || {
            let status = self.status()?;
            ensure!(status["rung"] == rung && status["frames"]["encoded"].as_u64() > Some(2), "{status}");
            Ok(status)
        })
        .with_context(|| self.logs())
    }

    /// What both containers logged.
    pub fn logs(&self) -> String {
        let tail = |container: &Container| {
            let log = container.logs().unwrap_or_else(|error| format!("{error:#}"));
            let lines: Vec<&str> = log.lines().collect();
            lines[lines.len().saturating_sub(40)..].join("\n")
        };
        format!("--- desktop\n{}\n--- sidecar\n{}", tail(&self.desktop), tail(&self.sidecar))
    }

    /// Runs `sidecar doctor --json` in a container like the sidecar's: exit code and what it said.
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
        // A container's log is both streams in one: its JSON must stand alone.
        spec.env.retain(|(name, _)| name != "RUST_LOG");
        spec.env.push(("RUST_LOG".to_owned(), "off".to_owned()));
        // A session of its own: one of the same stream would replace the sidecar's.
        if self.options.token.is_none() {
            let token = rig.host_agent.token(&format!("lab/{}", spec.name), &[])?;
            spec.env.retain(|(name, _)| name != "DESKTOPSTREAM_TOKEN");
            spec.env.push(("DESKTOPSTREAM_TOKEN".to_owned(), token));
        }
        Container::run(rig.vm.guest(), &spec, Duration::from_secs(60))
    }

    /// Starts the sidecar again after it was killed, as its supervisor would.
    pub fn restart_sidecar(&mut self, rig: &Rig) -> Result<()> {
        self.sidecar.remove()?;
        self.sidecar = Container::start(rig.vm.guest(), &self.specs.1)?;
        Ok(())
    }

    /// Starts the desktop again after it was killed.
    pub fn restart_desktop(&mut self, rig: &Rig) -> Result<()> {
        self.desktop.remove()?;
        self.desktop = Container::start(rig.vm.guest(), &self.specs.0)?;
        Ok(())
    }

    /// Ends both containers.
    pub fn stop(self) -> Result<()> {
        self.sidecar.remove()?;
        self.desktop.remove()
    }
}
