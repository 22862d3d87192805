//! Makes the parts and joins them: capture → pump → gate → hub → viewers, and the host-agent's connection.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use protocol::stream::{Codec, ServerMessage};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use virtgpu::{Device, OpenError};

use capture::{self, CaptureOptions};
use crate::cli::{Cli, Command, Desktop, HostAgent, MemoryArg, PushArg, RequireArg, Run, SourceArg};
use frame_path::gate::{Gate, Source};
use frame_path::fallback::Rung;
use frame_path::pump::{Parts, Pump, PumpOptions};
use frame_path::report::Report;
use frame_path::upstream::{EndpointSource, Event, SIDECAR, TokenSource, Upstream, UpstreamOptions};
use viewers::{Hub, HubOptions, Server, ServerOptions, StreamInfo};

/// How often viewers are told of a change of rung or encoder.
const INFO_EVERY: Duration = Duration::from_millis(250);

/// The program.
pub fn main() -> ExitCode {
    let Cli { command, log_json } = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if log_json {
        log.json().init();
    } else {
        log.with_ansi(std::io::stderr().is_terminal()).init();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("sidecar: cannot start: {error}");
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

/// What `capture` is told, from the command line.
pub fn capture_options(desktop: &Desktop, device: Option<Device>, max_fps: u16) -> CaptureOptions {
    let Desktop {
        source,
        memory,
        render_node,
        runtime_dir,
        wayland_display,
        pipewire_node,
        hide_cursor,
        pattern_size,
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
        cursor: if hide_cursor { capture::Cursor::Hidden } else { capture::Cursor::Embedded },
        runtime_dir,
        wayland_display,
        pipewire_node,
        render_node,
        device,
        pattern_size,
        ..CaptureOptions::default()
    }
}

/// What `upstream` is told, from the command line.
pub fn upstream_options(host_agent: &HostAgent) -> Option<UpstreamOptions> {
    let HostAgent { upstream, upstream_file, token_file, token } = host_agent.clone();
    let token = match (token_file, token) {
        (Some(path), _) => TokenSource::File(path),
        (None, Some(text)) => TokenSource::Text(text),
        (None, None) => TokenSource::None,
    };
    let endpoint = upstream.map(EndpointSource::Fixed).or_else(|| upstream_file.map(EndpointSource::File))?;
    Some(UpstreamOptions { endpoint, token, client: SIDECAR })
}

async fn run(options: Run) -> anyhow::Result<()> {
    let Run {
        desktop,
        host_agent,
        name,
        listen,
        viewer_token_file,
        viewer_token,
        insecure_no_viewer_auth,
        max_viewers,
        rung,
        require,
        push,
        bitrate,
        max_fps,
        keyframe_ms,
        local_encoder,
    } = options;
    let viewer_token = match viewer_token_file {
        Some(path) => Some(
            std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read the viewers' token file {}", path.display()))?
                .trim()
                .to_owned(),
        ),
        None => viewer_token,
    };
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen for viewers on {listen}; choose another --listen"))?;

    let report = Arc::new(Report::new(name.clone()));
    let hub = Hub::new(HubOptions::default());
    let gate = Arc::new(Gate::new(hub.clone(), Arc::clone(&report)));
    let device = Device::open(&desktop.render_node);
    if let Err(error) = &device {
        tracing::warn!(%error, "no render node: frames cannot go by resource ID");
        report.update(|status| status.render_node = !matches!(error, OpenError::NotFound { .. }));
    }
    let device = device.map_err(|error| error.to_string());
    let stop = Arc::new(AtomicBool::new(false));
    let want_idr = Arc::new(AtomicBool::new(false));
    let (event_in, events) = mpsc::channel();
    let upstream = upstream_options(&host_agent).map(|options| start_upstream(options, &gate, event_in));
    let capture = capture::start(capture_options(&desktop, device.clone().ok(), max_fps));

    let pump = Pump::new(
        PumpOptions {
            rung,
            push_nv12: push == PushArg::Nv12,
            local_encoder,
            bitrate_kbps: bitrate,
            max_fps,
            keyframe_ms,
            codec: Codec::H264,
        },
        Parts {
            capture,
            device,
            upstream: upstream.clone(),
            events,
            gate,
            report: Arc::clone(&report),
            want_idr: Arc::clone(&want_idr),
            stop: Arc::clone(&stop),
        },
    );
    let pump = std::thread::Builder::new().name("pump".into()).spawn(move || pump.run())?;

    let status = {
        let (report, hub, upstream) = (Arc::clone(&report), hub.clone(), upstream);
        move || {
            let sent =
                upstream.as_ref().map_or(0, |upstream| upstream.traffic().sent.load(Ordering::Relaxed));
            report.status(sent, hub.viewers())
        }
    };
    let server_options = ServerOptions {
        viewer_token,
        insecure_no_auth: insecure_no_viewer_auth,
        max_viewers,
        ..ServerOptions::default()
    };
    let server = Server::new(hub.clone(), server_options)
        .with_status({
            let status = status.clone();
            move || serde_json::to_value(status()).unwrap_or_default()
        })
        .with_metrics({
            let status = status.clone();
            move || crate::metrics::render(&status())
        })
        .with_ready({
            let status = status.clone();
            move || ready(&status(), require)
        });
    tracing::info!(%listen, name, "serving viewers");

    let keyframes = tokio::spawn({
        let (hub, want_idr) = (hub.clone(), Arc::clone(&want_idr));
        async move {
            let mut requests = hub.keyframe_requests();
            while requests.next().await.is_some() {
                want_idr.store(true, Ordering::Relaxed);
            }
        }
    });
    let info = tokio::spawn(tell_viewers(hub.clone(), status));

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let result = tokio::select! {
        result = server.serve(listener) => result.context("the viewers' server failed"),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    tracing::info!("stopping");
    hub.close();
    keyframes.abort();
    info.abort();
    stop.store(true, Ordering::Relaxed);
    let ended = tokio::task::spawn_blocking(move || pump.join());
    if tokio::time::timeout(Duration::from_secs(3), ended).await.is_err() {
        tracing::warn!("the pump does not stop; leaving it");
    }
    result
}

/// Starts the host-agent's connection: access units go straight to the gate, everything to the pump.
fn start_upstream(options: UpstreamOptions, gate: &Arc<Gate>, events: mpsc::Sender<Event>) -> Upstream {
    let gate = Arc::clone(gate);
    Upstream::start(options, move |event| {
        let event = match event {
            Event::Message(ServerMessage::AccessUnit(unit)) => {
                // The pump wants to know which frame landed, not its bytes.
                let landed = protocol::stream::AccessUnit { data: bytes::Bytes::new(), ..unit.clone() };
                gate.offer(Source::HostAgent, unit);
                Event::Message(ServerMessage::AccessUnit(landed))
            }
            event => event,
        };
        events.send(event).is_ok()
    })
}

/// Keeps the viewers' overlay true.
async fn tell_viewers(hub: Hub, status: impl Fn() -> frame_path::report::Status) {
    let mut told = StreamInfo::default();
    let mut tick = tokio::time::interval(INFO_EVERY);
    loop {
        tick.tick().await;
        let now = status();
        let info = StreamInfo {
            name: now.name,
            rung: now.rung.map(|rung| format!("{rung:?}")).unwrap_or_default(),
            rung_reason: now.rung_reason,
            width: now.width,
            height: now.height,
            encoder: now.encoder,
        };
        if info != told {
            hub.set_info(info.clone());
            told = info;
        }
    }
}

/// Whether `/readyz` says yes, else why not.
fn ready(status: &frame_path::report::Status, require: RequireArg) -> Result<(), String> {
    if status.rung.is_none() || status.frames.encoded == 0 {
        return Err(format!("no frame yet: {}", status.capture.error));
    }
    if require == RequireArg::ZeroCopy && status.rung != Some(Rung::ResourceId) {
        return Err(format!("not zero-copy: {}", status.rung_reason));
    }
    Ok(())
}
