//! Builds the JSON of `/status`.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use contract::host_agent_status::{EncoderStatus, HostAgentStatus, SessionStatus, TapStats, VmStatus};
use contract::quantiles::CountedQuantiles;
use contract::{Endpoint, FramePath};
use protocol::link::{Quantiles, Stats};
use protocol::mailbox;
use protocol::stream::Path;

use crate::hub::{Hub, SessionView, Vm};
use crate::meter::{Count, Time};

/// Facts about the process that do not change after its start.
#[derive(Debug)]
pub struct Identity {
    /// Name of the host-agent.
    pub name: String,
    /// Whether sessions need a working encoder; false for the null encoder.
    pub makes_video: bool,
    /// Time of start.
    pub started: Instant,
    /// Endpoints for sidecars.
    pub listeners: Vec<Endpoint>,
    /// Path of the socket for taps.
    pub link: String,
    /// Encoders of this machine; set once they have been tested.
    pub encoders: OnceLock<Vec<EncoderStatus>>,
}

/// The state of the process now.
pub fn status(identity: &Identity, hub: &Hub) -> HostAgentStatus {
    let (sessions, vms) = hub.view();
    let totals = Count::ALL.iter().map(|count| (count.label().to_owned(), hub.totals.count(*count)));
    HostAgentStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        name: identity.name.clone(),
        uptime_seconds: identity.started.elapsed().as_secs(),
        listeners: identity.listeners.clone(),
        link: identity.link.clone(),
        encoders: identity.encoders.get().cloned().unwrap_or_default(),
        vms: vms.iter().map(vm_status).collect(),
        sessions: sessions.iter().map(session_status).collect(),
        totals: totals.collect(),
        binds_refused: hub.counts.binds_refused.load(Ordering::Relaxed),
    }
}

/// Result of an encoder's trial.
pub fn encoder_status(found: encode::Found) -> EncoderStatus {
    let (ok, detail) = match found.trial {
        Ok(time) => (true, format!("{} ms for {} frames", time.as_millis(), encode::open::TRIAL_PICTURES)),
        Err(error) => (false, error.to_string()),
    };
    EncoderStatus { name: found.name.to_owned(), hardware: found.hardware, ok, detail }
}

fn vm_status(vm: &Arc<Vm>) -> VmStatus {
    VmStatus {
        name: vm.description.name.clone(),
        pid: vm.description.pid,
        tap_version: vm.description.tap_version,
        abi: vm.description.abi,
        connected_seconds: vm.since.elapsed().as_secs(),
        stats: tap_stats(&vm.stats()),
    }
}

fn tap_stats(stats: &Stats) -> TapStats {
    let labels = mailbox::Status::ALL.iter().map(|status| status.label().to_owned());
    TapStats {
        answers: labels.zip(stats.answers).collect(),
        request_bytes: stats.request_bytes,
        picture_bytes: stats.picture_bytes,
        faults: stats.faults,
        disabled: stats.disabled != 0,
        contexts: stats.contexts,
        resources: stats.resources,
        entry_ns: quantiles(stats.entry),
        read_ns: quantiles(stats.read),
    }
}

fn quantiles(quantiles: Quantiles) -> CountedQuantiles {
    let Quantiles { count, p50, p99, max } = quantiles;
    CountedQuantiles { count, p50, p99, max }
}

fn frame_path(path: Path) -> FramePath {
    match path {
        Path::ResourceId => FramePath::ResourceId,
        Path::Pixels => FramePath::Pixels,
    }
}

fn session_status(view: &SessionView) -> SessionStatus {
    let SessionView { session, config, binding } = view;
    let own = &session.meter.own;
    SessionStatus {
        id: session.info.id,
        stream: session.info.stream.clone(),
        peer: session.info.peer.clone(),
        client: session.info.client.clone(),
        connected_seconds: session.since.elapsed().as_secs(),
        frame_path: config.map(|config| frame_path(config.path)),
        vm: binding.as_ref().map(|(vm, _)| vm.clone()),
        context: binding.as_ref().map(|(_, context)| context.id),
        width: config.map_or(0, |config| config.width),
        height: config.map_or(0, |config| config.height),
        max_fps: config.map_or(0, |config| config.max_fps),
        bitrate_kbps: config.map_or(0, |config| config.bitrate_kbps),
        encoder: session.encoder.lock().clone(),
        captured: own.count(Count::Captured),
        encoded: own.count(Count::Encoded),
        repeated: own.count(Count::Repeated),
        dropped: own.count(Count::Dropped),
        lost: own.count(Count::Lost),
        idr: own.count(Count::Idr),
        bytes_in: own.count(Count::BytesIn),
        bytes_out: own.count(Count::BytesOut),
        read_us: own.time(Time::Read),
        queue_us: own.time(Time::Queue),
        encode_us: own.time(Time::Encode),
        wire_us: own.time(Time::Wire),
    }
}
