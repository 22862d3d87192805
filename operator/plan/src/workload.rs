//! What shall run, whoever runs it: the middle form between a spec and a platform's objects.
//!
//! It says what *we* decide: the sidecar's command line, what both containers share, which device is asked
//! for, who they run as. What a user writes in Kubernetes' own words (volumes, resources, templates) stays in
//! the spec and is read by the platform's renderer.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::pair::Pairing;
use super::validate::Validated;
use operator_api::names;
use operator_api::{AuthKind, DesktopStreamSpec, EncodeWhere, GpuClass, GpuNodes, Require, Source};

/// The file with the host-agent's endpoint, in [`HOST_AGENT_DIR`].
pub const ENDPOINT_FILE: &str = "endpoint";
/// The file with a token, in [`HOST_AGENT_DIR`] and [`VIEWER_DIR`].
pub const TOKEN_FILE: &str = "token";
/// Where the sidecar finds what it needs for the host-agent.
pub const HOST_AGENT_DIR: &str = "/run/desktopstream/host-agent";
/// Where the sidecar finds the viewers' token.
pub const VIEWER_DIR: &str = "/run/desktopstream/viewer";

/// What shall run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// `namespace/name`.
    pub id: String,
    /// The sidecar's arguments.
    pub sidecar_args: Vec<String>,
    /// The sidecar reads a host-agent's endpoint and token.
    pub uses_host_agent: bool,
    /// The sidecar reads a viewers' token.
    pub uses_viewer_token: bool,
    /// The desktop's environment, besides the user's.
    pub desktop_env: BTreeMap<String, String>,
    /// The device that both containers get.
    pub device: Option<Device>,
    /// The group that may open the device.
    pub render_gid: Option<u32>,
    /// Digests of the parts of the spec that a running pod can't change, by part.
    pub shape: BTreeMap<String, String>,
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Whose driver.
    pub class: GpuClass,
    /// With the card node.
    pub card: bool,
    /// How many.
    pub count: u32,
}

/// What shall run for `stream`.
pub fn workload(stream: &Validated, render_gid: Option<u32>) -> Workload {
    let spec = &stream.spec;
    let uses_host_agent = spec.encode.place != EncodeWhere::Sidecar;
    let uses_viewer_token = spec.viewers.auth.kind == AuthKind::Token;
    let device = (spec.gpu.count > 0).then(|| Device {
        class: spec.gpu.class,
        card: spec.gpu.nodes == GpuNodes::RenderAndCard,
        count: spec.gpu.count,
    });
    let mut desktop_env = BTreeMap::from([("XDG_RUNTIME_DIR".to_owned(), names::RUNTIME_DIR.to_owned())]);
    if let Some(size) = size(spec) {
        desktop_env.insert("DESKTOP_SIZE".to_owned(), size);
    }
    Workload {
        id: stream.id(),
        sidecar_args: sidecar_args(stream),
        uses_host_agent,
        uses_viewer_token,
        desktop_env,
        render_gid: device.as_ref().and(render_gid),
        device,
        shape: shape(spec),
    }
}

fn size(spec: &DesktopStreamSpec) -> Option<String> {
    Some(format!("{}x{}", spec.capture.width?, spec.capture.height?))
}

fn sidecar_args(stream: &Validated) -> Vec<String> {
    let spec = &stream.spec;
    let mut args = vec!["run".to_owned()];
    let mut flag = |name: &str, value: String| args.push(format!("--{name}={value}"));
    flag("name", stream.id());
    flag("listen", format!("0.0.0.0:{}", names::VIEWER_PORT));
    flag("max-viewers", spec.viewers.max.to_string());
    flag("source", source(spec.capture.source).to_owned());
    flag("max-fps", spec.capture.max_framerate.to_string());
    flag("bitrate", spec.encode.bitrate.to_string());
    flag("keyframe-ms", stream.keyframe.as_millis().to_string());
    flag("runtime-dir", names::RUNTIME_DIR.to_owned());
    if spec.capture.source == Source::TestPattern
        && let Some(size) = size(spec)
    {
        flag("pattern-size", size);
    }
    if spec.capture.require == Require::ZeroCopy {
        flag("require", "zero-copy".to_owned());
    }
    if spec.encode.place == EncodeWhere::Sidecar {
        flag("rung", "local".to_owned());
    } else {
        flag("upstream-file", format!("{HOST_AGENT_DIR}/{ENDPOINT_FILE}"));
        flag("token-file", format!("{HOST_AGENT_DIR}/{TOKEN_FILE}"));
    }
    match spec.viewers.auth.kind {
        AuthKind::Token => flag("viewer-token-file", format!("{VIEWER_DIR}/{TOKEN_FILE}")),
        AuthKind::None => args.push("--insecure-no-viewer-auth".to_owned()),
    }
    if !spec.capture.cursor {
        args.push("--hide-cursor".to_owned());
    }
    args
}

