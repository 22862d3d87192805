//! `sidecar run`: connects capture, pump, host-agent and viewers.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::Context as _;
use capture::CaptureOptions;
use clap::Parser;
use contract::display::SizePolicy;
use contract::sidecar_status::{ClipboardStatus, InputStatus};
use contract::{FramePath, SidecarStatus};
use frame_path::pump::{Parts, Pump, PumpOptions};
use frame_path::report::Report;
use frame_path::source_switch::{Source, SourceSwitch, UnitSink};
use frame_path::upstream::{EndpointSource, Event, SIDECAR, TokenSource, Upstream, UpstreamOptions};
use input::clipboard::ClipboardState;
use input::{BackendKind, Input, InputOptions, InputState};
use prometheus_client::registry::Registry;
use protocol::stream::{AccessUnit, Codec, ServerMessage};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;
use viewers::{Hub, HubOptions, Server, ServerOptions, SoundHub, StreamInfo};
use virtgpu::{Device, OpenError};

use crate::cli::{
    Cli, Command, CursorArg, Desktop, HostAgent, MemoryArg, PushArg, RequireArg, Run, SourceArg,
};
use crate::observer::Observer;
use crate::{cursor, size, sound, viewer_token};

/// Interval at which viewers receive changes of frame path, size and encoder.
const INFO_INTERVAL: Duration = Duration::from_millis(250);
/// Time for the pump to end at shutdown.
const PUMP_STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// Environment variables of earlier versions, and their successors.
const FORMER_VARIABLES: [(&str, &str); 2] = [
    ("DESKTOPSTREAM_HIDE_CURSOR", "DESKTOPSTREAM_CURSOR=hidden"),
    ("DESKTOPSTREAM_PATTERN_SIZE", "DESKTOPSTREAM_INITIAL_SIZE"),
];

