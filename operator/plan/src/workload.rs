//! The workload of a stream, independent of the engine: the sidecar's command line, the device, the environment and the
//! group of both containers.
//!
//! Fields of the spec in Kubernetes' own types (volumes, resources, pod templates) are read by the renderers.

use std::collections::BTreeMap;

use contract::clipboard::ClipboardPolicy;
use contract::display::SizePolicy;
use contract::input::ControlPolicy;
use contract::names::{
    ENDPOINT_FILE, HOST_AGENT_DIR, RUNTIME_DIR, SIDECAR_ADMIN_PORT, TLS_KEY_FILE, TOKEN_FILE,
    VIEW_ONLY_TOKEN_FILE, VIEWER_DIR, VIEWER_PORT, env, flags,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use operator_api::{
    Audio, AuthKind, Cursor, DesktopStreamSpec, DeviceNodes, GpuClass, OnDelete, Placement, Require, Source,
};
use sha2::{Digest, Sha256};

use super::facts::Node;
use super::pair::{self, Pairing};
use super::validate::Validated;

/// Workload of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// `namespace/name` of the stream.
    pub id: String,
    /// Arguments of the sidecar.
    pub sidecar_args: Vec<String>,
    /// True if the sidecar reads a host-agent's endpoint and token from files.
    pub uses_host_agent: bool,
    /// True if the sidecar reads the viewers' tokens from files.
    pub uses_viewer_token: bool,
    /// Environment variables of the desktop, besides those of the spec.
    pub desktop_env: BTreeMap<String, String>,
    /// Device of both containers.
    pub device: Option<Device>,
    /// Group that may open the device.
    pub render_gid: Option<u32>,
    /// Digests of the parts of the spec that a running pod cannot change, by part.
    pub shape: BTreeMap<String, String>,
}

/// GPU devices of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Driver family.
    pub class: GpuClass,
    /// True if the card node is mapped too.
    pub card: bool,
    /// Number of GPUs.
    pub count: u32,
}

/// Builds the workload of `stream`. `render_gid` is the result of [`render_gid`].
pub fn workload(stream: &Validated, render_gid: Option<u32>) -> Workload {
    let spec = &stream.spec;
    let device = (spec.gpu.count > 0).then(|| Device {
        class: spec.gpu.class,
        card: spec.gpu.device_nodes == DeviceNodes::RenderAndCard,
        count: spec.gpu.count,
    });
    let mut desktop_env = BTreeMap::from([("XDG_RUNTIME_DIR".to_owned(), RUNTIME_DIR.to_owned())]);
    if let Some(size) = size(spec) {
        desktop_env.insert(env::DESKTOP_SIZE.to_owned(), size);
    }
    if spec.capture.size == SizePolicy::FollowViewer {
        desktop_env.insert(env::DESKTOP_SIZE_POLICY.to_owned(), spec.capture.size.name().to_owned());
    }
    Workload {
        id: stream.id(),
        sidecar_args: sidecar_args(stream),
        uses_host_agent: spec.encode.placement != Placement::Sidecar,
        uses_viewer_token: spec.viewers.auth.kind == AuthKind::Token,
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
    flag(flags::NAME, stream.id());
    flag(flags::LISTEN, format!("0.0.0.0:{VIEWER_PORT}"));
    flag(flags::ADMIN_LISTEN, format!("0.0.0.0:{SIDECAR_ADMIN_PORT}"));
    flag(flags::MAX_VIEWERS, spec.viewers.max.to_string());
    flag(flags::CONTROL, spec.viewers.control.name().to_owned());
    flag(flags::AUDIO_OUTPUT, spec.audio.output.to_string());
    flag(flags::CLIPBOARD, spec.viewers.clipboard.name().to_owned());
    flag(flags::SIZE, spec.capture.size.name().to_owned());
    flag(flags::SOURCE, source(spec.capture.source).to_owned());
    flag(flags::CURSOR, cursor(spec.capture.cursor).to_owned());
    flag(flags::MAX_FPS, spec.capture.max_framerate.to_string());
    flag(flags::BITRATE_KBPS, spec.encode.bitrate_kbps.to_string());
    flag(flags::KEYFRAME_MS, spec.encode.keyframe_interval_milliseconds.to_string());
    flag(flags::RUNTIME_DIR, RUNTIME_DIR.to_owned());
    let makes_the_picture =
        spec.capture.source == Source::TestPattern || spec.capture.size == SizePolicy::FollowViewer;
    if makes_the_picture && let Some(size) = size(spec) {
        flag(flags::INITIAL_SIZE, size);
    }
    if spec.capture.require == Require::ZeroCopy {
        flag(flags::REQUIRE, "zero-copy".to_owned());
    }
    if spec.encode.placement == Placement::Sidecar {
        flag(flags::FRAME_PATH, contract::FramePath::Local.flag().to_owned());
    } else {
        flag(flags::UPSTREAM_FILE, format!("{HOST_AGENT_DIR}/{ENDPOINT_FILE}"));
        flag(flags::TOKEN_FILE, format!("{HOST_AGENT_DIR}/{TOKEN_FILE}"));
        flag(flags::TLS_KEY_FILE, format!("{HOST_AGENT_DIR}/{TLS_KEY_FILE}"));
    }
    if !spec.viewers.allowed_origins.is_empty() {
        flag(flags::ALLOWED_ORIGINS, spec.viewers.allowed_origins.join(","));
    }
    match spec.viewers.auth.kind {
        AuthKind::Token => {
            flag(flags::VIEWER_TOKEN_FILE, format!("{VIEWER_DIR}/{TOKEN_FILE}"));
            flag(flags::VIEW_ONLY_TOKEN_FILE, format!("{VIEWER_DIR}/{VIEW_ONLY_TOKEN_FILE}"));
        }
        AuthKind::None => args.push(format!("--{}", flags::INSECURE_NO_VIEWER_AUTH)),
    }
    args
}

const fn cursor(cursor: Cursor) -> &'static str {
    match cursor {
        Cursor::Embedded => "embedded",
        Cursor::Viewer => "viewer",
        Cursor::Hidden => "hidden",
    }
}

