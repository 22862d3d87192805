//! Containers of others that get a sidecar: what they lack of it, and how one is made anew with it.
//!
//! Pure; [`super::recreate`] does the work.

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, EndpointSettings, HostConfig, Mount, NetworkingConfig,
};
use std::collections::HashMap;

use super::render::{Attached, Device, Shared, mount, node};
use operator_api::names::{RUNTIME_DIR, UID};

/// What an attached container is, and what it lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// For the sidecar.
    pub attached: Attached,
    /// In words; empty where nothing is missing.
    pub lacks: Vec<String>,
}

/// Whether the stream takes its picture from the desktop, and by which devices.
#[derive(Debug, Clone, Copy)]
pub struct Needs<'n> {
    /// The GPUs.
    pub devices: &'n [Device],
    /// The folder that both share.
    pub runtime: bool,
}

/// Looks at one.
pub fn examine(found: &ContainerInspectResponse, needs: Needs<'_>) -> Examined {
    let config = found.config.clone().unwrap_or_default();
    let host = found.host_config.clone().unwrap_or_default();
    let mut lacks = Vec::new();
    let user = config.user.unwrap_or_default();
    let all = host.privileged == Some(true);
    for device in needs.devices {
        for path in std::iter::once(&device.render).chain(&device.card) {
            let given = |it: &bollard::models::DeviceMapping| it.path_on_host.as_ref() == Some(path);
            if !all && !host.devices.iter().flatten().any(given) {
                lacks.push(format!("the device {path}"));
            }
        }
        for gid in &device.gids {
            let text = gid.to_string();
            let has = host.group_add.iter().flatten().any(|group| *group == text);
            if !has && !is_root(&user) && !user.ends_with(&format!(":{text}")) {
                lacks.push(format!("the group {gid}"));
            }
        }
    }
    let runtime = shared(found);
    if needs.runtime && runtime.is_none() {
        lacks.push(format!("a volume at {}", runtime_dir(found)));
    }
    lacks.dedup();
    // Sidecars are never root: a root desktop's sockets let in everybody who may see the folder.
    let user = if is_root(&user) { format!("{UID}:{UID}") } else { user };
    Examined { attached: Attached { runtime: runtime.filter(|_| needs.runtime), user }, lacks }
}

fn is_root(user: &str) -> bool {
    matches!(user.split(':').next(), None | Some("" | "0" | "root"))
}

/// Where its desktop keeps its sockets.
pub fn runtime_dir(found: &ContainerInspectResponse) -> String {
    let env = found.config.as_ref().and_then(|config| config.env.as_ref());
    let said = env.into_iter().flatten().find_map(|line| line.strip_prefix("XDG_RUNTIME_DIR="));
    said.unwrap_or(RUNTIME_DIR).trim_end_matches('/').to_owned()
}

fn shared(found: &ContainerInspectResponse) -> Option<Shared> {
    let dir = runtime_dir(found);
    let mount = found.mounts.iter().flatten().find(|it| it.destination.as_ref() == Some(&dir))?;
    match mount.typ.as_deref() {
        Some("volume") => mount.name.clone().map(Shared::Volume),
        Some("bind") => mount.source.clone().map(Shared::Folder),
        _ => None,
    }
}

/// A container as it is, made anew: same config, networks and volumes, and with what it lacks.
#[derive(Debug, Clone, PartialEq)]
pub struct Anew {
    /// Its first network is in it.
    pub body: ContainerCreateBody,
    /// Networks to connect it to before it starts.
    pub networks: Vec<(String, EndpointSettings)>,
}

/// What to make it from; `runtime` is the volume for its runtime folder, if it has none.
pub fn anew(found: &ContainerInspectResponse, needs: Needs<'_>, runtime: &str) -> Anew {
    let config = serde_json::to_value(found.config.clone().unwrap_or_default()).unwrap_or_default();
    // A container's config is what it was made from, without the host's part.
    let mut body: ContainerCreateBody = serde_json::from_value(config).unwrap_or_default();
    let id = found.id.clone().unwrap_or_default();
    let own = |name: &String| !id.is_empty() && id.starts_with(name.as_str());
    body.hostname = body.hostname.filter(|name| !own(name));
    let mut host = found.host_config.clone().unwrap_or_default();
    host.mounts = Some(mounts(found, &host, needs, runtime));
    add_devices(&mut host, needs.devices);
    let mode = host.network_mode.clone().unwrap_or_default();
    body.host_config = Some(host);
    let mut networks = Vec::new();
    if mode != "host" && mode != "none" && !mode.starts_with("container:") {
        let all = found.network_settings.as_ref().and_then(|it| it.networks.clone()).unwrap_or_default();
        let mut first = HashMap::new();
        for (name, endpoint) in all {
            let endpoint = kept(endpoint, &id);
            // The default network takes no settings of ours.
            if name == mode || (mode == "default" && name == "bridge") {
                first.insert(name, endpoint);
            } else {
                networks.push((name, endpoint));
            }
        }
        first.retain(|name, _| name != "bridge");
        body.networking_config = Some(NetworkingConfig { endpoints_config: Some(first) });
        networks.sort_by(|a, b| a.0.cmp(&b.0));
    }
    Anew { body, networks }
}

