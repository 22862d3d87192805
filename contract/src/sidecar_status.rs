//! JSON of the sidecar's `/status`.

use serde::{Deserialize, Serialize};

use crate::quantiles::MillisecondQuantiles;
use crate::{Endpoint, FramePath};

/// Maximum size of a serialized status, bytes. A real one has about 2 KiB.
pub const MAX_BYTES: usize = 64 * 1024;

/// State of a sidecar.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SidecarStatus {
    /// Stream as `namespace/name`.
    pub name: String,
    /// Frame path in use; `None` before the first frame.
    pub frame_path: Option<FramePath>,
    /// Reason why a better frame path is not in use; empty on the best one.
    pub frame_path_reason: String,
    /// Encoder element or host-agent encoder in use.
    pub encoder: String,
    /// Picture width, pixels.
    pub width: u32,
    /// Picture height, pixels.
    pub height: u32,
    /// Capture source and negotiated format.
    pub capture: CaptureState,
    /// Injection of viewers' input.
    pub input: InputStatus,
    /// Capture of the desktop's sound.
    pub audio: AudioStatus,
    /// Clipboard that viewers share with the desktop.
    pub clipboard: ClipboardStatus,
    /// Presence of a render node in the container; `None` from sidecars that do not report it.
    pub render_node: Option<bool>,
    /// Path of the render node that the sidecar opened; `None` without one.
    pub render_node_path: Option<String>,
    /// Connection to the host-agent.
    pub host_agent: HostAgentConnection,
    /// Frame counters since start.
    pub frames: FrameCounts,
    /// Encoded frames per second over the last two seconds.
    pub fps: f64,
    /// Bit rate of access units over the last two seconds, kbit/s.
    pub bitrate_kbps: f64,
    /// Bytes sent to the host since start: mailbox requests and stream connection.
    pub bytes_to_host: u64,
    /// `bytes_to_host` per encoded frame.
    pub bytes_per_frame_to_host: f64,
    /// Time from capture to access unit.
    pub latency_ms: MillisecondQuantiles,
    /// Time of the tap on the VMM's thread per frame, as reported by the tap.
    pub tap_ms: MillisecondQuantiles,
    /// Connected viewers.
    pub viewers: u32,
    /// Seconds since start.
    pub uptime_seconds: f64,
    /// Milliseconds since the last access unit of a new frame.
    pub last_frame_ms: Option<u64>,
}

/// Capture source and what was negotiated with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CaptureState {
    /// Kind of source: Mutter, PipeWire node, Wayland screencopy, test pattern.
    pub source: String,
    /// Formats that the source offered.
    pub offered: Vec<String>,
    /// Format that was negotiated.
    pub negotiated: String,
    /// Reason why the buffers are not DMA-BUFs; empty if they are.
    pub shm_reason: String,
    /// Current error; empty while frames can arrive.
    pub error: String,
    /// Reason why the desktop does not follow the size of the viewer's window; empty if it does, or need not.
    pub size_error: String,
}

/// Injection of viewers' input into the desktop.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InputStatus {
    /// Protocol in use; empty while events cannot be injected.
    pub protocol: String,
    /// Reason why events cannot be injected; empty if they can, or if control is disabled (`--control none`).
    pub error: String,
}

/// Capture of the desktop's sound.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AudioStatus {
    /// True if viewers may listen.
    pub output: bool,
    /// True while sound is captured, which it is while a viewer listens.
    pub running: bool,
    /// Reason why sound cannot be captured; empty if it can, or while no viewer listens.
    pub error: String,
}

/// Clipboard that viewers share with the desktop.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClipboardStatus {
    /// Protocol in use; empty while the clipboard is not available.
    pub protocol: String,
    /// Reason why the clipboard is not available; empty if it is.
    pub error: String,
}

/// Frame counters since start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FrameCounts {
    /// Frames received from the compositor.
    pub captured: u64,
    /// Access units of new frames.
    pub encoded: u64,
    /// Frames that produced no access unit, apart from those that the tap refused; the sum of `drops`.
    pub dropped: u64,
    /// Dropped frames by place.
    pub drops: DropCounts,
    /// Access units of an unchanged picture.
    pub repeated: u64,
    /// Requests that the tap refused. The frame may then travel by another path.
    pub refused: u64,
}

