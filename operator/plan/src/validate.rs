//! Whether a spec makes sense. The webhook and the controller ask here, and Docker mode, which has no
//! apiserver that knows CEL: so everything that [`operator_api::rules`] say is said here, too, and more.

use std::time::Duration;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use operator_api::names::{self, Names};
use operator_api::{
    AuthKind, Desktop, DesktopStream, DesktopStreamSpec, EncodeWhere, GpuNodes, Require, Source,
};

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Problem {
    /// The field, from the root, dotted.
    pub field: String,
    /// What to write instead.
    pub message: String,
}

/// All that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Invalid(pub Vec<Problem>);

/// A stream that makes sense. Builders take this and can't fail.
#[derive(Debug, Clone, PartialEq)]
pub struct Validated {
    /// Its namespace.
    pub namespace: String,
    /// Its objects' names; the stream's own is among them.
    pub names: Names,
    /// Its UID.
    pub uid: String,
    /// Its generation.
    pub generation: Option<i64>,
    /// What is wanted.
    pub spec: DesktopStreamSpec,
    /// `spec.encode.keyframeInterval`.
    pub keyframe: Duration,
    /// `spec.lifecycle.idleTimeout`.
    pub idle_timeout: Option<Duration>,
    /// `spec.lifecycle.ttl`.
    pub ttl: Option<Duration>,
    /// `spec.desktop.podTemplate`.
    pub template: Option<PodTemplateSpec>,
}

impl Validated {
    /// `namespace/name`: what tokens are made for.
    pub fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.names.stream)
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

    fn duration(&mut self, field: &str, text: &str, max: Duration) -> Duration {
        let parsed = duration(text);
        self.ensure(parsed.is_some(), field, "write a duration such as 90s, 30m or 1h30m");
        let parsed = parsed.unwrap_or_default();
        self.ensure(parsed <= max, field, &format!("at most {} h", max.as_secs() / 3600));
        parsed
    }
}

/// A year; what is meant by more is never.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// Checks all of it.
pub fn validate(stream: &DesktopStream) -> Result<Validated, Invalid> {
    let mut check = Check::default();
    let spec = &stream.spec;
    let name = stream.metadata.name.clone().unwrap_or_default();
    check.ensure(
        is_label(&name, Names::MAX) && name.starts_with(|c: char| c.is_ascii_lowercase()),
        "metadata.name",
        "the name must have at most 50 of a-z, 0-9 and '-', begin with a letter and not end with '-'",
    );
    check.ensure(
        spec.desktop.is_some() != spec.attach.is_some(),
        "spec",
        "give either desktop (we run it) or attach (it runs already and gets the sidecar), and not both",
    );
    let template = spec.desktop.as_ref().and_then(|desktop| check_desktop(&mut check, desktop));
    check_capture(&mut check, spec);
    check_host_agent(&mut check, spec);
    check.ensure(
        !(spec.gpu.count == 0 && spec.gpu.nodes == GpuNodes::RenderAndCard),
        "spec.gpu",
        "count 0 gives no device: set nodes to RenderOnly, or count to 1",
    );
    check.ensure(spec.gpu.count <= 8, "spec.gpu.count", "0 to 8");
    check_viewers(&mut check, spec);
    let keyframe = check.duration(
        "spec.encode.keyframeInterval",
        &spec.encode.keyframe_interval,
        Duration::from_secs(3600),
    );
    let mut optional = |field, text: &Option<String>| {
        let parsed = text.as_ref().map(|text| check.duration(field, text, LONGEST));
        check.ensure(parsed != Some(Duration::ZERO), field, "must be more than 0; remove it for never");
        parsed
    };
    let idle_timeout = optional("spec.lifecycle.idleTimeout", &spec.lifecycle.idle_timeout);
    let ttl = optional("spec.lifecycle.ttl", &spec.lifecycle.ttl);
    if !check.0.is_empty() {
        return Err(Invalid(check.0));
    }
    Ok(Validated {
        namespace: stream.metadata.namespace.clone().unwrap_or_else(|| "default".to_owned()),
        names: Names::new(&name),
        uid: stream.metadata.uid.clone().unwrap_or_default(),
        generation: stream.metadata.generation,
        spec: spec.clone(),
        keyframe,
        idle_timeout,
        ttl,
        template,
    })
}

