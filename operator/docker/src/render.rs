//! Renders a workload as Docker objects. Infallible: `unsupported` has refused what cannot be rendered.

mod desktop;

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, DeviceMapping, EndpointSettings, HostConfig, Mount, MountType, MountVolumeOptions,
    NetworkCreateRequest, NetworkingConfig, PortBinding, RestartPolicy, RestartPolicyNameEnum,
    VolumeCreateRequest,
};
use contract::Endpoint;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use operator_api::OnDelete;
use operator_api::names::{RUNTIME_DIR, SECRETS_DIR, SIDECAR_ADMIN_PORT, UID, VIEWER_PORT};
use operator_plan::kubernetes::SidecarImage;
use operator_plan::pair::Pairing;
use operator_plan::quantity::amount;
use operator_plan::validate::Validated;
use operator_plan::workload::Workload;
use sha2::{Digest, Sha256};

use crate::archive::Owner;
use crate::names::{self, Role, StreamKey};
use crate::publish::Publish;

/// Path of a host-agent's Unix socket in the sidecar.
const HOST_SOCKET: &str = "/run/desktopstream-host/host-agent.sock";

/// A GPU of the Engine's machine, as a container gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Path of the render node.
    pub render: String,
    /// Path of the card node, if the stream asks for it.
    pub card: Option<String>,
    /// Groups that own the nodes.
    pub gids: Vec<u32>,
}

impl Device {
    /// Paths of all nodes.
    pub fn paths(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.render).chain(&self.card)
    }
}

/// A user's container that the sidecar is attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Volume or folder at its `XDG_RUNTIME_DIR`, shared with the sidecar; `None` if the desktop is not captured.
    pub runtime: Option<Source>,
    /// User of the sidecar, `UID` or `UID:GID`: the compositor's sockets admit only their own user.
    pub user: String,
}

/// Source of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Volume, by name.
    Volume(String),
    /// Folder or file of the Engine's machine.
    Path(String),
}

/// Everything besides the stream that the objects depend on.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'s> {
    /// Project and name of the stream.
    pub key: &'s StreamKey,
    /// Image and resources of the sidecar.
    pub sidecar: &'s SidecarImage,
    /// GPUs that the stream gets.
    pub devices: &'s [Device],
    /// Published address of the viewer port.
    pub publish: &'s Publish,
    /// Chosen host-agent.
    pub pairing: &'s Pairing,
    /// Identity of the host-agent's Unix socket, which changes when the host-agent creates it again; `None` for other
    /// endpoints.
    pub socket: Option<&'s str>,
    /// Container to attach the sidecar to, if the stream has no desktop of its own.
    pub attached: Option<&'s Attached>,
}

/// Desired objects of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Objects {
    /// Network of the project.
    pub network: NetworkCreateRequest,
    /// Volumes of the stream.
    pub volumes: Vec<VolumeCreateRequest>,
    /// Sidecar container.
    pub sidecar: ContainerCreateBody,
    /// Desktop; `None` if the sidecar is attached to a user's container.
    pub desktop: Option<ContainerCreateBody>,
    /// Folders of the desktop to hand to its user. A new volume belongs to root.
    pub owned_folders: Vec<String>,
}

/// Renders the objects of a stream.
pub fn objects(stream: &Validated, workload: &Workload, settings: Settings<'_>) -> Objects {
    let Settings { key, attached, .. } = settings;
    let network = NetworkCreateRequest {
        name: key.object(Role::Network),
        driver: Some("bridge".to_owned()),
        // Desktop and sidecar share a folder; no container needs a connection to another one.
        options: Some([("com.docker.network.bridge.enable_icc".to_owned(), "false".to_owned())].into()),
        labels: Some(key.project.labels(Role::Network)),
        ..NetworkCreateRequest::default()
    };
    let mut volumes = vec![volume(key, Role::Secrets)];
    if attached.is_none() {
        let Owner { uid, gid } = user(stream);
        volumes.push(runtime_volume(&format!("{uid}:{gid}"), key));
    }
    if let Some(home) = stream.spec.desktop.as_ref().and_then(|desktop| desktop.home.as_ref()) {
        let mut volume = volume(key, Role::Home);
        if home.on_delete == OnDelete::Keep {
            volume.labels.get_or_insert_default().insert(names::KEEP.to_owned(), "true".to_owned());
        }
        volumes.push(volume);
    }
    let desktop = stream.spec.desktop.as_ref().filter(|_| attached.is_none());
    Objects {
        network,
        volumes,
        sidecar: sidecar(stream, workload, settings),
        desktop: desktop.map(|it| desktop::container(stream, it, workload, settings)),
        owned_folders: desktop.map(desktop::owned_folders).unwrap_or_default(),
    }
}

