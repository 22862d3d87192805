//! The pod of a stream, and the injection of the sidecar into existing pods.
//!
//! The pod meets the Pod Security Standard `restricted` unless fields of the spec violate it.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, HTTPGetAction,
    NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolumeClaimVolumeSource,
    Pod, PodSecurityContext, PodSpec, PodTemplateSpec, PreferredSchedulingTerm, Probe, ResourceRequirements,
    SeccompProfile, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{is_over, labels, metadata};
use crate::pair::{self, Pairing};
use crate::validate::Validated;
use crate::workload::Workload;
use contract::names::{HOST_AGENT_DIR, STATUS_KEYS_FILE, VIEWER_DIR, flags};
use operator_api::{AuthKind, Desktop, names};

const HOST_AGENT_VOLUME: &str = "desktopstream-host-agent";
const VIEWER_VOLUME: &str = "desktopstream-viewer";
const TMP_VOLUME: &str = "desktopstream-tmp";
const HOME_VOLUME: &str = "desktopstream-home";

/// Image and resources of the sidecar. The image's entrypoint is the sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SidecarImage {
    /// Image reference.
    pub image: String,
    /// Pull policy; the default of Kubernetes if `None`.
    pub pull_policy: Option<String>,
    /// CPU request.
    pub cpu: String,
    /// Memory request.
    pub memory: String,
    /// Memory limit.
    pub memory_limit: String,
}

impl Default for SidecarImage {
    fn default() -> Self {
        Self {
            image: concat!("desktopstream/sidecar:", env!("CARGO_PKG_VERSION")).to_owned(),
            pull_policy: None,
            cpu: "50m".to_owned(),
            memory: "64Mi".to_owned(),
            memory_limit: "1Gi".to_owned(),
        }
    }
}

/// Renders the pod of a stream; `None` with `attach`, whose pods exist already.
pub fn pod(stream: &Validated, workload: &Workload, pairing: &Pairing, image: &SidecarImage) -> Option<Pod> {
    let desktop = stream.spec.desktop.as_ref()?;
    let template = stream.template.clone().unwrap_or_else(|| simple(desktop));
    let mut spec = template.spec.unwrap_or_default();
    harden(&mut spec);
    add_home(stream, desktop, &mut spec);
    place(stream, workload, pairing, &mut spec);
    let container = names::DESKTOP_CONTAINER;
    inject(stream, workload, image, &mut spec, Some(container));
    Some(Pod {
        metadata: pod_metadata(stream, workload, template.metadata),
        spec: Some(spec),
        ..Pod::default()
    })
}

/// The pod that counts among those with the stream's label: the newest one that is neither over nor being deleted.
pub fn choose_pod(pods: &[Arc<Pod>]) -> Option<&Arc<Pod>> {
    pods.iter().max_by_key(|pod| {
        let is_alive = !is_over(pod) && pod.metadata.deletion_timestamp.is_none();
        (is_alive, pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
    })
}

fn pod_metadata(stream: &Validated, workload: &Workload, template: Option<ObjectMeta>) -> ObjectMeta {
    let mut metadata = metadata(stream, stream.names.pod());
    let template = template.unwrap_or_default();
    let mut all = template.labels.unwrap_or_default();
    all.extend(labels(stream));
    metadata.labels = Some(all);
    let mut annotations = template.annotations.unwrap_or_default();
    annotations.insert(names::SHAPE.to_owned(), shape_text(&workload.shape));
    metadata.annotations = Some(annotations);
    metadata
}

/// Value of the annotation [`names::SHAPE`].
fn shape_text(shape: &BTreeMap<String, String>) -> String {
    shape.iter().map(|(part, digest)| format!("{part}={digest}")).collect::<Vec<_>>().join(",")
}

/// Parses the annotation [`names::SHAPE`].
pub fn read_shape(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(part, digest)| (part.to_owned(), digest.to_owned())).collect()
}

