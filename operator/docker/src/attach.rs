//! Attaching a sidecar to a user's container: what the container lacks for it, and the configuration of a replacement that
//! lacks nothing. Pure; [`crate::recreate`] calls the Engine.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, DeviceMapping, EndpointSettings, HostConfig, Mount,
    NetworkingConfig,
};
use operator_api::names::{RUNTIME_DIR, UID};

use crate::render::{Attached, Device, Source, device_mapping, mount};

/// An examined container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examination {
    /// Parts of the container that the sidecar shares.
    pub attached: Attached,
    /// Missing parts, for people, such as `the group 105`. Empty if the container has everything.
    pub missing: Vec<String>,
}

/// Requirements of a stream on the container.
#[derive(Debug, Clone, Copy)]
pub struct Needs<'n> {
    /// GPUs that the container must have.
    pub devices: &'n [Device],
    /// A mount at `XDG_RUNTIME_DIR`. False for sources that do not capture the desktop.
    pub runtime_dir: bool,
}

/// Compares a container with the needs.
pub fn examine(found: &ContainerInspectResponse, needs: Needs<'_>) -> Examination {
    let config = found.config.clone().unwrap_or_default();
    let host = found.host_config.clone().unwrap_or_default();
    let mut missing = Vec::new();
    let user = config.user.unwrap_or_default();
    let has_all_devices = host.privileged == Some(true);
    for device in needs.devices {
        for path in device.paths() {
            let is_mapped = |it: &DeviceMapping| it.path_on_host.as_ref() == Some(path);
            if !has_all_devices && !host.devices.iter().flatten().any(is_mapped) {
                missing.push(format!("the device {path}"));
            }
        }
        for gid in &device.gids {
            let text = gid.to_string();
            let has_group = host.group_add.iter().flatten().any(|group| *group == text);
            // Root opens the device without the group.
            if !has_group && !is_root(&user) && !user.ends_with(&format!(":{text}")) {
                missing.push(format!("the group {gid}"));
            }
        }
    }
    let runtime = runtime_source(found);
    if needs.runtime_dir && runtime.is_none() {
        missing.push(format!("a volume at {}", runtime_dir(found)));
    }
    missing.dedup();
    // The sockets of a root desktop admit every user that can reach the folder; a sidecar never runs as root.
    let user = if is_root(&user) { format!("{UID}:{UID}") } else { user };
    Examination { attached: Attached { runtime: runtime.filter(|_| needs.runtime_dir), user }, missing }
}

fn is_root(user: &str) -> bool {
    matches!(user.split(':').next(), None | Some("" | "0" | "root"))
}

/// The container's `XDG_RUNTIME_DIR`, by default [`RUNTIME_DIR`].
pub fn runtime_dir(found: &ContainerInspectResponse) -> String {
    let env = found.config.as_ref().and_then(|config| config.env.as_ref());
    let dir = env.into_iter().flatten().find_map(|line| line.strip_prefix("XDG_RUNTIME_DIR="));
    dir.unwrap_or(RUNTIME_DIR).trim_end_matches('/').to_owned()
}

/// The volume or folder mounted at the container's `XDG_RUNTIME_DIR`.
fn runtime_source(found: &ContainerInspectResponse) -> Option<Source> {
    let dir = runtime_dir(found);
    let mount = found.mounts.iter().flatten().find(|it| it.destination.as_ref() == Some(&dir))?;
    match mount.typ.as_deref() {
        Some("volume") => mount.name.clone().map(Source::Volume),
        Some("bind") => mount.source.clone().map(Source::Path),
        _ => None,
    }
}

/// Configuration of a replacement: same image, configuration, networks and volumes, plus what the container lacks.
#[derive(Debug, Clone, PartialEq)]
pub struct Replacement {
    /// Request body with the first network.
    pub body: ContainerCreateBody,
    /// Further networks, to connect before the start.
    pub networks: Vec<(String, EndpointSettings)>,
}