/// User and group of desktop and sidecar.
pub fn user(stream: &Validated) -> Owner {
    let context = stream.spec.desktop.as_ref().and_then(|it| it.security_context.as_ref());
    let uid = context.and_then(|it| it.run_as_user).unwrap_or(UID);
    Owner { uid, gid: context.and_then(|it| it.run_as_group).unwrap_or(uid) }
}

fn volume(key: &StreamKey, role: Role) -> VolumeCreateRequest {
    VolumeCreateRequest {
        name: Some(key.object(role)),
        driver: Some("local".to_owned()),
        labels: Some(key.labels(role)),
        ..VolumeCreateRequest::default()
    }
}

/// A tmpfs volume owned by `user` with mode 0700, as the XDG Base Directory specification demands of `XDG_RUNTIME_DIR`.
/// `user` is `UID` or `UID:GID`; a user name, which only the image can resolve, is replaced by the default user.
pub(crate) fn runtime_volume(user: &str, key: &StreamKey) -> VolumeCreateRequest {
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
    let mut parts = user.split(':');
    let user = number(parts.next()).unwrap_or(UID);
    let group = number(parts.next()).unwrap_or(user);
    let options = [
        ("type", "tmpfs".to_owned()),
        ("device", "tmpfs".to_owned()),
        ("o", format!("size=64m,mode=0700,uid={user},gid={group}")),
    ];
    VolumeCreateRequest {
        driver_opts: Some(options.map(|(name, value)| (name.to_owned(), value)).into()),
        ..volume(key, Role::Runtime)
    }
}

fn sidecar(stream: &Validated, workload: &Workload, settings: Settings<'_>) -> ContainerCreateBody {
    let Settings { key, sidecar, publish, pairing, attached, .. } = settings;
    let Owner { uid, gid } = user(stream);
    let runtime = match attached {
        None => Some(Source::Volume(key.object(Role::Runtime))),
        Some(attached) => attached.runtime.clone(),
    };
    let mut mounts: Vec<Mount> = runtime.map(|it| mount(it, RUNTIME_DIR)).into_iter().collect();
    // The files belong to root, so that the sidecar's user cannot write them. A read-only mount would refuse our uploads.
    mounts.push(mount(Source::Volume(key.object(Role::Secrets)), SECRETS_DIR));
    if let Pairing::Paired { endpoint: Some(endpoint), .. } = pairing
        && let Endpoint::Unix(path) = endpoint
    {
        // Not its folder: that may hold the sockets of other programs. Connections need no write access to the mount.
        let socket = mount(Source::Path(path.display().to_string()), HOST_SOCKET);
        mounts.push(Mount { read_only: Some(true), ..socket });
    }
    let port = format!("{VIEWER_PORT}/tcp");
    let binding = PortBinding {
        host_ip: Some(publish.ip.to_string()),
        host_port: Some(if publish.port == 0 { String::new() } else { publish.port.to_string() }),
    };
    // The operator polls it. The container's own address is not reachable from outside of an Engine in a VM.
    let admin = format!("{SIDECAR_ADMIN_PORT}/tcp");
    let admin_binding = PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: Some(String::new()) };
    let mut body = ContainerCreateBody {
        image: Some(sidecar.image.clone()),
        hostname: Some(format!("{}-sidecar", key.stream)),
        cmd: Some(workload.sidecar_args.clone()),
        user: Some(attached.map_or_else(|| format!("{uid}:{gid}"), |it| it.user.clone())),
        exposed_ports: Some(vec![port.clone(), admin.clone()]),
        host_config: Some(HostConfig {
            port_bindings: Some([(port, Some(vec![binding])), (admin, Some(vec![admin_binding]))].into()),
            memory: bytes(&Quantity(sidecar.memory_limit.clone())),
            memory_reservation: bytes(&Quantity(sidecar.memory.clone())),
            readonly_rootfs: Some(true),
            tmpfs: Some([("/tmp".to_owned(), "size=64m,mode=1777".to_owned())].into()),
            mounts: Some(mounts),
            ..confined(settings)
        }),
        ..networked(key, "sidecar")
    };
    let text = serde_json::to_value(&body).unwrap_or_default().to_string();
    let hash = match settings.socket {
        // A mount stays that of the former socket.
        Some(socket) => digest(&[&text, socket]),
        None => digest(&[&text]),
    };
    label(&mut body, key, Role::Sidecar, &hash);
    body
}

