//! The kind `HostAgent`.

#![expect(clippy::duplicated_attributes, reason = "printer columns have the same keys")]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Desired state of a HostAgent.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "desktopstream.dev",
    version = "v1alpha1",
    kind = "HostAgent",
    status = "HostAgentStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "HostAgent is a host-agent that encodes the streams of the VMs on its machine. Its name must be the --name of the host-agent.",
    shortname = "hagent",
    category = "streaming",
    printcolumn(
        name = "READY",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "STREAMS", type_ = "integer", json_path = ".status.streams"),
    printcolumn(name = "CAPACITY", type_ = "integer", json_path = ".spec.capacity"),
    printcolumn(name = "NODES", type_ = "integer", json_path = ".status.nodes"),
    printcolumn(name = "VERSION", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "LAST-SEEN", type_ = "date", json_path = ".status.lastSeen"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct HostAgentSpec {
    /// Endpoints that nodes try, in this order: vsock://CID:PORT, unix:/PATH, tls://HOST:PORT, whose fingerprint is that of
    /// the spec or appended as #sha256=FINGERPRINT, or tcp://HOST:PORT, which needs plaintext. The host "gateway" in
    /// tls://gateway:PORT is the default gateway of each node. Defaults to vsock://2:15937 and, with a fingerprint,
    /// tls://gateway:15937. At most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        inner(
            regex(
                pattern = "^(tls://[^/#\\s]+:[0-9]{1,5}(#sha256=[0-9a-f]{64})?|tcp://[^/#\\s]+:[0-9]{1,5}|vsock://([0-9]+|host):[0-9]{1,10}|unix:/.+)$"
            ),
            length(max = 352)
        )
    )]
    pub endpoints: Vec<String>,
    /// Identity of the host-agent at tls:// endpoints: 64 hexadecimal digits, the output of `host-agent fingerprint` on its
    /// machine. Connections to a program with another key are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    pub fingerprint: Option<String>,
    /// Allows tcp:// endpoints, and by default tcp://gateway:15937 if there is no fingerprint. Everything between node and
    /// host-agent can then read and change video, tokens and nonces.
    #[serde(default)]
    pub plaintext: bool,
    /// Base URL of the host-agent's admin listener, for example http://192.168.64.1:15938. The operator reads version,
    /// encoders, VMs and sessions from its /status; they stay unset without it. The host-agent needs
    /// `--admin tcp://IP:PORT`, which shows the names of all streams and VMs to everything that reaches the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^http://[^/\\s]+$"), length(max = 256))]
    pub admin: Option<String>,
    /// Labels of the nodes that may use the host-agent. All nodes if empty.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Maximum number of streams that are paired with the host-agent. Must be between 0 and 10000.
    #[serde(default = "capacity")]
    #[schemars(range(min = 0, max = 10_000))]
    pub capacity: u32,
}

fn capacity() -> u32 {
    64
}

/// Observed state of a HostAgent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HostAgentStatus {
    /// Conditions of the host-agent. Types are Reachable and Ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::status::conditions")]
    pub conditions: Vec<Condition>,
    /// Generation of the spec that this status was computed from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Version of the host-agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Encoders that passed their trial on the host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub encoders: Vec<EncoderStatus>,
    /// Names of the VMs whose taps are connected to the host-agent.
    #[serde(rename = "vms", skip_serializing_if = "Vec::is_empty")]
    pub vms: Vec<String>,
    /// Number of sessions that the host-agent reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u32>,
    /// Number of streams that the operator paired with the host-agent.
    pub streams: u32,
    /// Number of nodes that reach the host-agent.
    pub nodes: u32,
    /// Time at which a node or the operator last reached the host-agent, renewed at most every 5 minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Time>,
}

/// Encoder of a host-agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EncoderStatus {
    /// Name of the encoder.
    pub name: String,
    /// True for a hardware encoder.
    pub hardware: bool,
}
