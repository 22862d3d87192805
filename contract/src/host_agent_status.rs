//! JSON of the host-agent's `/status`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::quantiles::CountedQuantiles;
use crate::{Endpoint, FramePath};

/// State of a host-agent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostAgentStatus {
    /// Version of the program.
    pub version: String,
    /// Name of the host-agent: the audience of stream tokens.
    pub name: String,
    /// Seconds since start.
    pub uptime_seconds: u64,
    /// Endpoints that accept sidecars.
    pub listeners: Vec<Endpoint>,
    /// Path of the Unix socket that accepts taps.
    pub link: String,
    /// Encoders of this machine; empty until they have been tested.
    pub encoders: Vec<EncoderStatus>,
    /// VMs with a connected tap.
    pub vms: Vec<VmStatus>,
    /// Sessions of sidecars.
    pub sessions: Vec<SessionStatus>,
    /// Counters over all sessions since start, by metric name.
    pub totals: BTreeMap<String, u64>,
    /// Refused binds: the nonce belongs to no session, or to a session that is bound elsewhere.
    pub binds_refused: u64,
}

/// Result of an encoder's trial.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EncoderStatus {
    /// Encoder name.
    pub name: String,
    /// True for hardware encoders.
    pub hardware: bool,
    /// True if the trial produced access units.
    pub ok: bool,
    /// Duration of the trial, or its error.
    pub detail: String,
}

/// A VM whose tap is connected.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VmStatus {
    /// VM name.
    pub name: String,
    /// Process ID of the VMM.
    pub pid: u32,
    /// Protocol version of the tap.
    pub tap_version: u16,
    /// `virgl_renderer_callbacks.version` that the VMM passed.
    pub abi: u32,
    /// Age of the connection, seconds.
    pub connected_seconds: u64,
    /// Counters of the tap.
    pub stats: TapStats,
}

/// Counters of a tap since it was loaded.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TapStats {
    /// Mailbox answers by status.
    pub answers: BTreeMap<String, u64>,
    /// Bytes of mailbox requests.
    pub request_bytes: u64,
    /// Bytes of pixels read.
    pub picture_bytes: u64,
    /// Caught panics.
    pub faults: u64,
    /// True after the tap disabled itself.
    pub disabled: bool,
    /// Live virgl contexts.
    pub contexts: u32,
    /// Live resources.
    pub resources: u32,
    /// Time on the VMM's thread per frame, ns.
    pub entry_ns: CountedQuantiles,
    /// Time of the reader within `entry_ns`, ns.
    pub read_ns: CountedQuantiles,
}

/// A session of a sidecar.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionStatus {
    /// Session number.
    pub id: u64,
    /// Stream as `namespace/name`.
    pub stream: String,
    /// Peer address.
    pub peer: String,
    /// Program and version of the peer.
    pub client: String,
    /// Age of the session, seconds.
    pub connected_seconds: u64,
    /// Frame path; `None` before `Configure`.
    pub frame_path: Option<FramePath>,
    /// Name of the bound VM.
    pub vm: Option<String>,
    /// Bound virgl context.
    pub context: Option<u32>,
    /// Picture width, pixels.
    pub width: u16,
    /// Picture height, pixels.
    pub height: u16,
    /// Maximum frame rate.
    pub max_fps: u16,
    /// Configured bit rate, kbit/s.
    pub bitrate_kbps: u32,
    /// Encoder name.
    pub encoder: Option<String>,
    /// Pictures received.
    pub captured: u64,
    /// New pictures encoded.
    pub encoded: u64,
    /// Unchanged pictures encoded again.
    pub repeated: u64,
    /// Pictures replaced by a newer one before encoding.
    pub dropped: u64,
    /// Access units discarded because the sidecar reads too slowly.
    pub lost: u64,
    /// IDR pictures.
    pub idr: u64,
    /// Bytes received on the stream connection.
    pub bytes_in: u64,
    /// Bytes sent on the stream connection.
    pub bytes_out: u64,
    /// Time of the tap's reader, from GPU resource to ring slot, µs; empty for pushed pixels.
    pub read_us: CountedQuantiles,
    /// Time from picture available to encoder called, µs.
    pub queue_us: CountedQuantiles,
    /// Time from encoder called to access unit available, µs.
    pub encode_us: CountedQuantiles,
    /// Time from access unit available to socket write, µs.
    pub wire_us: CountedQuantiles,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_status_is_accepted() {
        let status: HostAgentStatus =
            serde_json::from_str(r#"{"name":"mac","vms":[{"name":"a"}],"future":1}"#).expect("reads");
        assert_eq!((status.name.as_str(), status.vms[0].name.as_str()), ("mac", "a"));
    }
}