/// A host-agent's endpoint as seen from the sidecar's container: the machine's loopback is the gateway of the container's
/// network, and a Unix socket is mounted at a fixed path.
pub fn endpoint_in_container(endpoint: &Endpoint, gateway: Option<&str>) -> Endpoint {
    match (endpoint, gateway) {
        (Endpoint::Unix(_), _) => Endpoint::Unix(HOST_SOCKET.into()),
        (endpoint, Some(gateway)) if endpoint.is_loopback() => endpoint.clone().with_host(gateway),
        _ => endpoint.clone(),
    }
}

/// Limits of both containers: the requested devices, no capability, no new privileges.
fn confined(Settings { key, devices, .. }: Settings<'_>) -> HostConfig {
    let mut groups: Vec<u32> = devices.iter().flat_map(|device| device.gids.iter().copied()).collect();
    groups.sort_unstable();
    groups.dedup();
    HostConfig {
        devices: Some(devices.iter().flat_map(Device::paths).map(|path| device_mapping(path)).collect()),
        group_add: Some(groups.iter().map(ToString::to_string).collect()),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
        network_mode: Some(key.object(Role::Network)),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::UNLESS_STOPPED),
            maximum_retry_count: None,
        }),
        ..HostConfig::default()
    }
}

/// Maps a device node into `/dev/dri`, wherever it is on the machine. Without the permission `m`, the container cannot
/// create the node again under another name.
pub(crate) fn device_mapping(path: &str) -> DeviceMapping {
    let name = path.rsplit('/').next().unwrap_or(path);
    DeviceMapping {
        path_on_host: Some(path.to_owned()),
        path_in_container: Some(format!("/dev/dri/{name}")),
        cgroup_permissions: Some("rw".to_owned()),
    }
}

/// A body with the project's network.
fn networked(key: &StreamKey, alias: &str) -> ContainerCreateBody {
    let endpoint = EndpointSettings { aliases: Some(vec![alias.to_owned()]), ..EndpointSettings::default() };
    let all: HashMap<_, _> = [(key.object(Role::Network), endpoint)].into();
    ContainerCreateBody {
        networking_config: Some(NetworkingConfig { endpoints_config: Some(all) }),
        ..ContainerCreateBody::default()
    }
}

/// A read-write mount at `target`, without the image's content at that path.
pub(crate) fn mount(source: Source, target: &str) -> Mount {
    let (typ, source) = match source {
        Source::Volume(name) => (MountType::VOLUME, name),
        Source::Path(path) => (MountType::BIND, path),
    };
    let no_copy = MountVolumeOptions { no_copy: Some(true), ..MountVolumeOptions::default() };
    Mount {
        target: Some(target.to_owned()),
        source: Some(source),
        volume_options: (typ == MountType::VOLUME).then_some(no_copy),
        typ: Some(typ),
        ..Mount::default()
    }
}

fn label(body: &mut ContainerCreateBody, key: &StreamKey, role: Role, hash: &str) {
    let labels = body.labels.get_or_insert_default();
    labels.extend(key.labels(role));
    labels.insert(names::SPEC_HASH.to_owned(), hash.to_owned());
}

/// 16 hexadecimal digits of SHA-256 over the lines.
fn digest(lines: &[&str]) -> String {
    hex::encode(&Sha256::digest(lines.join("\n").as_bytes())[..8])
}

/// A quantity of memory in bytes.
fn bytes(quantity: &Quantity) -> Option<i64> {
    amount(quantity).map(|amount| amount.as_f64() as i64)
}

/// Value of the [`names::SPEC_HASH`] label.
pub fn spec_hash(body: &ContainerCreateBody) -> Option<&str> {
    body.labels.as_ref()?.get(names::SPEC_HASH).map(String::as_str)
}

#[cfg(test)]
mod tests;