/// The replacement of a container. `runtime_volume` is mounted at its `XDG_RUNTIME_DIR` if it has no mount there.
pub fn replacement(found: &ContainerInspectResponse, needs: Needs<'_>, runtime_volume: &str) -> Replacement {
    let config = serde_json::to_value(found.config.clone().unwrap_or_default()).unwrap_or_default();
    // `Config` of an inspection has the fields of a create request, except `HostConfig` and `NetworkingConfig`.
    let mut body: ContainerCreateBody = serde_json::from_value(config).unwrap_or_default();
    let id = found.id.clone().unwrap_or_default();
    // The default host name is the beginning of the container's ID.
    body.hostname = body.hostname.filter(|name| id.is_empty() || !id.starts_with(name.as_str()));
    let mut host = found.host_config.clone().unwrap_or_default();
    host.mounts = Some(mounts(found, &host, needs, runtime_volume));
    add_devices(&mut host, needs.devices);
    let mode = host.network_mode.clone().unwrap_or_default();
    body.host_config = Some(host);
    let mut networks = Vec::new();
    if mode != "host" && mode != "none" && !mode.starts_with("container:") {
        let all = found.network_settings.as_ref().and_then(|it| it.networks.clone()).unwrap_or_default();
        let mut first = HashMap::new();
        for (name, endpoint) in all {
            let endpoint = requested_settings(endpoint, &id);
            if name == mode || (mode == "default" && name == "bridge") {
                first.insert(name, endpoint);
            } else {
                networks.push((name, endpoint));
            }
        }
        // The default bridge accepts no endpoint settings.
        first.retain(|name, _| name != "bridge");
        body.networking_config = Some(NetworkingConfig { endpoints_config: Some(first) });
        networks.sort_by(|a, b| a.0.cmp(&b.0));
    }
    Replacement { body, networks }
}

/// The user's part of the settings, without what the Engine assigned (addresses, the ID as an alias).
fn requested_settings(endpoint: EndpointSettings, id: &str) -> EndpointSettings {
    let aliases = endpoint.aliases.map(|all| {
        all.into_iter().filter(|alias| id.is_empty() || !id.starts_with(alias.as_str())).collect()
    });
    EndpointSettings {
        aliases,
        ipam_config: endpoint.ipam_config,
        links: endpoint.links,
        driver_opts: endpoint.driver_opts,
        gw_priority: endpoint.gw_priority,
        ..EndpointSettings::default()
    }
}

/// The container's mounts. Anonymous volumes are mounted by their generated names, which keeps their content.
fn mounts(
    found: &ContainerInspectResponse,
    host: &HostConfig,
    needs: Needs<'_>,
    runtime_volume: &str,
) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = host.mounts.clone().unwrap_or_default();
    mounts.retain(|mount| {
        mount.source.as_ref().is_some_and(|source| !source.is_empty()) || mount.tmpfs_options.is_some()
    });
    let bound = |target: &str| host.binds.iter().flatten().any(|bind| bind.split(':').nth(1) == Some(target));
    for volume in found.mounts.iter().flatten().filter(|it| it.typ.as_deref() == Some("volume")) {
        let (Some(name), Some(target)) = (&volume.name, &volume.destination) else { continue };
        if !bound(target) && mounts.iter().all(|mount| mount.target.as_ref() != Some(target)) {
            let mut volume_mount = mount(Source::Volume(name.clone()), target);
            volume_mount.read_only = Some(volume.rw == Some(false)).filter(|read_only| *read_only);
            mounts.push(volume_mount);
        }
    }
    if needs.runtime_dir && runtime_source(found).is_none() {
        mounts.push(mount(Source::Volume(runtime_volume.to_owned()), &runtime_dir(found)));
    }
    mounts
}

