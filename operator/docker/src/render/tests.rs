use operator_plan::testing::stream;
use operator_plan::workload::workload;
use serde_json::{Value, json};

use super::*;
use crate::unsupported::validate;

fn gpu(number: u32) -> Device {
    Device { render: format!("/dev/dri/renderD{number}"), card: None, gids: vec![105] }
}

fn rendered_with(changes: &Value, devices: &[Device], pairing: &Pairing) -> Objects {
    rendered_with_socket(changes, devices, pairing, None)
}

fn rendered_with_socket(
    changes: &Value,
    devices: &[Device],
    pairing: &Pairing,
    socket: Option<&str>,
) -> Objects {
    let team = "team".parse().expect("a project");
    let stream = validate(&stream(changes), &team).expect("valid");
    let key = StreamKey::new(&team, &"desk".parse().expect("a name"));
    let sidecar = SidecarImage::default();
    let publish = Publish::LOCAL;
    let settings = Settings {
        key: &key,
        sidecar: &sidecar,
        devices,
        publish: &publish,
        pairing,
        socket,
        attached: None,
    };
    objects(&stream, &workload(&stream, Some(105)), settings)
}

fn rendered(changes: &Value) -> Objects {
    rendered_with(changes, &[gpu(128)], &Pairing::NotNeeded)
}

fn host(body: &ContainerCreateBody) -> &HostConfig {
    body.host_config.as_ref().expect("a host config")
}

#[test]
fn containers_get_the_device_and_its_group_without_capabilities() {
    let objects = rendered(&json!({}));
    for body in [&objects.sidecar, objects.desktop.as_ref().expect("a desktop")] {
        let host = host(body);
        let devices = host.devices.as_ref().expect("devices");
        assert_eq!(devices.len(), 1);
        assert_eq!(devices[0].path_on_host.as_deref(), Some("/dev/dri/renderD128"));
        assert_eq!(devices[0].cgroup_permissions.as_deref(), Some("rw"), "without mknod");
        assert_eq!(host.group_add, Some(vec!["105".to_owned()]));
        assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
        assert_eq!(host.security_opt, Some(vec!["no-new-privileges:true".to_owned()]));
        assert_eq!(host.privileged, None);
        assert_eq!(body.user.as_deref(), Some("1000:1000"));
        let mounts = host.mounts.as_ref().expect("mounts");
        assert!(mounts.iter().any(|it| it.target.as_deref() == Some("/run/desktop")));
    }
}

#[test]
fn sidecar_is_read_only_and_published_on_loopback() {
    let objects = rendered(&json!({}));
    assert_eq!(host(&objects.sidecar).readonly_rootfs, Some(true));
    let ports = host(&objects.sidecar).port_bindings.as_ref().expect("ports");
    let bindings = ports["8080/tcp"].as_ref().expect("bindings");
    assert_eq!(bindings[0].host_ip.as_deref(), Some("127.0.0.1"));
    let admin = ports["15939/tcp"].as_ref().expect("bindings");
    assert_eq!((admin[0].host_ip.as_deref(), admin[0].host_port.as_deref()), (Some("127.0.0.1"), Some("")));
}

#[test]
fn spec_hash_changes_with_the_container_own_settings_only() {
    let hashes = |objects: Objects| {
        let of = |body: &ContainerCreateBody| spec_hash(body).expect("a hash").to_owned();
        (of(objects.desktop.as_ref().expect("a desktop")), of(&objects.sidecar))
    };
    let before = hashes(rendered(&json!({})));
    let bitrate = hashes(rendered(&json!({"spec": {"encode": {"bitrateKbps": 9000}}})));
    assert!(before.0 == bitrate.0 && before.1 != bitrate.1, "only the sidecar's");
    let image = hashes(rendered(&json!({"spec": {"desktop": {"image": "other"}}})));
    assert!(before.0 != image.0 && before.1 == image.1, "only the desktop's");
    let moved = hashes(rendered_with(&json!({}), &[gpu(129)], &Pairing::NotNeeded));
    assert!(before.0 != moved.0 && before.1 != moved.1, "both have the device");
    let idle = hashes(rendered(&json!({"spec": {"lifecycle": {"idleTimeoutSeconds": 300}}})));
    assert_eq!(before, idle);
    assert_eq!(before, hashes(rendered(&json!({}))), "deterministic");
}

