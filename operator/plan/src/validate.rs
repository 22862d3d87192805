//! Validation of a spec, the same in the webhook, the controller and Docker mode.
//!
//! Docker mode has no apiserver, so the rules of the schema and of [`operator_api::rules`] are repeated here.

mod desktop;
pub mod security;

use std::time::Duration;

use contract::StreamName;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::core::Selector;
use operator_api::names::Names;
use operator_api::{
    AuthKind, DesktopStream, DesktopStreamSpec, DeviceNodes, Lifecycle, Placement, Require, Source,
};

use crate::quantity;

/// A field that is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Problem {
    /// Path of the field from the root, separated by dots.
    pub field: String,
    /// Rule that the field breaks, and the remedy.
    pub message: String,
}

/// All problems of a spec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Invalid(pub Vec<Problem>);

/// A valid stream. Builders take it and cannot fail.
#[derive(Debug, Clone, PartialEq)]
pub struct Validated {
    /// Namespace of the stream.
    pub namespace: String,
    /// Names of the stream and its objects.
    pub names: Names,
    /// UID of the stream.
    pub uid: String,
    /// Generation of the spec.
    pub generation: Option<i64>,
    /// Desired state.
    pub spec: DesktopStreamSpec,
    /// `spec.desktop.podTemplate`, parsed.
    pub template: Option<PodTemplateSpec>,
}

impl Validated {
    /// `namespace/name`: the subject of tokens.
    pub fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.names.stream)
    }

    /// `spec.lifecycle.idleTimeoutSeconds` as a duration.
    pub fn idle_timeout(&self) -> Option<Duration> {
        self.spec.lifecycle.idle_timeout_seconds.map(|seconds| Duration::from_secs(seconds.into()))
    }

    /// `spec.lifecycle.ttlSeconds` as a duration.
    pub fn ttl(&self) -> Option<Duration> {
        self.spec.lifecycle.ttl_seconds.map(Duration::from_secs)
    }
}

/// Collects problems.
#[derive(Default)]
struct Check(Vec<Problem>);

impl Check {
    fn ensure(&mut self, holds: bool, field: &str, message: &str) {
        if !holds {
            self.0.push(Problem { field: field.to_owned(), message: message.to_owned() });
        }
    }

    fn range<T: Copy + PartialOrd + std::fmt::Display>(&mut self, field: &str, value: T, min: T, max: T) {
        let holds = value >= min && value <= max;
        self.ensure(holds, field, &format!("must be between {min} and {max}"));
    }
}

/// Validates a stream.
///
/// # Errors
/// All problems of the spec and the name.
pub fn validate(stream: &DesktopStream) -> Result<Validated, Invalid> {
    let mut check = Check::default();
    let spec = &stream.spec;
    let name = stream.metadata.name.clone().unwrap_or_default();
    check.ensure(name.parse::<StreamName>().is_ok(), "metadata.name", StreamName::RULE);
    check.ensure(
        spec.desktop.is_some() != spec.attach.is_some(),
        "spec",
        "set exactly one of desktop and attach",
    );
    let template = spec.desktop.as_ref().and_then(|desktop| desktop::check(&mut check, desktop));
    check_gpu(&mut check, spec);
    check_capture(&mut check, spec);
    check_encode(&mut check, spec);
    check_host_agent(&mut check, spec);
    check_viewers(&mut check, spec);
    let Lifecycle { idle_timeout_seconds, ttl_seconds } = spec.lifecycle;
    if let Some(seconds) = idle_timeout_seconds {
        check.range("spec.lifecycle.idleTimeoutSeconds", seconds.into(), 1, Lifecycle::MAX_SECONDS);
    }
    if let Some(seconds) = ttl_seconds {
        check.range("spec.lifecycle.ttlSeconds", seconds, 1, Lifecycle::MAX_SECONDS);
    }
    if !check.0.is_empty() {
        return Err(Invalid(check.0));
    }
    Ok(Validated {
        namespace: stream.metadata.namespace.clone().unwrap_or_else(|| "default".to_owned()),
        names: Names::new(&name),
        uid: stream.metadata.uid.clone().unwrap_or_default(),
        generation: stream.metadata.generation,
        spec: spec.clone(),
        template,
    })
}

fn check_gpu(check: &mut Check, spec: &DesktopStreamSpec) {
    check.ensure(
        !(spec.gpu.count == 0 && spec.gpu.device_nodes == DeviceNodes::RenderAndCard),
        "spec.gpu",
        "count 0 allocates no device: set deviceNodes to RenderOnly, or count to 1",
    );
    check.range("spec.gpu.count", spec.gpu.count, 0, 8);
}