/// Parses the command line and runs the subcommand.
pub fn main() -> ExitCode {
    let Cli { command, log_json } = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if log_json {
        log.json().init();
    } else {
        log.with_ansi(std::io::stderr().is_terminal()).init();
    }
    if let Err(error) = capture::survive_truncation() {
        tracing::warn!(%error, "a desktop that truncates shared memory will end this program");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("sidecar: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = match command {
        Command::Run(options) => runtime.block_on(run(*options)).map(|()| ExitCode::SUCCESS),
        Command::Doctor(options) => Ok(runtime.block_on(crate::doctor::run(*options))),
    };
    runtime.shutdown_timeout(Duration::from_secs(1));
    result.unwrap_or_else(|error| {
        eprintln!("sidecar: {error:#}");
        ExitCode::FAILURE
    })
}

/// Options of capture, from the command line.
pub fn capture_options(desktop: &Desktop, device: Option<Device>, max_fps: u16) -> CaptureOptions {
    let Desktop {
        source,
        memory,
        render_node,
        runtime_dir,
        wayland_display,
        pipewire_node,
        cursor,
        initial_size,
    } = desktop.clone();
    CaptureOptions {
        source: match source {
            SourceArg::Auto => capture::Source::Auto,
            SourceArg::Pipewire => capture::Source::PipeWire,
            SourceArg::Wayland => capture::Source::Wayland,
            SourceArg::TestPattern => capture::Source::TestPattern,
        },
        memory: match memory {
            MemoryArg::Auto => capture::Memory::Auto,
            MemoryArg::Dmabuf => capture::Memory::DmaBuf,
            MemoryArg::Shm => capture::Memory::Shm,
        },
        max_fps: max_fps.into(),
        cursor: match cursor {
            CursorArg::Embedded => capture::Cursor::Embedded,
            CursorArg::Viewer => capture::Cursor::Viewer,
            CursorArg::Hidden => capture::Cursor::Hidden,
        },
        runtime_dir,
        wayland_display,
        pipewire_node,
        render_node,
        device,
        initial_size,
        ..CaptureOptions::default()
    }
}

/// Options of the host-agent connection, from the command line; `None` if no host-agent is configured.
pub fn upstream_options(host_agent: &HostAgent) -> Option<UpstreamOptions> {
    let HostAgent { upstream, upstream_file, plaintext_tcp: _, tls_key_file, token_file, token } =
        host_agent.clone();
    let endpoint = upstream.map(EndpointSource::Fixed).or_else(|| upstream_file.map(EndpointSource::File))?;
    let token = TokenSource::new(token_file, token);
    Some(UpstreamOptions { endpoint, token, tls_key: tls_key_file, client: SIDECAR })
}

async fn run(options: Run) -> anyhow::Result<()> {
    let Run {
        desktop,
        host_agent,
        name,
        listen,
        admin_listen,
        viewer_token_file,
        viewer_token,
        status_keys_file,
        view_only_token_file,
        control,
        audio_output,
        clipboard,
        size,
        insecure_no_viewer_auth,
        allowed_origins,
        max_viewers,
        frame_path,
        require,
        push,
        bitrate_kbps,
        max_fps,
        keyframe_ms,
        local_encoder,
    } = options;
    host_agent.check()?;
    for (former, name) in FORMER_VARIABLES {
        anyhow::ensure!(std::env::var_os(former).is_none(), "{former} is not read any more: set {name}");
    }
    // With an exit on failure, and before anything else starts: in a pod the desktop can bind the ports of a sidecar that
    // ended, and a sidecar without its ports must not run, as the desktop would answer its probes.
    let admin = tokio::net::TcpListener::bind(admin_listen).await.with_context(|| {
        format!("cannot listen for probes on {admin_listen}; choose another --admin-listen")
    })?;
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen for viewers on {listen}; choose another --listen"))?;
    let viewer_token = match viewer_token_file {
        Some(path) => Some(viewer_token::follow(path)?),
        None => viewer_token.map(|token| watch::channel(token).1),
    };
    let view_only_token = view_only_token_file
        .zip(viewer_token.clone())
        .map(|(path, controllers)| viewer_token::follow_view_only(path, controllers));
    let input = Input::start(InputOptions {
        runtime_dir: desktop.runtime_dir.clone(),
        wayland_display: desktop.wayland_display.clone(),
        control,
        clipboard,
    })
    .context("cannot start the input thread")?;
    let sound = audio_output.then(|| sound::start(&desktop.runtime_dir)).transpose()?;

    let report = Arc::new(Report::new(name.clone()));
    let hub = Hub::new(HubOptions::default());
    let switch = Arc::new(SourceSwitch::new(ViewerSink(hub.clone()), Arc::clone(&report)));
    let device = Device::open(&desktop.render_node);
    if let Err(error) = &device {
        tracing::warn!(%error, "render node unavailable: frame path ResourceId is disabled");
        let present = !matches!(error, OpenError::NotFound { .. });
        report.update(|status| status.render_node = Some(present));
    } else {
        let path = desktop.render_node.display().to_string();
        report.update(|status| status.render_node_path = Some(path));
    }
    let device = device.map_err(|error| error.to_string());
    let stop = Arc::new(AtomicBool::new(false));
    let want_idr = Arc::new(AtomicBool::new(false));
    let (event_sender, events) = mpsc::channel();
    let upstream =
        upstream_options(&host_agent).map(|options| start_upstream(options, &switch, event_sender));
    let capture =
        capture::start(CaptureOptions { size, ..capture_options(&desktop, device.clone().ok(), max_fps) });
    let resizer = capture.resizer();
    let cursor = cursor::follow(capture.pointer());

    let pump = Pump::new(
        PumpOptions {
            only_path: frame_path,
            push_nv12: push == PushArg::Nv12,
            local_encoder,
            bitrate_kbps,
            max_fps,
            keyframe_ms,
            codec: Codec::H264,
        },
        Parts {
            capture,
            device,
            upstream: upstream.clone(),
            events,
            switch,
            report: Arc::clone(&report),
            want_idr: Arc::clone(&want_idr),
            stop: Arc::clone(&stop),
        },
    );
    let pump = std::thread::Builder::new().name("pump".into()).spawn(move || pump.run())?;

    let status = {
        let (report, hub, upstream) = (Arc::clone(&report), hub.clone(), upstream);
        let (input, clipboard) = (input.state(), input.clipboard());
        let sound = sound.as_ref().map(SoundHub::state);
        let resizer = resizer.clone();
        move || {
            let sent =
                upstream.as_ref().map_or(0, |upstream| upstream.traffic().sent.load(Ordering::Relaxed));
            let mut status = report.status(sent, hub.viewers());
            status.capture.size_error = resizer.error();
            SidecarStatus {
                input: input_status(&input.borrow()),
                audio: sound::status(sound.as_ref()),
                clipboard: clipboard_status(&clipboard.borrow()),
                ..status
            }
        }
    };
    let server_options = ServerOptions {
        stream: name.clone(),
        viewer_token,
        view_only_token,
        insecure_no_auth: insecure_no_viewer_auth,
        allowed_origins,
        max_viewers,
        ..ServerOptions::default()
    };
    let mut registry = Registry::default();
    crate::metrics::register(&mut registry, status.clone());
    let observer = status_keys_file.map(|keys| Observer { keys, stream: name.clone() });
    let mut server = Server::new(hub.clone(), server_options)
        .with_observer(move |token| observer.as_ref().is_some_and(|observer| observer.accepts(token)))
        .with_status({
            let status = status.clone();
            move || serde_json::to_value(status()).unwrap_or_default()
        })
        .with_registry(registry)
        .with_input(input)
        .with_cursor(cursor)
        .with_admin(admin)
        .with_ready({
            let status = status.clone();
            move || ready(&status(), require)
        });
    if let Some(sound) = sound {
        server = server.with_sound(sound);
    }
    if size == SizePolicy::FollowViewer {
        server = server.with_resize(size::requests(move |size| resizer.request(size)));
    }
    tracing::info!(%listen, %admin_listen, name, "serving viewers");

    let keyframes = tokio::spawn({
        let (hub, want_idr) = (hub.clone(), Arc::clone(&want_idr));
        async move {
            let mut requests = hub.keyframe_requests();
            while requests.next().await.is_some() {
                want_idr.store(true, Ordering::Relaxed);
            }
        }
    });
    let info = tokio::spawn(update_info(hub.clone(), size, status));

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let result = tokio::select! {
        result = server.serve(listener) => result.context("the HTTP server failed"),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    tracing::info!("stopping");
    hub.close();
    keyframes.abort();
    info.abort();
    stop.store(true, Ordering::Relaxed);
    let ended = tokio::task::spawn_blocking(move || pump.join());
    if tokio::time::timeout(PUMP_STOP_TIMEOUT, ended).await.is_err() {
        tracing::warn!("pump did not stop in time");
    }
    result
}

fn input_status(state: &InputState) -> InputStatus {
    let protocol = state.backend.map_or("", BackendKind::name).to_owned();
    InputStatus { protocol, error: state.error.clone() }
}

fn clipboard_status(state: &ClipboardState) -> ClipboardStatus {
    ClipboardStatus { protocol: state.protocol.unwrap_or_default().to_owned(), error: state.error.clone() }
}

/// Publishes access units to viewers.
#[derive(Debug)]
struct ViewerSink(Hub);

impl UnitSink for ViewerSink {
    fn publish(&self, unit: AccessUnit) {
        self.0.publish(unit);
    }

    fn discontinuity(&self) {
        self.0.discontinuity();
    }
}

/// Starts the host-agent connection. Access units go to `switch`; the pump receives every event, access units without
/// their bytes.
fn start_upstream(
    options: UpstreamOptions,
    switch: &Arc<SourceSwitch>,
    events: mpsc::Sender<Event>,
) -> Upstream {
    let switch = Arc::clone(switch);
    Upstream::start(options, move |event| {
        let event = match event {
            Event::Message(ServerMessage::AccessUnit(unit)) => {
                let header = AccessUnit { data: bytes::Bytes::new(), ..unit.clone() };
                switch.offer(Source::HostAgent, unit);
                Event::Message(ServerMessage::AccessUnit(header))
            }
            event => event,
        };
        events.send(event).is_ok()
    })
}

/// Sends changes of the stream's description to viewers.
async fn update_info(hub: Hub, size: SizePolicy, status: impl Fn() -> SidecarStatus) {
    let mut current = StreamInfo::default();
    let mut tick = tokio::time::interval(INFO_INTERVAL);
    loop {
        tick.tick().await;
        let status = status();
        let info = StreamInfo {
            name: status.name,
            frame_path: status.frame_path,
            frame_path_reason: status.frame_path_reason,
            width: status.width,
            height: status.height,
            encoder: status.encoder,
            size,
        };
        if info != current {
            hub.set_info(info.clone());
            current = info;
        }
    }
}

/// Readiness for `/readyz`; the error is the reason.
fn ready(status: &SidecarStatus, require: RequireArg) -> Result<(), String> {
    if status.frame_path.is_none() || status.frames.encoded == 0 {
        return Err(format!("no frame yet: {}", status.capture.error));
    }
    if require == RequireArg::ZeroCopy && status.frame_path != Some(FramePath::ResourceId) {
        return Err(format!("not zero-copy: {}", status.frame_path_reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_requires_a_frame_by_the_required_path() {
        let mut status = SidecarStatus::default();
        assert!(ready(&status, RequireArg::Any).is_err());
        status.frame_path = Some(FramePath::Pixels);
        status.frames.encoded = 1;
        assert_eq!(ready(&status, RequireArg::Any), Ok(()));
        assert!(ready(&status, RequireArg::ZeroCopy).is_err());
        status.frame_path = Some(FramePath::ResourceId);
        assert_eq!(ready(&status, RequireArg::ZeroCopy), Ok(()));
    }
}
