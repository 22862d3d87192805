//! A workload as Docker's objects. Infallible: what could be wrong was found by `refuse`.

mod desktop;

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, DeviceMapping, EndpointSettings, HostConfig, Mount, MountType, MountVolumeOptions,
    NetworkCreateRequest, NetworkingConfig, PortBinding, RestartPolicy, RestartPolicyNameEnum,
    VolumeCreateRequest,
};
use sha2::{Digest, Sha256};

use super::names::{self, Place, Role};
use super::refuse::Publish;
use operator_api::OnDelete;
use operator_api::names::{RUNTIME_DIR, SECRETS_DIR, UID, VIEWER_PORT};
use operator_plan::kubernetes::SidecarImage;
use operator_plan::pair::Pairing;
use operator_plan::validate::{Validated, bytes};
use operator_plan::workload::{Workload, hex};

/// A GPU of the engine's machine, as its containers get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its render node.
    pub render: String,
    /// Its card node, if the stream asks for it.
    pub card: Option<String>,
    /// The groups that own them.
    pub gids: Vec<u32>,
}

/// A container of somebody else's that gets a sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The volume or folder behind its `XDG_RUNTIME_DIR`, which the sidecar shares; none where the picture is
    /// not taken from the desktop.
    pub runtime: Option<Shared>,
    /// Whom it runs as: the runtime folder's sockets let in their own user only.
    pub user: String,
}

/// What two containers share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shared {
    /// A volume, by its name.
    Volume(String),
    /// A folder of the engine's machine.
    Folder(String),
}

/// All that is there besides the stream.
#[derive(Debug, Clone, Copy)]
pub struct Setting<'s> {
    /// Whose it is.
    pub place: &'s Place,
    /// The sidecar's image.
    pub sidecar: &'s SidecarImage,
    /// The GPUs that the stream gets.
    pub devices: &'s [Device],
    /// Where viewers find it.
    pub publish: &'s Publish,
    /// The choice of host-agent.
    pub pairing: &'s Pairing,
    /// The container that it is attached to.
    pub attached: Option<&'s Attached>,
}

/// What should be there.
#[derive(Debug, Clone, PartialEq)]
pub struct Objects {
    /// The project's network.
    pub network: NetworkCreateRequest,
    /// Volumes.
    pub volumes: Vec<VolumeCreateRequest>,
    /// The sidecar.
    pub sidecar: ContainerCreateBody,
    /// The desktop; none where it is somebody else's.
    pub desktop: Option<ContainerCreateBody>,
    /// Folders of the desktop that its user shall own, as volumes are root's at first.
    pub owned: Vec<String>,
}

/// What should be there for `stream`.
pub fn objects(stream: &Validated, workload: &Workload, setting: Setting<'_>) -> Objects {
    let Setting { place, attached, .. } = setting;
    let mut labels = place.labels(Role::Network);
    labels.remove(names::NAME);
    let network = NetworkCreateRequest {
        name: place.object(Role::Network),
        driver: Some("bridge".to_owned()),
        // Desktop and sidecar meet in a folder: nothing in this network has to see anything else.
        options: Some([("com.docker.network.bridge.enable_icc".to_owned(), "false".to_owned())].into()),
        labels: Some(labels),
        ..NetworkCreateRequest::default()
    };
    let mut volumes = vec![volume(place, Role::Secrets)];
    if attached.is_none() {
        let (user, group) = user(stream);
        volumes.push(runtime_volume(&format!("{user}:{group}"), place));
    }
    if let Some(home) = stream.spec.desktop.as_ref().and_then(|desktop| desktop.home.as_ref()) {
        let mut volume = volume(place, Role::Home);
        if home.on_delete == OnDelete::Keep {
            volume.labels.get_or_insert_default().insert(names::KEEP.to_owned(), "true".to_owned());
        }
        volumes.push(volume);
    }
    let desktop = stream.spec.desktop.as_ref().filter(|_| attached.is_none());
    Objects {
        network,
        volumes,
        sidecar: sidecar(stream, workload, setting),
        desktop: desktop.map(|it| desktop::container(stream, it, workload, setting)),
        owned: desktop.map(desktop::owned).unwrap_or_default(),
    }
}