#[test]
fn host_agent_endpoint_is_translated_for_the_container() {
    let translate =
        |text: &str, gateway| endpoint_in_container(&text.parse().expect("an endpoint"), gateway).to_string();
    let translated = |text: &str| translate(text, Some("172.18.0.1"));
    assert_eq!(translated("tcp://127.0.0.1:15937"), "tcp://172.18.0.1:15937");
    assert_eq!(translated("tcp://192.168.64.1:15937"), "tcp://192.168.64.1:15937");
    assert_eq!(translated("vsock://2:15937"), "vsock://2:15937");
    assert_eq!(translated("unix:/run/host-agent/agent.sock"), "unix:/run/desktopstream-host/host-agent.sock");
    assert_eq!(translated("tcp://[::1]:15937"), "tcp://172.18.0.1:15937");
    let pin = "ab".repeat(32);
    let pinned = translated(&format!("tls://127.0.0.1:15937#sha256={pin}"));
    assert_eq!(pinned, format!("tls://172.18.0.1:15937#sha256={pin}"));
    assert_eq!(translate("tcp://127.0.0.1:1", None), "tcp://127.0.0.1:1");
}

fn paired_by_socket() -> Pairing {
    let endpoint = "unix:/run/user/1000/host-agent.sock".parse().expect("an endpoint");
    Pairing::Paired { host_agent: "h".to_owned(), endpoint: Some(endpoint) }
}

#[test]
fn socket_of_the_host_agent_is_mounted_without_its_folder() {
    let objects = rendered_with_socket(&json!({}), &[], &paired_by_socket(), Some("1"));
    let mounts = host(&objects.sidecar).mounts.clone().expect("mounts");
    let bound: Vec<_> = mounts.iter().filter(|it| it.typ == Some(MountType::BIND)).collect();
    assert_eq!(bound.len(), 1, "{bound:?}");
    assert_eq!(bound[0].source.as_deref(), Some("/run/user/1000/host-agent.sock"));
    assert_eq!(bound[0].target.as_deref(), Some("/run/desktopstream-host/host-agent.sock"));
    assert_eq!(bound[0].read_only, Some(true));
    let desktop = host(objects.desktop.as_ref().expect("a desktop")).mounts.clone().expect("mounts");
    assert!(desktop.iter().all(|it| it.typ != Some(MountType::BIND)), "{desktop:?}");
}

#[test]
fn socket_that_was_created_again_replaces_the_sidecar_only() {
    let hashes = |socket| {
        let objects = rendered_with_socket(&json!({}), &[], &paired_by_socket(), Some(socket));
        let of = |body: &ContainerCreateBody| spec_hash(body).expect("a hash").to_owned();
        (of(&objects.sidecar), of(objects.desktop.as_ref().expect("a desktop")))
    };
    let (before, after) = (hashes("1"), hashes("2"));
    assert!(before.0 != after.0 && before.1 == after.1);
    assert_eq!(before, hashes("1"));
}

#[test]
fn desktop_settings_do_not_extend_to_the_sidecar() {
    let objects = rendered(&json!({"spec": {"desktop": {
        "securityContext": {"runAsUser": 1001, "capabilities": {"drop": ["ALL"], "add": ["SYS_NICE"]}},
        "resources": {"requests": {"cpu": "500m"}, "limits": {"cpu": "2", "memory": "1Gi"}},
        "volumes": [{"name": "s", "emptyDir": {}}, {"name": "m", "emptyDir": {"medium": "Memory"}}],
        "volumeMounts": [{"name": "s", "mountPath": "/scratch"}, {"name": "m", "mountPath": "/fast"}],
        "home": {"size": "1Gi", "onDelete": "Keep"},
    }}}));
    let desktop = host(objects.desktop.as_ref().expect("a desktop"));
    assert_eq!(desktop.cap_add, Some(vec!["SYS_NICE".to_owned()]));
    assert_eq!((desktop.nano_cpus, desktop.memory), (Some(2_000_000_000), Some(1 << 30)));
    assert_eq!(desktop.cpu_shares, Some(512));
    assert_eq!(host(&objects.sidecar).cap_add, None);
    assert_eq!(objects.sidecar.user.as_deref(), Some("1001:1001"), "the user that the sockets admit");
    assert_eq!(objects.owned_folders, ["/home/desktop", "/scratch"]);
    let home =
        objects.volumes.iter().find(|it| it.name.as_deref() == Some("team_desk_home")).expect("a home");
    assert!(home.labels.as_ref().is_some_and(|it| it.contains_key(names::KEEP)));
    let env = objects.desktop.as_ref().and_then(|it| it.env.clone()).expect("env");
    assert!(
        env.contains(&"HOME=/home/desktop".to_owned())
            && env.contains(&"XDG_RUNTIME_DIR=/run/desktop".to_owned())
    );
}
