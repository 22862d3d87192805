//! Settings of viewers' access.

use contract::clipboard::ClipboardPolicy;
use contract::input::ControlPolicy;
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How viewers reach a stream and authenticate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Viewers {
    /// Service in front of the sidecar.
    pub service: Service,
    /// Ingress in front of the Service. No Ingress is created if unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Ingress>,
    /// How viewers authenticate.
    pub auth: Auth,
    /// Protocols offered to viewers. "WebSocket" carries video over a WebSocket for WebCodecs, and serves HTTP video
    /// streams and snapshots.
    #[schemars(schema_with = "protocols")]
    pub protocols: Vec<Protocol>,
    /// Maximum number of concurrent viewers. Must be between 1 and 1024.
    #[schemars(range(min = 1, max = 1024))]
    pub max: u32,
    /// Viewers that may control the desktop by keyboard and pointer. "Exclusive" lets one at a time, "Shared" lets all, "None"
    /// disables input.
    #[schemars(schema_with = "control")]
    pub control: ControlPolicy,
    /// Directions in which viewers in control share text, HTML and images of their clipboard with the desktop. "ToDesktop" lets
    /// them paste, "FromDesktop" lets them copy, "Both" lets them do both, "Off" disables it.
    #[schemars(schema_with = "clipboard")]
    pub clipboard: ClipboardPolicy,
    /// Origins (scheme://host[:port]) whose pages may connect besides the stream's own. At most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "origins")]
    pub allowed_origins: Vec<String>,
}

impl Default for Viewers {
    fn default() -> Self {
        Self {
            service: Service::default(),
            ingress: None,
            auth: Auth::default(),
            protocols: vec![Protocol::WebSocket],
            max: 16,
            control: ControlPolicy::default(),
            clipboard: ClipboardPolicy::default(),
            allowed_origins: Vec::new(),
        }
    }
}

fn control(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "string", "enum": ControlPolicy::ALL})
}

fn clipboard(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "string", "enum": ClipboardPolicy::ALL})
}

fn protocols(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let item = Protocol::json_schema(generator);
    schemars::json_schema!({
        "type": "array", "items": item, "minItems": 1, "maxItems": 2, "x-kubernetes-list-type": "set",
    })
}

fn origins(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array", "maxItems": 16, "x-kubernetes-list-type": "set",
        "items": {"type": "string", "maxLength": 256, "pattern": r"^https?://[^/\s,]+$"},
    })
}

/// Protocol offered to viewers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Protocol {
    /// WebSocket for WebCodecs, and HTTP video streams.
    WebSocket,
}

/// Service in front of the sidecar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Service {
    /// Type of the Service: "ClusterIP", "NodePort" or "LoadBalancer".
    #[serde(rename = "type")]
    pub kind: ServiceType,
    /// Port of the Service. Must be between 1 and 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Annotations of the Service, for example for a load balancer.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Default for Service {
    fn default() -> Self {
        Self { kind: ServiceType::ClusterIP, port: 80, annotations: BTreeMap::new() }
    }
}

/// Type of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// Reachable inside the cluster.
    ClusterIP,
    /// Reachable on a port of every node.
    NodePort,
    /// Reachable through the cloud's load balancer.
    LoadBalancer,
}

/// Ingress in front of the Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ingress {
    /// Host name of the rule.
    #[schemars(
        regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"),
        length(max = 253)
    )]
    pub host: String,
    /// Name of the IngressClass. Defaults to the cluster's default class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub class_name: Option<String>,
    /// Name of the Secret with the TLS certificate, in the stream's namespace. Browsers decode video on HTTPS pages
    /// only, so set it unless TLS ends in front of the Ingress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub tls_secret_name: Option<String>,
    /// Annotations of the Ingress.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// How viewers authenticate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Auth {
    /// Kind of authentication. "Token" requires a bearer token; "None" lets everyone who reaches the Service watch and
    /// control, for an Ingress that authenticates by itself.
    #[serde(rename = "type")]
    pub kind: AuthKind,
    /// Name of an existing Secret in the stream's namespace, with the token of viewers that may control the desktop under
    /// the key token, and optionally one of viewers that may not under the key view-only-token. The operator creates a Secret
    /// with random tokens if unset. Must not be set if type is "None".
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
}

impl Default for Auth {
    fn default() -> Self {
        Self { kind: AuthKind::Token, secret_name: None }
    }
}

/// Kind of authentication of viewers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AuthKind {
    /// A bearer token.
    Token,
    /// No authentication.
    None,
}
