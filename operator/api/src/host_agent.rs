//! `HostAgent`: an encoder on a host of VMs, which streams are paired with.

#![expect(clippy::duplicated_attributes, reason = "printcolumns have the same keys")]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a host-agent is and how much it bears.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "desktopstream.dev",
    version = "v1alpha1",
    kind = "HostAgent",
    status = "HostAgentStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "A host-agent: encodes the streams of the VMs on its machine. Its name is its --name.",
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
    /// Where nodes try to reach it, in this order: `vsock://CID:PORT`, `unix:/PATH`, `tcp://HOST:PORT`.
    /// `tcp://gateway:PORT` stands for each node's default gateway. Empty tries `vsock://2:15937` and
    /// `tcp://gateway:15937`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        inner(
            regex(pattern = "^(tcp://[^/\\s]+:[0-9]{1,5}|vsock://([0-9]+|host):[0-9]{1,10}|unix:/.+)$"),
            length(max = 256)
        )
    )]
    pub endpoints: Vec<String>,
    /// Where the operator reads its `/status`, e.g. `http://192.168.64.1:15938`. Without it, version,
    /// encoders, VMs and sessions stay unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^http://[^/\\s]+$"), length(max = 256))]
    pub admin: Option<String>,
    /// Nodes that may use it, by their labels; all if empty.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Most streams at once.
    #[serde(default = "capacity")]
    #[schemars(range(min = 0, max = 10_000))]
    pub capacity: u32,
}

fn capacity() -> u32 {
    64
}

/// What is so.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HostAgentStatus {
    /// Reachable, Ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Encoders that work there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub encoders: Vec<EncoderStatus>,
    /// VMs whose taps are connected.
    #[serde(rename = "vms", skip_serializing_if = "Vec::is_empty")]
    pub vms: Vec<String>,
    /// Sessions, as it says itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u32>,
    /// Streams paired with it, as the operator says.
    pub streams: u32,
    /// Nodes that reach it.
    pub nodes: u32,
    /// When a node or the operator last reached it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Time>,
}

/// An encoder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EncoderStatus {
    /// Its name.
    pub name: String,
    /// Whether it is a chip.
    pub hardware: bool,
}