/// What was asked for; the rest the Engine gave, and gives again.
fn kept(endpoint: EndpointSettings, id: &str) -> EndpointSettings {
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

/// Its mounts, with nameless volumes by the names that they got, so that their content stays.
fn mounts(
    found: &ContainerInspectResponse,
    host: &HostConfig,
    needs: Needs<'_>,
    runtime: &str,
) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = host.mounts.clone().unwrap_or_default();
    mounts.retain(|mount| {
        mount.source.as_ref().is_some_and(|source| !source.is_empty()) || mount.tmpfs_options.is_some()
    });
    let bound = |target: &str| host.binds.iter().flatten().any(|bind| bind.split(':').nth(1) == Some(target));
    for volume in found.mounts.iter().flatten().filter(|it| it.typ.as_deref() == Some("volume")) {
        let (Some(name), Some(target)) = (&volume.name, &volume.destination) else { continue };
        if !bound(target) && mounts.iter().all(|mount| mount.target.as_ref() != Some(target)) {
            let mut volume_mount = mount(Shared::Volume(name.clone()), target);
            volume_mount.read_only = Some(volume.rw == Some(false)).filter(|read_only| *read_only);
            mounts.push(volume_mount);
        }
    }
    if needs.runtime && shared(found).is_none() {
        mounts.push(mount(Shared::Volume(runtime.to_owned()), &runtime_dir(found)));
    }
    mounts
}

fn add_devices(host: &mut HostConfig, wanted: &[Device]) {
    let devices = host.devices.get_or_insert_default();
    let groups = host.group_add.get_or_insert_default();
    for device in wanted {
        for path in std::iter::once(&device.render).chain(&device.card) {
            if devices.iter().all(|it| it.path_on_host.as_ref() != Some(path)) {
                devices.push(node(path));
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
    fn what_is_lacking_is_said() {
        let devices = gpu();
        let needs = Needs { devices: &devices, runtime: true };
        let looked = examine(&found(&json!({})), needs);
        assert_eq!(
            looked.lacks,
            ["the device /dev/dri/renderD128", "the group 105", "a volume at /run/desktop"]
        );
        assert_eq!(looked.attached.user, "1001");
        let whole = found(&json!({
            "Config": {"Env": ["XDG_RUNTIME_DIR=/tmp/run"]},
            "HostConfig": {"GroupAdd": ["105"], "Devices": [{"PathOnHost": "/dev/dri/renderD128"}]},
            "Mounts": [{"Type": "bind", "Source": "/host/run", "Destination": "/tmp/run", "RW": true}],
        }));
        let looked = examine(&whole, needs);
        assert_eq!(looked.lacks, [""; 0]);
        assert_eq!(looked.attached.runtime, Some(Shared::Folder("/host/run".to_owned())));
        let none = Needs { devices: &[], runtime: false };
        assert_eq!(examine(&found(&json!({})), none).lacks, [""; 0]);
        let root = examine(&found(&json!({"Config": {"User": ""}})), needs);
        assert!(!root.lacks.iter().any(|lack| lack.contains("group")), "root opens it without");
        assert_eq!(root.attached.user, "1000:1000");
    }

    #[test]
    fn made_anew_it_is_the_same_with_what_it_lacked() {
        let devices = gpu();
        let needs = Needs { devices: &devices, runtime: true };
        let before = found(&json!({}));
        let Anew { body, networks } = anew(&before, needs, "p_kiosk_runtime");
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
        assert_eq!(at("/nameless").as_deref(), Some("abc"), "its content stays");
        assert_eq!(at("/run/desktop").as_deref(), Some("p_kiosk_runtime"));
        assert_eq!(mounts.len(), 2);
        let first = body.networking_config.and_then(|it| it.endpoints_config).expect("networks");
        assert_eq!(first["front"].aliases, Some(vec!["shell".to_owned()]));
        assert_eq!(first["front"].ip_address, None);
        assert_eq!(networks.len(), 1);
        assert!(networks[0].0 == "back" && networks[0].1.ipam_config.is_some());
        // What was made from it lacks nothing.
        let mut after = before;
        after.host_config = body.host_config;
        after.mounts.get_or_insert_default().push(
            serde_json::from_value(json!({"Type": "volume", "Name": "v", "Destination": "/run/desktop"}))
                .expect("a mount"),
        );
        assert_eq!(examine(&after, needs).lacks, [""; 0]);
    }
}