const fn source(source: Source) -> &'static str {
    match source {
        Source::Auto => "auto",
        Source::PipeWire => "pipewire",
        Source::Wayland => "wayland",
        Source::TestPattern => "test-pattern",
    }
}

/// Digests, so that a pod can say later which part of its spec has changed. Of the spec alone: nodes that
/// come and go, and a newer operator, restart nobody's desktop.
fn shape(spec: &DesktopStreamSpec) -> BTreeMap<String, String> {
    let mut desktop = spec.desktop.clone();
    if let Some(home) = desktop.as_mut().and_then(|desktop| desktop.home.as_mut()) {
        // A claim that grows, or outlives us, is the same claim to the pod.
        home.size = k8s_openapi::apimachinery::pkg::api::resource::Quantity::default();
        home.on_delete = operator_api::OnDelete::default();
    }
    let parts = [
        ("desktop", serde_json::to_value(&desktop)),
        ("gpu", serde_json::to_value(&spec.gpu)),
        ("capture", serde_json::to_value(&spec.capture)),
        ("encode", serde_json::to_value(&spec.encode)),
        ("hostAgent", serde_json::to_value(&spec.host_agent)),
        ("viewers.auth", serde_json::to_value(&spec.viewers.auth)),
        ("viewers.max", serde_json::to_value(spec.viewers.max)),
    ];
    parts.into_iter().map(|(part, value)| (part.to_owned(), digest(&value.unwrap_or_default()))).collect()
}

/// Of JSON whose keys are sorted, which serde_json's are.
fn digest(value: &serde_json::Value) -> String {
    hex(&Sha256::digest(value.to_string().as_bytes())[..6])
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String can't fail.
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// Parts in which two shapes differ.
pub fn changed<'s>(before: &BTreeMap<String, String>, after: &'s BTreeMap<String, String>) -> Vec<&'s str> {
    after
        .iter()
        .filter(|(part, digest)| before.get(*part) != Some(digest))
        .map(|(part, _)| part.as_str())
        .collect()
}

/// The group that the pod gets: that of most nodes that it may go to and that reach its host-agent. One
/// only, as a group that means the GPU on one node may mean something else on another. `None` while no node has said that
/// it has such a GPU: see [`super::kubernetes::place`].
pub fn render_gid(stream: &Validated, nodes: &[super::facts::Node], pairing: &Pairing) -> Option<u32> {
    let mut votes: BTreeMap<u32, usize> = BTreeMap::new();
    let transport = stream.spec.host_agent.transport;
    let can = |node: &&super::facts::Node| super::pair::can_run(stream, node);
    let reaches = |node: &&super::facts::Node| {
        pairing.host_agent().is_none_or(|host_agent| node.endpoint(host_agent, transport).is_some())
    };
    let preferred: Vec<_> = nodes.iter().filter(can).filter(reaches).collect();
    let now: Vec<_> = nodes.iter().filter(can).collect();
    // Those that are cordoned or not ready may be back before the pod is placed.
    let later = nodes.iter().collect();
    for node in [preferred, now].into_iter().find(|them| !them.is_empty()).unwrap_or(later) {
        if let Some(gid) = node.render_gid(stream.spec.gpu.class) {
            *votes.entry(gid).or_default() += 1;
        }
    }
    votes.into_iter().max_by_key(|(gid, votes)| (*votes, std::cmp::Reverse(*gid))).map(|(gid, _)| gid)
}

#[cfg(test)]
mod tests;
