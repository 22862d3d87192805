//! The desktop's container, from the short form of a stream's spec.

use bollard::models::{ContainerCreateBody, HostConfig, Mount, MountTmpfsOptions, MountType};
use k8s_openapi::api::core::v1::{ResourceRequirements, SecurityContext, Volume, VolumeMount};

use super::{Setting, Shared, confined, digest, label, mount, networked, quantity, user};
use crate::names::Role;
use crate::refuse::cpus;
use operator_api::Desktop;
use operator_api::names::RUNTIME_DIR;
use operator_plan::validate::{Validated, bytes};
use operator_plan::workload::Workload;

pub(super) fn container(
    stream: &Validated,
    desktop: &Desktop,
    workload: &Workload,
    setting: Setting<'_>,
) -> ContainerCreateBody {
    let place = setting.place;
    let (user, group) = user(stream);
    let list = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    let mut host = confined(setting);
    host.mounts = Some(mounts(desktop, setting));
    if let Some(resources) = &desktop.resources {
        limit(&mut host, resources);
    }
    if let Some(context) = &desktop.security_context {
        allow(&mut host, context);
    }
    let mut body = ContainerCreateBody {
        image: desktop.image.clone(),
        hostname: Some(place.stream.clone()),
        entrypoint: list(&desktop.command),
        cmd: list(&desktop.args),
        env: Some(env(desktop, workload)),
        user: Some(format!("{user}:{group}")),
        host_config: Some(host),
        ..networked(place, "desktop")
    };
    // Of the spec and the devices alone: a newer operator, and settings of the sidecar's, restart no desktop.
    let empty = String::new();
    let part = |name: &str| workload.shape.get(name).unwrap_or(&empty).as_str();
    let size = workload.desktop_env.get("DESKTOP_SIZE").unwrap_or(&empty);
    let devices = format!("{:?}", setting.devices);
    let hash = digest(&[part("desktop"), part("gpu"), size, &devices]);
    label(&mut body, place, Role::Desktop, &hash);
    body
}

fn env(desktop: &Desktop, workload: &Workload) -> Vec<String> {
    let said = |name: &str| desktop.env.iter().any(|env| env.name == name);
    let home = desktop.home.iter().filter(|_| !said("HOME")).map(|home| format!("HOME={}", home.mount_path));
    let ours = workload.desktop_env.iter().filter(|(name, _)| !said(name));
    desktop
        .env
        .iter()
        .map(|env| format!("{}={}", env.name, env.value.as_deref().unwrap_or_default()))
        .chain(ours.map(|(name, value)| format!("{name}={value}")))
        .chain(home)
        .collect()
}

fn mounts(desktop: &Desktop, setting: Setting<'_>) -> Vec<Mount> {
    let mut mounts = vec![mount(Shared::Volume(setting.place.object(Role::Runtime)), RUNTIME_DIR)];
    if let Some(home) = &desktop.home {
        let mut home = mount(Shared::Volume(setting.place.object(Role::Home)), &home.mount_path);
        // What the image has in its home is a new home's first content.
        home.volume_options = None;
        mounts.push(home);
    }
    for wanted in &desktop.volume_mounts {
        let volume = desktop.volumes.iter().find(|volume| volume.name == wanted.name);
        mounts.extend(volume.map(|volume| volume_mount(volume, wanted)));
    }
    mounts
}

fn volume_mount(volume: &Volume, wanted: &VolumeMount) -> Mount {
    let target = &wanted.mount_path;
    let mut mount = if let Some(path) = &volume.host_path {
        mount(Shared::Folder(path.path.clone()), target)
    } else if let Some(claim) = &volume.persistent_volume_claim {
        mount(Shared::Volume(claim.claim_name.clone()), target)
    } else if let Some(memory) = in_memory(volume) {
        Mount {
            target: Some(target.clone()),
            typ: Some(MountType::TMPFS),
            tmpfs_options: Some(memory),
            ..Mount::default()
        }
    } else {
        // One without a name goes with its container.
        Mount { target: Some(target.clone()), typ: Some(MountType::VOLUME), ..Mount::default() }
    };
    mount.read_only = wanted.read_only.filter(|read_only| *read_only);
    mount
}

fn in_memory(volume: &Volume) -> Option<MountTmpfsOptions> {
    let dir = volume.empty_dir.as_ref().filter(|dir| dir.medium.as_deref() == Some("Memory"))?;
    Some(MountTmpfsOptions {
        size_bytes: dir.size_limit.as_ref().and_then(bytes).map(|bytes| bytes as i64),
        mode: Some(0o1777),
        ..MountTmpfsOptions::default()
    })
}

/// Home and scratch folders.
pub(super) fn owned(desktop: &Desktop) -> Vec<String> {
    let scratch = |mount: &&VolumeMount| {
        let of = desktop.volumes.iter().find(|volume| volume.name == mount.name);
        of.is_some_and(|volume| volume.empty_dir.is_some() && in_memory(volume).is_none())
    };
    let home = desktop.home.iter().map(|home| home.mount_path.clone());
    home.chain(desktop.volume_mounts.iter().filter(scratch).map(|mount| mount.mount_path.clone())).collect()
}

fn limit(host: &mut HostConfig, resources: &ResourceRequirements) {
    let find = |list: &Option<std::collections::BTreeMap<String, _>>, name: &str| {
        let found: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity> =
            list.as_ref()?.get(name);
        found.map(|quantity| quantity.0.clone())
    };
    let memory = |list| find(list, "memory").and_then(|text| quantity(&text));
    let cores = |list| find(list, "cpu").and_then(|text| cpus(&text));
    host.memory = memory(&resources.limits);
    host.memory_reservation = memory(&resources.requests);
    host.nano_cpus = cores(&resources.limits).map(|cores| (cores * 1e9) as i64);
    // As the kubelet does it: 1024 a core, 2 at least.
    host.cpu_shares = cores(&resources.requests).map(|cores| ((cores * 1024.0) as i64).max(2));
}

fn allow(host: &mut HostConfig, context: &SecurityContext) {
    host.privileged = context.privileged.filter(|privileged| *privileged);
    host.readonly_rootfs = context.read_only_root_filesystem;
    if let Some(capabilities) = &context.capabilities {
        host.cap_add.clone_from(&capabilities.add);
        host.cap_drop = Some(capabilities.drop.clone().unwrap_or_default());
    }
    let mut options = Vec::new();
    if context.allow_privilege_escalation != Some(true) && host.privileged.is_none() {
        options.push("no-new-privileges:true".to_owned());
    }
    if context.seccomp_profile.as_ref().is_some_and(|profile| profile.type_ == "Unconfined") {
        options.push("seccomp=unconfined".to_owned());
    }
    host.security_opt = Some(options);
}