/// `UID:GID` that desktop and sidecar run as.
pub fn user(stream: &Validated) -> (i64, i64) {
    let context = stream.spec.desktop.as_ref().and_then(|it| it.security_context.as_ref());
    let user = context.and_then(|it| it.run_as_user).unwrap_or(UID);
    (user, context.and_then(|it| it.run_as_group).unwrap_or(user))
}

fn volume(place: &Place, role: Role) -> VolumeCreateRequest {
    VolumeCreateRequest {
        name: Some(place.object(role)),
        driver: Some("local".to_owned()),
        labels: Some(place.labels(role)),
        ..VolumeCreateRequest::default()
    }
}

/// In memory, and its user's own, as `XDG_RUNTIME_DIR` has to be. `user` is `UID` or `UID:GID`; whom only the
/// image knows by name is taken for the usual one.
pub(super) fn runtime_volume(user: &str, place: &Place) -> VolumeCreateRequest {
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
        driver_opts: Some(options.map(|(key, value)| (key.to_owned(), value)).into()),
        ..volume(place, Role::Runtime)
    }
}

fn sidecar(stream: &Validated, workload: &Workload, setting: Setting<'_>) -> ContainerCreateBody {
    let Setting { place, sidecar, publish, pairing, attached, .. } = setting;
    let (user, group) = user(stream);
    let runtime = match attached {
        None => Some(Shared::Volume(place.object(Role::Runtime))),
        Some(attached) => attached.runtime.clone(),
    };
    let mut mounts: Vec<Mount> = runtime.map(|it| mount(it, RUNTIME_DIR)).into_iter().collect();
    // Root's files: the sidecar's user reads them and can't write. Read-only it would be to us, too.
    mounts.push(mount(Shared::Volume(place.object(Role::Secrets)), SECRETS_DIR));
    if let Pairing::Paired { endpoint: Some(endpoint), .. } = pairing
        && let Some((folder, _)) = socket(endpoint)
    {
        mounts.push(mount(Shared::Folder(folder.to_owned()), HOST_SOCKET_DIR));
    }
    let port = format!("{VIEWER_PORT}/tcp");
    let binding = PortBinding {
        host_ip: Some(publish.ip.to_string()),
        host_port: Some(if publish.port == 0 { String::new() } else { publish.port.to_string() }),
    };
    let mut body = ContainerCreateBody {
        image: Some(sidecar.image.clone()),
        hostname: Some(format!("{}-sidecar", place.stream)),
        cmd: Some(workload.sidecar_args.clone()),
        user: Some(attached.map_or_else(|| format!("{user}:{group}"), |it| it.user.clone())),
        exposed_ports: Some(vec![port.clone()]),
        host_config: Some(HostConfig {
            port_bindings: Some([(port, Some(vec![binding]))].into()),
            memory: quantity(&sidecar.memory_limit),
            memory_reservation: quantity(&sidecar.memory),
            readonly_rootfs: Some(true),
            tmpfs: Some([("/tmp".to_owned(), "size=64m,mode=1777".to_owned())].into()),
            mounts: Some(mounts),
            ..confined(setting)
        }),
        ..networked(place, "sidecar")
    };
    let text = serde_json::to_value(&body).unwrap_or_default().to_string();
    label(&mut body, place, Role::Sidecar, &digest(&[&text]));
    body
}

/// Where the sidecar finds a host-agent's Unix socket.
const HOST_SOCKET_DIR: &str = "/run/desktopstream-host";

/// Folder and name of a Unix socket's endpoint.
fn socket(endpoint: &str) -> Option<(&str, &str)> {
    endpoint.strip_prefix("unix:")?.trim_start_matches("//").rsplit_once('/')
}