/// Dropped frames by place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DropCounts {
    /// Between capture and submission: the slot of the newest frame was overwritten.
    pub capture: u64,
    /// In the host-agent, before encoding.
    pub host_agent: u64,
    /// In the local encoder's queue.
    pub local_encoder: u64,
    /// Submitted frames that expired without an answer.
    pub expired: u64,
    /// Submitted frames abandoned when the connection, the binding or the frame path changed.
    pub interrupted: u64,
    /// Frames whose pixels could not be read.
    pub unreadable: u64,
}

impl DropCounts {
    /// Sum over all places.
    pub const fn total(self) -> u64 {
        let Self { capture, host_agent, local_encoder, expired, interrupted, unreadable } = self;
        capture + host_agent + local_encoder + expired + interrupted + unreadable
    }
}

/// State of the connection from sidecar to host-agent. Programs decide by the variant; `message` is for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state")]
pub enum HostAgentConnection {
    /// No host-agent is configured.
    #[default]
    NotConfigured,
    /// No attempt has ended yet, or the endpoint file is still empty.
    Connecting,
    /// A session exists and the VM is not known to be another one.
    Connected {
        /// Endpoint in use.
        endpoint: Endpoint,
        /// Program and version of the host-agent.
        server: String,
    },
    /// The host-agent refused the session.
    Refused {
        /// Kind of refusal.
        code: RefusalCode,
        /// Reason and remedy.
        message: String,
    },
    /// The host-agent refused the token because it has expired.
    TokenExpired {
        /// Reason and remedy.
        message: String,
    },
    /// The program at the host-agent's address has another key than the endpoint demands.
    Untrusted {
        /// Reason and remedy.
        message: String,
    },
    /// The host-agent cannot be reached, or the connection broke.
    Unreachable {
        /// Reason and remedy.
        message: String,
    },
    /// A session exists, but the host-agent did not confirm the nonce that this VM's tap accepted: it serves another VM.
    /// Frames travel as pixels.
    OtherVm {
        /// Endpoint in use.
        endpoint: Endpoint,
        /// Program and version of the host-agent.
        server: String,
    },
    /// A state that this version does not know.
    #[serde(other)]
    Unknown,
}

/// Kind of refusal. Mirrors `protocol::stream::ErrorCode` without the cases that have a variant of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalCode {
    /// The token is missing, forged, or for another host-agent.
    BadToken,
    /// No session is free.
    Capacity,
    /// No common protocol version.
    Version,
    /// A message was malformed.
    Protocol,
    /// No encoder supports the configuration.
    Encoder,
    /// A newer session of the same stream replaced this one.
    Replaced,
    /// The host-agent is stopping.
    ShuttingDown,
    /// Too many messages.
    RateLimited,
    /// A code that this version does not know.
    #[serde(other)]
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_round_trips_through_json() {
        let endpoint: Endpoint = "tcp://10.0.2.2:15937".parse().expect("endpoint");
        for host_agent in [
            HostAgentConnection::NotConfigured,
            HostAgentConnection::Connecting,
            HostAgentConnection::Connected { endpoint: endpoint.clone(), server: "host-agent 0.1".into() },
            HostAgentConnection::Refused { code: RefusalCode::BadToken, message: "no key".into() },
            HostAgentConnection::TokenExpired { message: "expired".into() },
            HostAgentConnection::Unreachable { message: "refused".into() },
            HostAgentConnection::Untrusted { message: "another key".into() },
            HostAgentConnection::OtherVm { endpoint: endpoint.clone(), server: "host-agent 0.1".into() },
        ] {
            let status =
                SidecarStatus { host_agent, frame_path: Some(FramePath::Pixels), ..SidecarStatus::default() };
            let json = serde_json::to_string(&status).expect("JSON");
            assert_eq!(serde_json::from_str::<SidecarStatus>(&json).expect("reads"), status);
        }
    }

    #[test]
    fn unknown_fields_and_states_are_accepted() {
        let json = r#"{"frame_path":"Local","new":[1],"host_agent":{"state":"Teleporting","at":"x"}}"#;
        let status: SidecarStatus = serde_json::from_str(json).expect("reads");
        assert_eq!(status.frame_path, Some(FramePath::Local));
        assert_eq!(status.host_agent, HostAgentConnection::Unknown);
        let refused = r#"{"state":"Refused","code":"Weather","message":""}"#;
        let refused: HostAgentConnection = serde_json::from_str(refused).expect("reads");
        assert!(matches!(refused, HostAgentConnection::Refused { code: RefusalCode::Other, .. }));
    }
}