const fn source(source: Source) -> &'static str {
    match source {
        Source::Auto => "auto",
        Source::PipeWire => "pipewire",
        Source::Wayland => "wayland",
        Source::TestPattern => "test-pattern",
    }
}

/// Digests of the parts of a spec. They depend on the spec alone, so that neither a change of nodes nor a newer operator
/// replaces a running pod.
fn shape(spec: &DesktopStreamSpec) -> BTreeMap<String, String> {
    let mut desktop = spec.desktop.clone();
    if let Some(home) = desktop.as_mut().and_then(|desktop| desktop.home.as_mut()) {
        // Size and deletion policy of the claim do not concern the pod.
        home.size = Quantity::default();
        home.on_delete = OnDelete::default();
    }
    let mut capture = serde_json::to_value(&spec.capture);
    if let Ok(serde_json::Value::Object(capture)) = &mut capture {
        // A part of its own: earlier versions recorded the digest of the others.
        capture.remove("size");
    }
    let parts = [
        ("desktop", serde_json::to_value(&desktop)),
        ("gpu", serde_json::to_value(&spec.gpu)),
        ("capture", capture),
        ("capture.size", serde_json::to_value(spec.capture.size)),
        ("encode", serde_json::to_value(&spec.encode)),
        ("hostAgent", serde_json::to_value(&spec.host_agent)),
        ("viewers.auth", serde_json::to_value(&spec.viewers.auth)),
        ("viewers.max", serde_json::to_value(spec.viewers.max)),
        ("viewers.control", serde_json::to_value(spec.viewers.control)),
        ("viewers.clipboard", serde_json::to_value(spec.viewers.clipboard)),
        ("audio", serde_json::to_value(&spec.audio)),
        ("viewers.allowedOrigins", serde_json::to_value(&spec.viewers.allowed_origins)),
    ];
    parts.into_iter().map(|(part, value)| (part.to_owned(), digest(&value.unwrap_or_default()))).collect()
}

/// Digest of a JSON value. serde_json sorts the keys of objects.
fn digest(value: &serde_json::Value) -> String {
    hex::encode(&Sha256::digest(value.to_string().as_bytes())[..6])
}

/// Parts of `after` that `before` does not have with the same digest.
pub fn changed<'s>(before: &BTreeMap<String, String>, after: &'s BTreeMap<String, String>) -> Vec<&'s str> {
    after
        .iter()
        .filter(|(part, digest)| match before.get(*part) {
            Some(before) => before != *digest,
            None => unrecorded(part).as_ref() != Some(*digest),
        })
        .map(|(part, _)| part.as_str())
        .collect()
}

/// Digest of a part that pods of earlier versions do not record: they have the default.
fn unrecorded(part: &str) -> Option<String> {
    let default = match part {
        "viewers.control" => serde_json::to_value(ControlPolicy::default()),
        "viewers.clipboard" => serde_json::to_value(ClipboardPolicy::default()),
        "audio" => serde_json::to_value(Audio::default()),
        "capture.size" => serde_json::to_value(SizePolicy::default()),
        _ => return None,
    };
    Some(digest(&default.unwrap_or_default()))
}

/// Group of the render nodes that the pod joins: the group of most nodes that can run the pod and reach its host-agent.
///
/// Only one group, because a group that owns the GPU on one node can own something else on another. `None` while no node
/// has reported such a GPU: see [`super::kubernetes::place`].
pub fn render_gid(stream: &Validated, nodes: &[Node], pairing: &Pairing) -> Option<u32> {
    let transport = stream.spec.host_agent.transport;
    let can_run = |node: &&Node| pair::can_run(stream, node);
    let reaches = |node: &&Node| {
        pairing.host_agent().is_none_or(|host_agent| node.endpoints(host_agent, transport).next().is_some())
    };
    let preferred: Vec<_> = nodes.iter().filter(can_run).filter(reaches).collect();
    let possible: Vec<_> = nodes.iter().filter(can_run).collect();
    // Nodes that are cordoned or not ready can return before the pod is scheduled.
    let all = nodes.iter().collect();
    let mut votes: BTreeMap<u32, usize> = BTreeMap::new();
    for node in [preferred, possible].into_iter().find(|nodes| !nodes.is_empty()).unwrap_or(all) {
        if let Some(gid) = node.render_gid(stream.spec.gpu.class) {
            *votes.entry(gid).or_default() += 1;
        }
    }
    votes.into_iter().max_by_key(|(gid, votes)| (*votes, std::cmp::Reverse(*gid))).map(|(gid, _)| gid)
}

#[cfg(test)]
mod tests;