/// An endpoint as the sidecar finds it: in its container, the machine's loopback is its network's gateway, and
/// a socket's folder is elsewhere.
pub fn endpoint(seen_here: &str, gateway: Option<&str>) -> String {
    if let Some((_, name)) = socket(seen_here) {
        return format!("unix:{HOST_SOCKET_DIR}/{name}");
    }
    let local = ["tcp://127.0.0.1:", "tcp://localhost:", "tcp://[::1]:"];
    let port = local.iter().find_map(|prefix| seen_here.strip_prefix(prefix));
    match (port, gateway) {
        (Some(port), Some(gateway)) => format!("tcp://{gateway}:{port}"),
        _ => seen_here.to_owned(),
    }
}

/// What both containers may: the device nodes asked for, and nothing that needs a right.
fn confined(Setting { place, devices, .. }: Setting<'_>) -> HostConfig {
    let paths = devices.iter().flat_map(|device| std::iter::once(&device.render).chain(&device.card));
    let mut groups: Vec<u32> = devices.iter().flat_map(|device| device.gids.iter().copied()).collect();
    groups.sort_unstable();
    groups.dedup();
    HostConfig {
        devices: Some(paths.map(|path| node(path)).collect()),
        group_add: Some(groups.iter().map(ToString::to_string).collect()),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
        network_mode: Some(place.object(Role::Network)),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::UNLESS_STOPPED),
            maximum_retry_count: None,
        }),
        ..HostConfig::default()
    }
}

/// A device node, in `/dev/dri` wherever it is on the machine. `m` would let the container make it again under
/// another name.
pub(super) fn node(path: &str) -> DeviceMapping {
    let name = path.rsplit('/').next().unwrap_or(path);
    DeviceMapping {
        path_on_host: Some(path.to_owned()),
        path_in_container: Some(format!("/dev/dri/{name}")),
        cgroup_permissions: Some("rw".to_owned()),
    }
}

fn networked(place: &Place, alias: &str) -> ContainerCreateBody {
    let endpoint = EndpointSettings { aliases: Some(vec![alias.to_owned()]), ..EndpointSettings::default() };
    let all: HashMap<_, _> = [(place.object(Role::Network), endpoint)].into();
    ContainerCreateBody {
        networking_config: Some(NetworkingConfig { endpoints_config: Some(all) }),
        ..ContainerCreateBody::default()
    }
}

pub(super) fn mount(shared: Shared, target: &str) -> Mount {
    let (typ, source) = match shared {
        Shared::Volume(name) => (MountType::VOLUME, name),
        Shared::Folder(path) => (MountType::BIND, path),
    };
    // What an image has at that path is not copied into it.
    let no_copy = MountVolumeOptions { no_copy: Some(true), ..MountVolumeOptions::default() };
    Mount {
        target: Some(target.to_owned()),
        source: Some(source),
        volume_options: (typ == MountType::VOLUME).then_some(no_copy),
        typ: Some(typ),
        ..Mount::default()
    }
}

fn label(body: &mut ContainerCreateBody, place: &Place, role: Role, hash: &str) {
    let labels = body.labels.get_or_insert_default();
    labels.extend(place.labels(role));
    labels.insert(names::SPEC_HASH.to_owned(), hash.to_owned());
}

/// A digest of texts.
fn digest(parts: &[&str]) -> String {
    hex(&Sha256::digest(parts.join("\n").as_bytes())[..8])
}

fn quantity(text: &str) -> Option<i64> {
    let quantity = k8s_openapi::apimachinery::pkg::api::resource::Quantity(text.to_owned());
    bytes(&quantity).map(|bytes| bytes as i64)
}

/// The label's value.
pub fn hash(body: &ContainerCreateBody) -> Option<&str> {
    body.labels.as_ref()?.get(names::SPEC_HASH).map(String::as_str)
}

#[cfg(test)]
mod tests;
