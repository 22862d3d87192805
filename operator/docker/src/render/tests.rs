use serde_json::{Value, json};

use super::*;
use crate::refuse::check;
use operator_plan::testing::stream;
use operator_plan::workload::workload;

fn gpu(number: u32) -> Device {
    Device { render: format!("/dev/dri/renderD{number}"), card: None, gids: vec![105] }
}

fn rendered_on(changes: &Value, devices: &[Device], pairing: &Pairing) -> Objects {
    let stream = check(&stream(changes), "team").expect("valid");
    let place = Place::new("team", "desk");
    let sidecar = SidecarImage::default();
    let publish = Publish::LOCAL;
    let setting =
        Setting { place: &place, sidecar: &sidecar, devices, publish: &publish, pairing, attached: None };
    objects(&stream, &workload(&stream, Some(105)), setting)
}

fn rendered(changes: &Value) -> Objects {
    rendered_on(changes, &[gpu(128)], &Pairing::NotNeeded)
}

fn host(body: &ContainerCreateBody) -> &HostConfig {
    body.host_config.as_ref().expect("a host config")
}

#[test]
fn both_containers_have_the_device_the_group_and_no_right() {
    let objects = rendered(&json!({}));
    for body in [&objects.sidecar, objects.desktop.as_ref().expect("a desktop")] {
        let host = host(body);
        let devices = host.devices.as_ref().expect("devices");
        assert_eq!(devices.len(), 1);
        assert_eq!(devices[0].path_on_host.as_deref(), Some("/dev/dri/renderD128"));
        assert_eq!(
            devices[0].cgroup_permissions.as_deref(),
            Some("rw"),
            "nobody makes it under another name"
        );
        assert_eq!(host.group_add, Some(vec!["105".to_owned()]));
        assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
        assert_eq!(host.security_opt, Some(vec!["no-new-privileges:true".to_owned()]));
        assert_eq!(host.privileged, None);
        assert_eq!(body.user.as_deref(), Some("1000:1000"));
        let mounts = host.mounts.as_ref().expect("mounts");
        assert!(mounts.iter().any(|it| it.target.as_deref() == Some("/run/desktop")));
    }
    assert_eq!(host(&objects.sidecar).readonly_rootfs, Some(true));
    let ports = host(&objects.sidecar).port_bindings.as_ref().expect("ports");
    let bindings = ports["8080/tcp"].as_ref().expect("bindings");
    assert_eq!(bindings[0].host_ip.as_deref(), Some("127.0.0.1"), "of this machine only");
}

#[test]
fn a_desktop_is_made_anew_for_its_own_changes_only() {
    let hashes = |objects: Objects| {
        let of = |body: &ContainerCreateBody| hash(body).expect("a hash").to_owned();
        (of(objects.desktop.as_ref().expect("a desktop")), of(&objects.sidecar))
    };
    let before = hashes(rendered(&json!({})));
    let bitrate = hashes(rendered(&json!({"spec": {"encode": {"bitrate": 9000}}})));
    assert!(before.0 == bitrate.0 && before.1 != bitrate.1, "the sidecar's own");
    let image = hashes(rendered(&json!({"spec": {"desktop": {"image": "other"}}})));
    assert!(before.0 != image.0 && before.1 == image.1, "the desktop's own");
    let moved = hashes(rendered_on(&json!({}), &[gpu(129)], &Pairing::NotNeeded));
    assert!(before.0 != moved.0 && before.1 != moved.1, "another device is both's");
    let grown = hashes(rendered(&json!({"spec": {"lifecycle": {"idleTimeout": "5m"}}})));
    assert_eq!(before, grown);
    assert_eq!(before, hashes(rendered(&json!({}))), "twice the same");
}

#[test]
fn a_host_agent_here_is_the_gateway_there() {
    let at = |text: &str| endpoint(text, Some("172.18.0.1"));
    assert_eq!(at("tcp://127.0.0.1:15937"), "tcp://172.18.0.1:15937");
    assert_eq!(at("tcp://192.168.64.1:15937"), "tcp://192.168.64.1:15937");
    assert_eq!(at("vsock://2:15937"), "vsock://2:15937");
    assert_eq!(at("unix:/run/host-agent/agent.sock"), "unix:/run/desktopstream-host/agent.sock");
    assert_eq!(endpoint("tcp://127.0.0.1:1", None), "tcp://127.0.0.1:1");
    let paired =
        Pairing::Paired { host_agent: "h".to_owned(), endpoint: Some("unix:/run/h/a.sock".to_owned()) };
    let objects = rendered_on(&json!({}), &[], &paired);
    let mounts = host(&objects.sidecar).mounts.clone().expect("mounts");
    assert!(mounts.iter().any(|it| it.source.as_deref() == Some("/run/h")));
}

#[test]
fn what_the_user_allows_is_allowed_to_the_desktop_only() {
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
    assert_eq!(objects.sidecar.user.as_deref(), Some("1001:1001"), "the sockets let in their own user only");
    assert_eq!(objects.owned, ["/home/desktop", "/scratch"]);
    let home =
        objects.volumes.iter().find(|it| it.name.as_deref() == Some("team_desk_home")).expect("a home");
    assert!(home.labels.as_ref().is_some_and(|it| it.contains_key(names::KEEP)));
    let env = objects.desktop.as_ref().and_then(|it| it.env.clone()).expect("env");
    assert!(
        env.contains(&"HOME=/home/desktop".to_owned())
            && env.contains(&"XDG_RUNTIME_DIR=/run/desktop".to_owned())
    );
}
