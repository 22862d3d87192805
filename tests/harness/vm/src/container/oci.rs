//! Converts a [`Spec`] to `config.json` of the OCI runtime specification.

use serde_json::{Value, json};

use super::{Mount, RENDER_GROUP, RENDER_NODE, RUNTIME_DIR, RenderAccess, Spec, payload_mount};

const DRM_MAJOR: u32 = 226;
const CARD_MINOR: u32 = 0;
const RENDER_MINOR: u32 = 128;
const OWNER_AND_GROUP: u32 = 0o660;

pub(super) fn config(spec: &Spec) -> Value {
    let mut groups = spec.groups.clone();
    if spec.render == RenderAccess::Yes {
        groups.push(RENDER_GROUP);
    }
    let none: [&str; 0] = [];
    json!({
        "ociVersion": "1.0.2",
        "hostname": spec.name,
        "root": {"path": format!("{}/rootfs", super::bundle(&spec.name)), "readonly": false},
        "process": {
            "terminal": false,
            "user": {"uid": spec.uid, "gid": spec.gid, "additionalGids": groups},
            "args": spec.argv,
            "env": environment(spec),
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": {
                "bounding": none, "effective": none, "inheritable": none, "permitted": none, "ambient": none,
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 4096, "hard": 65536}],
        },
        "mounts": mounts(spec),
        "linux": {
            // No network namespace: like containers of a pod, all containers share one, that of the guest.
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "cgroup"}],
            "cgroupsPath": format!("/lab/{}", spec.name),
            "devices": device_nodes(spec),
            "resources": {"devices": device_rules(spec)},
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/scsi",
                "/sys/firmware", "/sys/devices/virtual/powercap"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

fn environment(spec: &Spec) -> Vec<String> {
    let usual = [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", if spec.uid == 0 { "/root" } else { "/home/desktop" }),
        ("LC_ALL", "C.UTF-8"),
        ("XDG_RUNTIME_DIR", RUNTIME_DIR),
    ];
    let own = spec.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    // The last variable of a name takes precedence.
    usual
        .into_iter()
        .filter(|(name, _)| !spec.env.iter().any(|(own, _)| own == name))
        .chain(own)
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

fn mounts(spec: &Spec) -> Vec<Value> {
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
        json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}),
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}),
        json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]}),
        bind(&Mount { from: "/etc/resolv.conf".into(), to: "/etc/resolv.conf".into(), writable: false }),
        bind(&payload_mount()),
    ];
    if let Some(from) = spec.runtime_dir.clone() {
        mounts.push(bind(&Mount { from, to: RUNTIME_DIR.into(), writable: true }));
    }
    mounts.extend(spec.mounts.iter().map(bind));
    mounts
}

fn bind(mount: &Mount) -> Value {
    let access = if mount.writable { "rw" } else { "ro" };
    json!({"destination": mount.to, "type": "bind", "source": mount.from, "options": ["rbind", "nosuid", "nodev", access]})
}

fn device_nodes(spec: &Spec) -> Vec<Value> {
    let mut nodes = Vec::new();
    let mut node = |path: &str, minor: u32, gid: u32| {
        nodes.push(json!({
            "path": path, "type": "c", "major": DRM_MAJOR, "minor": minor,
            "fileMode": OWNER_AND_GROUP, "uid": 0, "gid": gid,
        }));
    };
    if spec.render != RenderAccess::No {
        node(RENDER_NODE, RENDER_MINOR, RENDER_GROUP);
    }
    if spec.card {
        node("/dev/dri/card0", CARD_MINOR, 0);
    }
    nodes
}

/// Device cgroup rules. runc adds its default devices (null, zero, random, terminals).
fn device_rules(spec: &Spec) -> Vec<Value> {
    let mut rules = vec![json!({"allow": false, "access": "rwm"})];
    let mut allow = |minor: u32| {
        rules.push(json!({"allow": true, "type": "c", "major": DRM_MAJOR, "minor": minor, "access": "rw"}));
    };
    if spec.render != RenderAccess::No {
        allow(RENDER_MINOR);
    }
    if spec.card {
        allow(CARD_MINOR);
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(config: &Value) -> &Value {
        &config["process"]["user"]["additionalGids"]
    }

    #[test]
    fn render_node_and_its_group_are_independent() {
        let spec = Spec::new("t", "sidecar", &["true"]);
        let yes = config(&spec);
        let wrong = config(&spec.clone().render(RenderAccess::WrongGroup));
        let no = config(&spec.render(RenderAccess::No));
        assert_eq!(yes["linux"]["devices"], wrong["linux"]["devices"]);
        assert_eq!(yes["linux"]["devices"][0]["gid"], RENDER_GROUP);
        assert_eq!((groups(&yes), groups(&wrong)), (&json!([RENDER_GROUP]), &json!([])));
        assert_eq!(no["linux"]["devices"], json!([]));
        assert_eq!(no["linux"]["resources"]["devices"], json!([{"allow": false, "access": "rwm"}]));
    }

    #[test]
    fn card_node_is_added_on_request_only() {
        let mut spec = Spec::new("t", "sidecar", &["true"]);
        assert_eq!(config(&spec)["linux"]["devices"].as_array().map(Vec::len), Some(1));
        spec.card = true;
        assert_eq!(config(&spec)["linux"]["devices"][1]["path"], "/dev/dri/card0");
    }

    #[test]
    fn sidecar_environment_names_its_desktop() {
        let config = config(&Spec::sidecar("s", "d", &["true"]).env("HOME", "/tmp"));
        let env = config["process"]["env"].as_array().expect("a list");
        for variable in [
            "XDG_RUNTIME_DIR=/run/desktop",
            "DBUS_SESSION_BUS_ADDRESS=unix:path=/run/desktop/bus",
            "HOME=/tmp",
        ] {
            assert!(env.contains(&json!(variable)), "{env:?}");
        }
        assert!(!env.contains(&json!("HOME=/home/desktop")));
        let mounts = config["mounts"].as_array().expect("a list");
        assert!(
            mounts
                .iter()
                .any(|mount| mount["source"] == "/run/desktops/d" && mount["destination"] == "/run/desktop")
        );
    }

    #[test]
    fn container_has_no_capabilities() {
        let process = &config(&Spec::desktop("d", "desktop-sway", (640, 360)))["process"];
        assert_eq!(process["noNewPrivileges"], true);
        for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
            assert_eq!(process["capabilities"][set], json!([]));
        }
        assert_eq!(process["user"]["uid"], 1000);
    }
}