fn check_capture(check: &mut Check, spec: &DesktopStreamSpec) {
    let capture = &spec.capture;
    check.ensure(
        capture.width.is_some() == capture.height.is_some(),
        "spec.capture",
        "set both width and height, or neither to use the size of the desktop's output",
    );
    for (field, side) in [("spec.capture.width", capture.width), ("spec.capture.height", capture.height)] {
        if let Some(side) = side {
            check.ensure(side % 2 == 0, field, "must be even, because chroma is subsampled in 2x2 blocks");
            check.range(field, side, 64, 8192);
        }
    }
    check.range("spec.capture.maxFramerate", capture.max_framerate, 1, 240);
    let zero_copy = capture.require == Require::ZeroCopy;
    check.ensure(
        !(zero_copy && spec.encode.placement == Placement::Sidecar),
        "spec.encode.placement",
        "capture.require ZeroCopy encodes on the host: set encode.placement to Auto or HostAgent",
    );
    check.ensure(
        !(zero_copy && spec.gpu.count == 0),
        "spec.gpu.count",
        "capture.require ZeroCopy needs a GPU: set gpu.count to 1",
    );
    check.ensure(
        !(zero_copy && capture.source == Source::TestPattern),
        "spec.capture",
        "the test pattern is drawn on the CPU: set require to Any, or source to Auto",
    );
}

fn check_encode(check: &mut Check, spec: &DesktopStreamSpec) {
    let encode = &spec.encode;
    check.range("spec.encode.bitrateKbps", encode.bitrate_kbps, 100, 200_000);
    let interval = encode.keyframe_interval_milliseconds;
    check.range("spec.encode.keyframeIntervalMilliseconds", interval, 0, 3_600_000);
}

fn check_host_agent(check: &mut Check, spec: &DesktopStreamSpec) {
    let want = &spec.host_agent;
    check.ensure(
        !(want.name.is_some() && want.selector.is_some()),
        "spec.hostAgent",
        "set at most one of name and selector",
    );
    check.ensure(
        !(spec.encode.placement == Placement::Sidecar && (want.name.is_some() || want.selector.is_some())),
        "spec.hostAgent",
        "encode.placement Sidecar uses no host-agent: remove hostAgent.name and hostAgent.selector",
    );
    let Some(selector) = &want.selector else { return };
    let values_fit = selector.match_expressions.iter().flatten().all(|requirement| {
        let has_values = requirement.values.as_ref().is_some_and(|values| !values.is_empty());
        has_values == matches!(requirement.operator.as_str(), "In" | "NotIn")
    });
    check.ensure(
        values_fit && Selector::try_from(selector.clone()).is_ok(),
        "spec.hostAgent.selector.matchExpressions",
        "operator must be In or NotIn with values, or Exists or DoesNotExist without",
    );
}

fn check_viewers(check: &mut Check, spec: &DesktopStreamSpec) {
    let viewers = &spec.viewers;
    check.range("spec.viewers.max", viewers.max, 1, 1024);
    check.range("spec.viewers.service.port", viewers.service.port, 1, u16::MAX);
    check.ensure(!viewers.protocols.is_empty(), "spec.viewers.protocols", "must contain WebSocket");
    check.ensure(
        !(viewers.auth.kind == AuthKind::None && viewers.auth.secret_name.is_some()),
        "spec.viewers.auth",
        "type None uses no token: remove secretName, or set type to Token",
    );
    let is_origin = |origin: &String| {
        let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        host.is_some_and(|host| {
            !host.is_empty() && !host.contains(|c: char| c == '/' || c == ',' || c.is_whitespace())
        })
    };
    check.ensure(
        viewers.allowed_origins.iter().all(is_origin) && viewers.allowed_origins.len() <= 16,
        "spec.viewers.allowedOrigins",
        "write at most 16 origins such as https://portal.example.com, without a path",
    );
    if let Some(ingress) = &viewers.ingress {
        let host = ingress.host.len() <= 253 && ingress.host.split('.').all(|part| is_label(part, 63));
        check.ensure(host, "spec.viewers.ingress.host", "write a host name such as desk.example.com");
    }
}

/// Validates a change of a stream's spec.
///
/// # Errors
/// Every field that cannot change in this way.
pub fn validate_update(old: &DesktopStream, new: &DesktopStream) -> Result<(), Invalid> {
    let mut check = Check::default();
    check.ensure(
        old.spec.desktop.is_some() == new.spec.desktop.is_some(),
        "spec",
        "desktop and attach cannot replace each other: delete the stream and create another one",
    );
    let home = |stream: &DesktopStream| stream.spec.desktop.as_ref().and_then(|desktop| desktop.home.clone());
    if let (Some(old), Some(new)) = (home(old), home(new)) {
        check.ensure(
            old.storage_class_name == new.storage_class_name,
            "spec.desktop.home.storageClassName",
            "the storage class of a volume cannot change: delete the stream and its claim, or create another stream",
        );
        check.ensure(
            quantity::amount(&new.size) >= quantity::amount(&old.size),
            "spec.desktop.home.size",
            &format!("a volume cannot shrink: write {} or more", old.size.0),
        );
    }
    if check.0.is_empty() { Ok(()) } else { Err(Invalid(check.0)) }
}

/// True for an RFC 1123 label of at most `max` bytes.
fn is_label(text: &str, max: usize) -> bool {
    let is_alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    !text.is_empty()
        && text.len() <= max
        && text.bytes().all(|b| is_alphanumeric(b) || b == b'-')
        && text.bytes().next().is_some_and(is_alphanumeric)
        && text.bytes().next_back().is_some_and(is_alphanumeric)
}

#[cfg(test)]
mod tests;