/// Pod template from the fields of a desktop.
pub(crate) fn simple(desktop: &Desktop) -> PodTemplateSpec {
    let list = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    let container = Container {
        name: names::DESKTOP_CONTAINER.to_owned(),
        image: desktop.image.clone(),
        image_pull_policy: desktop.image_pull_policy.clone(),
        command: list(&desktop.command),
        args: list(&desktop.args),
        env: (!desktop.env.is_empty()).then(|| desktop.env.clone()),
        resources: desktop.resources.clone(),
        security_context: desktop.security_context.clone(),
        volume_mounts: (!desktop.volume_mounts.is_empty()).then(|| desktop.volume_mounts.clone()),
        ..Container::default()
    };
    let spec = PodSpec {
        containers: vec![container],
        volumes: (!desktop.volumes.is_empty()).then(|| desktop.volumes.clone()),
        node_selector: (!desktop.node_selector.is_empty()).then(|| desktop.node_selector.clone()),
        tolerations: (!desktop.tolerations.is_empty()).then(|| desktop.tolerations.clone()),
        image_pull_secrets: (!desktop.image_pull_secrets.is_empty())
            .then(|| desktop.image_pull_secrets.clone()),
        ..PodSpec::default()
    };
    PodTemplateSpec { spec: Some(spec), ..PodTemplateSpec::default() }
}

/// Sets the fields that `restricted` requires, unless they are set.
fn harden(spec: &mut PodSpec) {
    let pod = spec.security_context.get_or_insert_default();
    pod.run_as_non_root.get_or_insert(true);
    pod.run_as_user.get_or_insert(names::UID);
    pod.run_as_group.get_or_insert(names::UID);
    pod.fs_group.get_or_insert(names::UID);
    pod.fs_group_change_policy.get_or_insert_with(|| "OnRootMismatch".to_owned());
    pod.seccomp_profile.get_or_insert_with(runtime_default);
    spec.automount_service_account_token.get_or_insert(false);
    spec.enable_service_links.get_or_insert(false);
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let security = container.security_context.get_or_insert_default();
        if security.privileged != Some(true) {
            security.allow_privilege_escalation.get_or_insert(false);
            security.capabilities.get_or_insert_with(no_capabilities);
        }
    }
}

fn runtime_default() -> SeccompProfile {
    SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }
}

fn no_capabilities() -> Capabilities {
    Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }
}

fn add_home(stream: &Validated, desktop: &Desktop, spec: &mut PodSpec) {
    let Some(home) = &desktop.home else { return };
    spec.volumes.get_or_insert_default().push(Volume {
        name: HOME_VOLUME.to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: stream.names.home(),
            ..PersistentVolumeClaimVolumeSource::default()
        }),
        ..Volume::default()
    });
    let is_desktop = |container: &&mut Container| container.name == names::DESKTOP_CONTAINER;
    if let Some(container) = spec.containers.iter_mut().find(is_desktop) {
        container.volume_mounts.get_or_insert_default().push(mount(HOME_VOLUME, &home.mount_path));
        let env = container.env.get_or_insert_default();
        if env.iter().all(|env| env.name != "HOME") {
            env.push(text_env("HOME", &home.mount_path));
        }
    }
}