fn check_desktop(check: &mut Check, desktop: &Desktop) -> Option<PodTemplateSpec> {
    check.ensure(
        desktop.image.is_some() != desktop.pod_template.is_some(),
        "spec.desktop",
        "give either image or podTemplate, and not both",
    );
    if let Some(image) = &desktop.image {
        let plain = !image.is_empty() && image.bytes().all(|b| b.is_ascii_graphic());
        check.ensure(plain, "spec.desktop.image", "write an image reference such as registry/name:tag");
    }
    check.ensure(
        desktop.env.iter().all(|env| env.name != "XDG_RUNTIME_DIR"),
        "spec.desktop.env",
        "XDG_RUNTIME_DIR is /run/desktop, shared with the sidecar: remove it from env",
    );
    check.ensure(
        desktop.volumes.iter().all(|volume| !volume.name.starts_with("desktopstream-")),
        "spec.desktop.volumes",
        "volumes named desktopstream-… are ours: give it another name",
    );
    let ours = |path: &str| {
        let path = path.trim_end_matches('/');
        path == names::RUNTIME_DIR || path.starts_with("/run/desktop/")
    };
    check.ensure(
        desktop.volume_mounts.iter().all(|mount| !ours(&mount.mount_path)),
        "spec.desktop.volumeMounts",
        "/run/desktop is shared with the sidecar: mount elsewhere",
    );
    for mount in &desktop.volume_mounts {
        check.ensure(
            desktop.volumes.iter().any(|volume| volume.name == mount.name),
            "spec.desktop.volumeMounts",
            &format!("no volume is named {:?}: add it to spec.desktop.volumes", mount.name),
        );
    }
    check.ensure(
        desktop
            .resources
            .iter()
            .flat_map(|it| [&it.requests, &it.limits])
            .flatten()
            .flat_map(|it| it.keys())
            .all(|resource| !resource.starts_with(names::RESOURCE_DOMAIN)),
        "spec.desktop.resources",
        "the GPU is asked for by spec.gpu: remove desktopstream.dev/… from resources",
    );
    if let Some(home) = &desktop.home {
        check.ensure(
            bytes(&home.size).is_some_and(|size| size > 0.0),
            "spec.desktop.home.size",
            "size must be a quantity such as 10Gi",
        );
        check.ensure(
            !ours(&home.mount_path),
            "spec.desktop.home.mountPath",
            "/run/desktop is shared with the sidecar: choose another",
        );
    }
    desktop.pod_template.as_ref().and_then(|template| check_template(check, desktop, template))
}

fn check_template(
    check: &mut Check,
    desktop: &Desktop,
    template: &serde_json::Value,
) -> Option<PodTemplateSpec> {
    const FIELD: &str = "spec.desktop.podTemplate";
    let Desktop { command, args, env, resources, security_context, volumes, volume_mounts, .. } = desktop;
    let alone = command.is_empty()
        && args.is_empty()
        && env.is_empty()
        && volumes.is_empty()
        && volume_mounts.is_empty();
    check.ensure(
        alone
            && resources.is_none()
            && security_context.is_none()
            && desktop.node_selector.is_empty()
            && desktop.tolerations.is_empty()
            && desktop.image_pull_policy.is_none()
            && desktop.image_pull_secrets.is_empty(),
        "spec.desktop",
        "with podTemplate, write the container's fields in its container named desktop",
    );
    let parsed: PodTemplateSpec = match serde_json::from_value(template.clone()) {
        Ok(parsed) => parsed,
        Err(error) => {
            check.ensure(false, FIELD, &format!("is no pod template: {error}"));
            return None;
        }
    };
    let Some(spec) = &parsed.spec else {
        check.ensure(false, FIELD, "podTemplate needs spec.containers, with one container named desktop");
        return None;
    };
    let inits = spec.init_containers.iter().flatten();
    let named = |name: &str| spec.containers.iter().filter(|container| container.name == name).count();
    check.ensure(
        named(names::DESKTOP_CONTAINER) == 1,
        FIELD,
        "name one of its containers `desktop`: that one is streamed",
    );
    check.ensure(
        spec.containers.iter().chain(inits).all(|container| !container.name.starts_with("desktopstream-")),
        FIELD,
        "containers named desktopstream-… are ours: give it another name",
    );
    check.ensure(
        spec.volumes.iter().flatten().all(|volume| !volume.name.starts_with("desktopstream-")),
        FIELD,
        "volumes named desktopstream-… are ours: give it another name",
    );
    Some(parsed)
}

