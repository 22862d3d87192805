//! Renders the desktop's container from the short form in `spec.desktop`.

use std::collections::BTreeMap;

use bollard::models::{ContainerCreateBody, HostConfig, Mount, MountTmpfsOptions, MountType};
use k8s_openapi::api::core::v1::{ResourceRequirements, SecurityContext, Volume, VolumeMount};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use operator_api::Desktop;
use operator_api::names::RUNTIME_DIR;
use operator_plan::quantity::amount;
use operator_plan::validate::Validated;
use operator_plan::workload::Workload;

use super::{Settings, Source, bytes, confined, digest, label, mount, networked, user};
use crate::archive::Owner;
use crate::names::Role;

pub(super) fn container(
    stream: &Validated,
    desktop: &Desktop,
    workload: &Workload,
    settings: Settings<'_>,
) -> ContainerCreateBody {
    let key = settings.key;
    let Owner { uid, gid } = user(stream);
    let list = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    let mut host = confined(settings);
    host.mounts = Some(mounts(desktop, settings));
    if let Some(resources) = &desktop.resources {
        set_resources(&mut host, resources);
    }
    if let Some(context) = &desktop.security_context {
        set_security(&mut host, context);
    }
    let mut body = ContainerCreateBody {
        image: desktop.image.clone(),
        hostname: Some(key.stream.to_string()),
        entrypoint: list(&desktop.command),
        cmd: list(&desktop.args),
        env: Some(env(desktop, workload)),
        user: Some(format!("{uid}:{gid}")),
        host_config: Some(host),
        ..networked(key, "desktop")
    };
    // The hash covers the spec's parts and the devices, not the body: a newer operator, and settings of the sidecar, must
    // not restart desktops.
    let empty = String::new();
    let part = |name: &str| workload.shape.get(name).unwrap_or(&empty).as_str();
    let size = workload.desktop_env.get("DESKTOP_SIZE").unwrap_or(&empty);
    let devices = format!("{:?}", settings.devices);
    let hash = digest(&[part("desktop"), part("gpu"), size, &devices]);
    label(&mut body, key, Role::Desktop, &hash);
    body
}

/// Environment: the user's, then ours where the user sets nothing.
fn env(desktop: &Desktop, workload: &Workload) -> Vec<String> {
    let is_set = |name: &str| desktop.env.iter().any(|env| env.name == name);
    let home =
        desktop.home.iter().filter(|_| !is_set("HOME")).map(|home| format!("HOME={}", home.mount_path));
    let ours = workload.desktop_env.iter().filter(|(name, _)| !is_set(name));
    desktop
        .env
        .iter()
        .map(|env| format!("{}={}", env.name, env.value.as_deref().unwrap_or_default()))
        .chain(ours.map(|(name, value)| format!("{name}={value}")))
        .chain(home)
        .collect()
}

fn mounts(desktop: &Desktop, settings: Settings<'_>) -> Vec<Mount> {
    let mut mounts = vec![mount(Source::Volume(settings.key.object(Role::Runtime)), RUNTIME_DIR)];
    if let Some(home) = &desktop.home {
        let mut home = mount(Source::Volume(settings.key.object(Role::Home)), &home.mount_path);
        // The image's content of the home folder is copied into a new volume.
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
        mount(Source::Path(path.path.clone()), target)
    } else if let Some(claim) = &volume.persistent_volume_claim {
        mount(Source::Volume(claim.claim_name.clone()), target)
    } else if let Some(tmpfs) = tmpfs(volume) {
        Mount {
            target: Some(target.clone()),
            typ: Some(MountType::TMPFS),
            tmpfs_options: Some(tmpfs),
            ..Mount::default()
        }
    } else {
        // An anonymous volume, removed with its container.
        Mount { target: Some(target.clone()), typ: Some(MountType::VOLUME), ..Mount::default() }
    };
    mount.read_only = wanted.read_only.filter(|read_only| *read_only);
    mount
}

/// Options of the tmpfs that an `emptyDir` with `medium: Memory` becomes.
fn tmpfs(volume: &Volume) -> Option<MountTmpfsOptions> {
    let dir = volume.empty_dir.as_ref().filter(|dir| dir.medium.as_deref() == Some("Memory"))?;
    Some(MountTmpfsOptions {
        size_bytes: dir.size_limit.as_ref().and_then(bytes),
        mode: Some(0o1777),
        ..MountTmpfsOptions::default()
    })
}

/// Folders on new volumes: the home folder and each `emptyDir` on disk.
pub(super) fn owned_folders(desktop: &Desktop) -> Vec<String> {
    let on_disk = |mount: &&VolumeMount| {
        let volume = desktop.volumes.iter().find(|volume| volume.name == mount.name);
        volume.is_some_and(|volume| volume.empty_dir.is_some() && tmpfs(volume).is_none())
    };
    let home = desktop.home.iter().map(|home| home.mount_path.clone());
    home.chain(desktop.volume_mounts.iter().filter(on_disk).map(|mount| mount.mount_path.clone())).collect()
}

fn set_resources(host: &mut HostConfig, resources: &ResourceRequirements) {
    let memory = |list: &Option<BTreeMap<String, Quantity>>| bytes(list.as_ref()?.get("memory")?);
    let cpu = |list: &Option<BTreeMap<String, Quantity>>| Some(amount(list.as_ref()?.get("cpu")?)?.as_f64());
    host.memory = memory(&resources.limits);
    host.memory_reservation = memory(&resources.requests);
    host.nano_cpus = cpu(&resources.limits).map(|cores| (cores * 1e9) as i64);
    // The kubelet's conversion: 1024 shares per core, at least 2.
    host.cpu_shares = cpu(&resources.requests).map(|cores| ((cores * 1024.0) as i64).max(2));
}

fn set_security(host: &mut HostConfig, context: &SecurityContext) {
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
