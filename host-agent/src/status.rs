//! What `/status` says: a picture of the whole process as JSON. Reads, changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use protocol::endpoint::Endpoint;
use protocol::link::Stats;
use protocol::mailbox;
use protocol::stream::Path;
use serde::{Deserialize, Serialize};

use crate::hub::{Hub, SessionView, Vm};
use crate::meter::{Count, Quantiles, Time};

/// The whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// host-agent's version.
    pub version: String,
    /// Its name: what tokens are for.
    pub name: String,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Where sidecars connect.
    pub listeners: Vec<String>,
    /// Where taps connect.
    pub link: String,
    /// Encoders on this machine; empty while they are being tried.
    pub encoders: Vec<EncoderStatus>,
    /// Taps that are connected.
    pub vms: Vec<VmStatus>,
    /// Sessions.
    pub sessions: Vec<SessionStatus>,
    /// Numbers of all sessions since the start.
    pub totals: BTreeMap<String, u64>,
    /// Binds that were refused: a nonce of no session, or one that is bound elsewhere.
    pub binds_refused: u64,
}

/// An encoder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EncoderStatus {
    /// Its name.
    pub name: String,
    /// Whether it is a chip.
    pub hardware: bool,
    /// Whether it encoded a few pictures.
    pub ok: bool,
    /// How long that took in ms, or why it can't.
    pub detail: String,
}

impl From<encode::Found> for EncoderStatus {
    fn from(found: encode::Found) -> Self {
        let (ok, detail) = match found.trial {
            Ok(time) => {
                (true, format!("{} ms for {} pictures", time.as_millis(), encode::open::TRIAL_PICTURES))
            }
            Err(error) => (false, error.to_string()),
        };
        Self { name: found.name.to_owned(), hardware: found.hardware, ok, detail }
    }
}

/// A tap.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VmStatus {
    /// The VM's name.
    pub name: String,
    /// Process ID of the VMM.
    pub pid: u32,
    /// The tap's version.
    pub tap_version: u16,
    /// `virgl_renderer_callbacks.version` that the VMM uses.
    pub abi: u32,
    /// Connected for so many seconds.
    pub connected_s: u64,
    /// What the tap counts.
    pub stats: TapStats,
}

/// What a tap counts, since it was loaded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TapStats {
    /// Answers by status.
    pub answers: BTreeMap<String, u64>,
    /// Bytes of requests that came over mailboxes.
    pub request_bytes: u64,
    /// Bytes of pictures read.
    pub picture_bytes: u64,
    /// Panics caught.
    pub faults: u64,
    /// It switched itself off.
    pub disabled: bool,
    /// Contexts alive.
    pub contexts: u32,
    /// Resources alive.
    pub resources: u32,
    /// Its time on the VMM's thread per frame, ns.
    pub entry: Quantiles,
    /// The reader's share of that, ns.
    pub read: Quantiles,
}

impl From<Stats> for TapStats {
    fn from(stats: Stats) -> Self {
        let labels = mailbox::Status::ALL.iter().map(|status| status.label().to_owned());
        Self {
            answers: labels.zip(stats.answers).collect(),
            request_bytes: stats.request_bytes,
            picture_bytes: stats.picture_bytes,
            faults: stats.faults,
            disabled: stats.disabled != 0,
            contexts: stats.contexts,
            resources: stats.resources,
            entry: stats.entry.into(),
            read: stats.read.into(),
        }
    }
}

/// A session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Its number.
    pub id: u64,
    /// `namespace/name`.
    pub stream: String,
    /// Who connected.
    pub peer: String,
    /// What the sidecar says it is.
    pub client: String,
    /// Connected for so many seconds.
    pub connected_s: u64,
    /// `resource_id` or `pixels`; none before it is configured.
    pub path: Option<String>,
    /// The VM it is bound to.
    pub vm: Option<String>,
    /// The context there.
    pub context: Option<u32>,
    /// Width in pixels.
    pub width: u16,
    /// Height in pixels.
    pub height: u16,
    /// Highest frame rate.
    pub max_fps: u16,
    /// Bit rate at configuration, kbit/s.
    pub bitrate_kbps: u32,
    /// Its encoder, if it has one.
    pub encoder: Option<String>,
    /// Pictures that came.
    pub captured: u64,
    /// Pictures encoded for the first time.
    pub encoded: u64,
    /// Still pictures encoded again.
    pub repeated: u64,
    /// Pictures that a newer one overtook.
    pub dropped: u64,
    /// Access units lost because the sidecar reads too slowly.
    pub lost: u64,
    /// IDR pictures.
    pub idr: u64,
    /// Bytes from the guest on this connection.
    pub bytes_in: u64,
    /// Bytes to the guest on this connection.
    pub bytes_out: u64,
    /// The tap's reader, from GPU resource to slot, us; empty for pushed pixels.
    pub read_us: Quantiles,
    /// From picture in our hands to encoder called, us.
    pub queue_us: Quantiles,
    /// From encoder called to access unit out, us.
    pub encode_us: Quantiles,
    /// From access unit out to handed to the socket, us.
    pub wire_us: Quantiles,
}

impl From<&SessionView> for SessionStatus {
    fn from(view: &SessionView) -> Self {
        let session = &view.session;
        let own = &session.meter.own;
        let path = view.config.map(|config| match config.path {
            Path::ResourceId => "resource_id".to_owned(),
            Path::Pixels => "pixels".to_owned(),
        });
        Self {
            id: session.id,
            stream: session.stream.clone(),
            peer: session.peer.clone(),
            client: session.client.clone(),
            connected_s: session.since.elapsed().as_secs(),
            path,
            vm: view.binding.as_ref().map(|(vm, ..)| vm.clone()),
            context: view.binding.as_ref().map(|(_, context, _)| context.id),
            width: view.config.map_or(0, |config| config.width),
            height: view.config.map_or(0, |config| config.height),
            max_fps: view.config.map_or(0, |config| config.max_fps),
            bitrate_kbps: view.config.map_or(0, |config| config.bitrate_kbps),
            encoder: session.encoder.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone(),
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
}

fn vm_status(vm: &Arc<Vm>) -> VmStatus {
    VmStatus {
        name: vm.description.name.clone(),
        pid: vm.description.pid,
        tap_version: vm.description.tap_version,
        abi: vm.description.abi,
        connected_s: vm.since.elapsed().as_secs(),
        stats: vm.stats().into(),
    }
}

/// What does not change while the process runs.
#[derive(Debug)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// Whether sessions need an encoder of this machine; not so with the null encoder.
    pub makes_video: bool,
    /// When it started.
    pub started: Instant,
    /// Where sidecars connect.
    pub listeners: Vec<Endpoint>,
    /// Where taps connect.
    pub link: String,
    /// Filled in once they were tried.
    pub encoders: std::sync::OnceLock<Vec<EncoderStatus>>,
}

/// Takes the picture.
pub fn status(identity: &Identity, hub: &Hub) -> Status {
    let (sessions, vms) = hub.view();
    let totals = Count::ALL.iter().map(|count| (count.label().to_owned(), hub.totals.count(*count)));
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        name: identity.name.clone(),
        uptime_s: identity.started.elapsed().as_secs(),
        listeners: identity.listeners.iter().map(ToString::to_string).collect(),
        link: identity.link.clone(),
        encoders: identity.encoders.get().cloned().unwrap_or_default(),
        vms: vms.iter().map(vm_status).collect(),
        sessions: sessions.iter().map(SessionStatus::from).collect(),
        totals: totals.collect(),
        binds_refused: hub.counts.binds_refused.load(Ordering::Relaxed),
    }
}