fn check_capture(check: &mut Check, spec: &DesktopStreamSpec) {
    let capture = &spec.capture;
    check.ensure(
        capture.width.is_some() == capture.height.is_some(),
        "spec.capture",
        "give both width and height, or neither to take the desktop's own size",
    );
    for (field, side) in [("spec.capture.width", capture.width), ("spec.capture.height", capture.height)] {
        let side = side.unwrap_or(64);
        check.ensure(side % 2 == 0, field, "must be even: video is in 2x2 blocks");
        check.ensure((64..=8192).contains(&side), field, "64 to 8192");
    }
    check.ensure((1..=240).contains(&capture.max_framerate), "spec.capture.maxFramerate", "1 to 240");
    check.ensure(
        (100..=200_000).contains(&spec.encode.bitrate),
        "spec.encode.bitrate",
        "100 to 200000 kbit/s",
    );
    let zero_copy = capture.require == Require::ZeroCopy;
    check.ensure(
        !(zero_copy && spec.encode.place == EncodeWhere::Sidecar),
        "spec.encode.where",
        "capture.require ZeroCopy means that the host encodes: set encode.where to Auto or HostAgent",
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

fn check_host_agent(check: &mut Check, spec: &DesktopStreamSpec) {
    let want = &spec.host_agent;
    check.ensure(
        !(want.name.is_some() && want.selector.is_some()),
        "spec.hostAgent",
        "give either name or selector, and not both",
    );
    check.ensure(
        !(spec.encode.place == EncodeWhere::Sidecar && (want.name.is_some() || want.selector.is_some())),
        "spec.hostAgent",
        "encode.where Sidecar uses no host-agent: remove hostAgent.name and hostAgent.selector",
    );
    for requirement in want.selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten()) {
        let values = requirement.values.as_ref().map_or(0, Vec::len);
        let good = match requirement.operator.as_str() {
            "In" | "NotIn" => values > 0,
            "Exists" | "DoesNotExist" => values == 0,
            _ => false,
        };
        check.ensure(
            good,
            "spec.hostAgent.selector.matchExpressions",
            "operator must be In or NotIn with values, or Exists or DoesNotExist without",
        );
    }
}

fn check_viewers(check: &mut Check, spec: &DesktopStreamSpec) {
    let viewers = &spec.viewers;
    check.ensure((1..=1024).contains(&viewers.max), "spec.viewers.max", "1 to 1024");
    check.ensure(viewers.service.port > 0, "spec.viewers.service.port", "1 to 65535");
    check.ensure(!viewers.protocols.is_empty(), "spec.viewers.protocols", "at least one: WebSocket");
    check.ensure(
        !(viewers.auth.kind == AuthKind::None && viewers.auth.secret_name.is_some()),
        "spec.viewers.auth",
        "type None asks for no token: remove secretName, or set type to Token",
    );
    if let Some(ingress) = &viewers.ingress {
        let host = ingress.host.len() <= 253 && ingress.host.split('.').all(|part| is_label(part, 63));
        check.ensure(host, "spec.viewers.ingress.host", "write a host name such as desk.example.com");
    }
}

/// What may not change.
pub fn validate_update(old: &DesktopStream, new: &DesktopStream) -> Result<(), Invalid> {
    let mut check = Check::default();
    check.ensure(
        old.spec.desktop.is_some() == new.spec.desktop.is_some(),
        "spec",
        "a stream can't change between desktop and attach; delete it and make another",
    );
    let home = |stream: &DesktopStream| stream.spec.desktop.as_ref().and_then(|desktop| desktop.home.clone());
    if let (Some(old), Some(new)) = (home(old), home(new)) {
        check.ensure(
            old.storage_class_name == new.storage_class_name,
            "spec.desktop.home.storageClassName",
            "a volume's storage class can't change; delete the stream and its claim, or make another",
        );
        check.ensure(
            bytes(&new.size) >= bytes(&old.size),
            "spec.desktop.home.size",
            &format!("a volume can't shrink: write {} or more", old.size.0),
        );
    }
    if check.0.is_empty() { Ok(()) } else { Err(Invalid(check.0)) }
}

/// RFC 1123 label.
fn is_label(text: &str, max: usize) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    !text.is_empty()
        && text.len() <= max
        && text.bytes().all(|b| plain(b) || b == b'-')
        && text.bytes().next().is_some_and(plain)
        && text.bytes().next_back().is_some_and(plain)
}

/// A quantity in bytes.
pub fn bytes(quantity: &Quantity) -> Option<f64> {
    let text = quantity.0.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let power = |base: f64, at: i32| Some(base.powi(at));
    let factor = match suffix {
        "" => Some(1.0),
        "k" => power(1e3, 1),
        "M" => power(1e3, 2),
        "G" => power(1e3, 3),
        "T" => power(1e3, 4),
        "Ki" => power(1024.0, 1),
        "Mi" => power(1024.0, 2),
        "Gi" => power(1024.0, 3),
        "Ti" => power(1024.0, 4),
        _ => None,
    };
    Some(number.parse::<f64>().ok()? * factor?)
}

/// `1h30m`, `90s`, `250ms`.
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let number: u64 = number.parse().ok()?;
        let part = match unit {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(number.checked_mul(60)?),
            "h" => Duration::from_secs(number.checked_mul(3600)?),
            _ => return None,
        };
        total = total.checked_add(part)?;
        rest = after;
    }
    Some(total)
}

#[cfg(test)]
mod tests;