/// Adds node affinity: to nodes with the pod's render group, and to nodes that reach the host-agent. The latter is
/// required if the stream needs a host-agent, otherwise preferred.
pub fn place(stream: &Validated, workload: &Workload, pairing: &Pairing, spec: &mut PodSpec) {
    let expression = |key: String, value: String| NodeSelectorRequirement {
        key,
        operator: "In".to_owned(),
        values: Some(vec![value]),
    };
    // A pod without the group of its node's GPU could not open it. While no group is known, the pod may only run where
    // none is reported; `replace` recreates it once a group is known.
    let groupless =
        workload.device.is_some() && workload.render_gid.is_none() && stream.spec.attach.is_none();
    let mut required = Vec::new();
    if let Some(gid) = workload.render_gid {
        required.push(expression(names::NODE_RENDER_GID.to_owned(), gid.to_string()));
    }
    if groupless {
        required.push(NodeSelectorRequirement {
            key: names::NODE_RENDER_GID.to_owned(),
            operator: "DoesNotExist".to_owned(),
            values: None,
        });
    }
    let reach = |host_agent: &str| {
        expression(format!("{}{host_agent}", names::NODE_HOST_AGENT_PREFIX), names::REACHABLE.to_owned())
    };
    let mut preferred = None;
    if let Some(host_agent) = pairing.host_agent() {
        if pair::is_required(stream) {
            required.push(reach(host_agent));
        } else {
            preferred = Some(reach(host_agent));
        }
    }
    if required.is_empty() && preferred.is_none() {
        return;
    }
    let affinity = spec.affinity.get_or_insert_with(Affinity::default);
    let node = affinity.node_affinity.get_or_insert_with(NodeAffinity::default);
    if !required.is_empty() {
        let selector = node
            .required_during_scheduling_ignored_during_execution
            .get_or_insert_with(|| NodeSelector { node_selector_terms: vec![NodeSelectorTerm::default()] });
        // Terms are alternatives, so each gets the requirements.
        for term in &mut selector.node_selector_terms {
            term.match_expressions.get_or_insert_default().extend(required.iter().cloned());
        }
    }
    if let Some(expression) = preferred {
        node.preferred_during_scheduling_ignored_during_execution.get_or_insert_default().push(
            PreferredSchedulingTerm {
                weight: 100,
                preference: NodeSelectorTerm {
                    match_expressions: Some(vec![expression]),
                    ..NodeSelectorTerm::default()
                },
            },
        );
    }
}

/// Adds the sidecar, the shared volumes and the device to a pod. `container` is the desktop's container; the first one if
/// it is absent. Injecting twice is the same as injecting once.
pub fn inject(
    stream: &Validated,
    workload: &Workload,
    image: &SidecarImage,
    spec: &mut PodSpec,
    container: Option<&str>,
) {
    let user = spec.security_context.as_ref().and_then(|pod| pod.run_as_user);
    if let Some(gid) = workload.render_gid {
        let pod = spec.security_context.get_or_insert_with(PodSecurityContext::default);
        let groups = pod.supplemental_groups.get_or_insert_default();
        if !groups.contains(&i64::from(gid)) {
            groups.push(gid.into());
        }
    }
    let position =
        container.and_then(|name| spec.containers.iter().position(|it| it.name == name)).unwrap_or(0);
    let mut sidecar = sidecar(workload, image);
    if let Some(desktop) = spec.containers.get_mut(position) {
        join_desktop(workload, desktop);
        // Sockets in the runtime directory accept connections of their own user only.
        let own = desktop.security_context.as_ref().and_then(|security| security.run_as_user);
        if let Some(security) = sidecar.security_context.as_mut() {
            security.run_as_user =
                own.or(user).or(Some(names::UID)).filter(|user| *user != 0).or(Some(names::UID));
        }
    }
    let inits = spec.init_containers.get_or_insert_default();
    inits.retain(|container| container.name != names::SIDECAR_CONTAINER);
    // First, so that the sidecar runs before the other init containers.
    inits.insert(0, sidecar);
    let volumes = spec.volumes.get_or_insert_default();
    volumes.retain(|volume| volume.name == HOME_VOLUME || !volume.name.starts_with("desktopstream-"));
    volumes.extend(shared_volumes(stream, workload));
}

fn join_desktop(workload: &Workload, desktop: &mut Container) {
    let env = desktop.env.get_or_insert_default();
    for (name, value) in &workload.desktop_env {
        if name == "XDG_RUNTIME_DIR" {
            env.retain(|env| env.name != *name);
        }
        if env.iter().all(|env| env.name != *name) {
            env.push(text_env(name, value));
        }
    }
    let mounts = desktop.volume_mounts.get_or_insert_default();
    mounts.retain(|mount| mount.name != names::RUNTIME_VOLUME);
    mounts.push(mount(names::RUNTIME_VOLUME, names::RUNTIME_DIR));
    request_device(workload, desktop.resources.get_or_insert_default());
}

/// Requests the device. Containers cannot share an extended resource, so each requests a share of the same GPU; the device
/// plugin allocates shares in pairs.
fn request_device(workload: &Workload, resources: &mut ResourceRequirements) {
    let Some(device) = &workload.device else { return };
    let resource = names::resource(device.class, device.card);
    let count = Quantity(device.count.to_string());
    resources.requests.get_or_insert_default().insert(resource.clone(), count.clone());
    resources.limits.get_or_insert_default().insert(resource, count);
}