fn add_devices(host: &mut HostConfig, wanted: &[Device]) {
    let devices = host.devices.get_or_insert_default();
    let groups = host.group_add.get_or_insert_default();
    for device in wanted {
        for path in device.paths() {
            if devices.iter().all(|it| it.path_on_host.as_ref() != Some(path)) {
                devices.push(device_mapping(path));
            }
        }
        for gid in &device.gids {
            if !groups.contains(&gid.to_string()) {
                groups.push(gid.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(changes: &serde_json::Value) -> ContainerInspectResponse {
        let mut whole = json!({
            "Id": "0123456789abcdef", "Name": "/shell",
            "Config": {"Hostname": "0123456789ab", "Image": "i", "User": "1001", "Env": ["A=b"],
                       "Labels": {"desktopstream.dev/attach": "kiosk"}, "Cmd": ["run"]},
            "HostConfig": {"NetworkMode": "front", "Binds": ["/srv:/srv:ro"],
                           "Mounts": [{"Type": "volume", "Target": "/nameless"}]},
            "Mounts": [{"Type": "volume", "Name": "abc", "Destination": "/nameless", "RW": true},
                       {"Type": "bind", "Source": "/srv", "Destination": "/srv", "RW": false}],
            "NetworkSettings": {"Networks": {
                "front": {"Aliases": ["shell", "0123456789ab"], "IPAddress": "10.0.0.2", "EndpointID": "e"},
                "back": {"Aliases": ["shell"], "IPAMConfig": {"IPv4Address": "10.1.0.9"}}}},
        });
        json_patch::merge(&mut whole, changes);
        serde_json::from_value(whole).expect("an inspection")
    }

    fn gpu() -> Vec<Device> {
        vec![Device { render: "/dev/dri/renderD128".to_owned(), card: None, gids: vec![105] }]
    }

    #[test]
    fn examination_lists_missing_devices_groups_and_volumes() {
        let devices = gpu();
        let needs = Needs { devices: &devices, runtime_dir: true };
        let examined = examine(&found(&json!({})), needs);
        assert_eq!(
            examined.missing,
            ["the device /dev/dri/renderD128", "the group 105", "a volume at /run/desktop"]
        );
        assert_eq!(examined.attached.user, "1001");
        let whole = found(&json!({
            "Config": {"Env": ["XDG_RUNTIME_DIR=/tmp/run"]},
            "HostConfig": {"GroupAdd": ["105"], "Devices": [{"PathOnHost": "/dev/dri/renderD128"}]},
            "Mounts": [{"Type": "bind", "Source": "/host/run", "Destination": "/tmp/run", "RW": true}],
        }));
        let examined = examine(&whole, needs);
        assert_eq!(examined.missing, [""; 0]);
        assert_eq!(examined.attached.runtime, Some(Source::Path("/host/run".to_owned())));
        let none = Needs { devices: &[], runtime_dir: false };
        assert_eq!(examine(&found(&json!({})), none).missing, [""; 0]);
        let root = examine(&found(&json!({"Config": {"User": ""}})), needs);
        assert!(
            !root.missing.iter().any(|text| text.contains("group")),
            "root opens the device without its group"
        );
        assert_eq!(root.attached.user, "1000:1000");
    }

    #[test]
    fn replacement_keeps_the_configuration_and_adds_what_was_missing() {
        let devices = gpu();
        let needs = Needs { devices: &devices, runtime_dir: true };
        let before = found(&json!({}));
        let Replacement { body, networks } = replacement(&before, needs, "p_kiosk_runtime");
        assert_eq!((body.image.as_deref(), body.hostname.as_deref()), (Some("i"), None));
        assert_eq!(body.cmd, Some(vec!["run".to_owned()]));
        assert!(body.labels.as_ref().is_some_and(|it| it.contains_key("desktopstream.dev/attach")));
        let host = body.host_config.clone().expect("a host config");
        assert_eq!(host.binds, Some(vec!["/srv:/srv:ro".to_owned()]));
        assert_eq!(host.group_add, Some(vec!["105".to_owned()]));
        let mounts = host.mounts.expect("mounts");
        let at = |target: &str| {
            mounts.iter().find(|it| it.target.as_deref() == Some(target)).and_then(|it| it.source.clone())
        };
        assert_eq!(at("/nameless").as_deref(), Some("abc"), "the anonymous volume keeps its content");
        assert_eq!(at("/run/desktop").as_deref(), Some("p_kiosk_runtime"));
        assert_eq!(mounts.len(), 2);
        let first = body.networking_config.and_then(|it| it.endpoints_config).expect("networks");
        assert_eq!(first["front"].aliases, Some(vec!["shell".to_owned()]));
        assert_eq!(first["front"].ip_address, None);
        assert_eq!(networks.len(), 1);
        assert!(networks[0].0 == "back" && networks[0].1.ipam_config.is_some());
        // The replacement lacks nothing.
        let mut after = before;
        after.host_config = body.host_config;
        after.mounts.get_or_insert_default().push(
            serde_json::from_value(json!({"Type": "volume", "Name": "v", "Destination": "/run/desktop"}))
                .expect("a mount"),
        );
        assert_eq!(examine(&after, needs).missing, [""; 0]);
    }
}