/// True if the pod mounts the stream's host-agent Secret: it has the host-agent's endpoint and token, and the keys by which
/// a sidecar with a viewer token recognises the operator.
pub fn uses_host_agent_secret(workload: &Workload) -> bool {
    workload.uses_host_agent || workload.uses_viewer_token
}

fn sidecar(workload: &Workload, image: &SidecarImage) -> Container {
    let mut mounts = vec![mount(names::RUNTIME_VOLUME, names::RUNTIME_DIR), mount(TMP_VOLUME, "/tmp")];
    let mut args = workload.sidecar_args.clone();
    if uses_host_agent_secret(workload) {
        mounts.push(read_only(mount(HOST_AGENT_VOLUME, HOST_AGENT_DIR)));
    }
    if workload.uses_viewer_token {
        mounts.push(read_only(mount(VIEWER_VOLUME, VIEWER_DIR)));
        args.push(format!("--{}={HOST_AGENT_DIR}/{STATUS_KEYS_FILE}", flags::STATUS_KEYS_FILE));
    }
    let quantity = |text: &str| Quantity(text.to_owned());
    let mut resources = ResourceRequirements {
        requests: Some(
            [("cpu".to_owned(), quantity(&image.cpu)), ("memory".to_owned(), quantity(&image.memory))].into(),
        ),
        limits: Some([("memory".to_owned(), quantity(&image.memory_limit))].into()),
        ..ResourceRequirements::default()
    };
    request_device(workload, &mut resources);
    Container {
        name: names::SIDECAR_CONTAINER.to_owned(),
        image: Some(image.image.clone()),
        image_pull_policy: image.pull_policy.clone(),
        restart_policy: Some("Always".to_owned()),
        args: Some(args),
        ports: Some(vec![
            container_port("viewers", names::VIEWER_PORT),
            container_port(names::ADMIN_PORT_NAME, names::SIDECAR_ADMIN_PORT),
        ]),
        resources: Some(resources),
        volume_mounts: Some(mounts),
        // The desktop is started after the startup probe succeeds.
        startup_probe: Some(http_probe("/healthz", 1, 120)),
        // No readiness probe: viewers can connect before there is video, and the page shows the reason.
        liveness_probe: Some(http_probe("/healthz", 10, 6)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(no_capabilities()),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            seccomp_profile: Some(runtime_default()),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

fn container_port(name: &str, port: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: port.into(),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn http_probe(path: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(names::SIDECAR_ADMIN_PORT.into()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        failure_threshold: Some(failures),
        timeout_seconds: Some(2),
        ..Probe::default()
    }
}

fn shared_volumes(stream: &Validated, workload: &Workload) -> Vec<Volume> {
    let memory = |name: &str, limit: &str| Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: Some("Memory".to_owned()),
            size_limit: Some(Quantity(limit.to_owned())),
        }),
        ..Volume::default()
    };
    let secret = |name: &str, secret: String| Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret),
            // Readable by any user, because only the sidecar's container mounts it.
            default_mode: Some(0o444),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    let mut volumes = vec![memory(names::RUNTIME_VOLUME, "64Mi"), memory(TMP_VOLUME, "64Mi")];
    if uses_host_agent_secret(workload) {
        volumes.push(secret(HOST_AGENT_VOLUME, stream.names.host_agent_secret()));
    }
    if stream.spec.viewers.auth.kind == AuthKind::Token {
        let own = stream.spec.viewers.auth.secret_name.clone();
        volumes.push(secret(VIEWER_VOLUME, own.unwrap_or_else(|| stream.names.viewer_secret())));
    }
    volumes
}

fn mount(volume: &str, path: &str) -> VolumeMount {
    VolumeMount { name: volume.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}

fn read_only(mount: VolumeMount) -> VolumeMount {
    VolumeMount { read_only: Some(true), ..mount }
}

fn text_env(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), ..EnvVar::default() }
}
