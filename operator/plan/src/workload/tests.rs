use serde_json::json;

use super::*;
use crate::testing::node;
use crate::testing::validated;

#[test]
fn the_sidecars_command_line() {
    let stream = validated(&json!({"spec": {
        "capture": {"source": "Wayland", "require": "ZeroCopy", "cursor": false, "maxFramerate": 30},
        "encode": {"bitrate": 2000, "keyframeInterval": "2s"},
    }}));
    let args = workload(&stream, Some(105)).sidecar_args.join(" ");
    assert_eq!(
        args,
        "run --name=team/desk --listen=0.0.0.0:8080 --max-viewers=16 --source=wayland --max-fps=30 --bitrate=2000 \
         --keyframe-ms=2000 --runtime-dir=/run/desktop --require=zero-copy \
         --upstream-file=/run/desktopstream/host-agent/endpoint --token-file=/run/desktopstream/host-agent/token \
         --viewer-token-file=/run/desktopstream/viewer/token --hide-cursor"
    );
    let local = validated(&json!({"spec": {
        "gpu": {"count": 0}, "capture": {"source": "TestPattern", "width": 640, "height": 360},
        "encode": {"where": "Sidecar"}, "viewers": {"auth": {"type": "None"}},
    }}));
    let local = workload(&local, Some(105));
    let args = local.sidecar_args.join(" ");
    for part in ["--rung=local", "--pattern-size=640x360", "--insecure-no-viewer-auth"] {
        assert!(args.contains(part), "{args}");
    }
    assert!(!args.contains("token-file"), "{args}");
    assert_eq!((local.device, local.render_gid), (None, None), "no group without a device");
    assert_eq!(local.desktop_env["DESKTOP_SIZE"], "640x360");
}

#[test]
fn a_shape_tells_which_part_of_the_spec_needs_a_new_pod() {
    let before = workload(&validated(&json!({})), None).shape;
    let after = |spec| workload(&validated(&json!({"spec": spec})), Some(44)).shape;
    assert!(changed(&before, &after(json!({}))).is_empty(), "another node is no change");
    for (spec, part) in [
        (json!({"desktop": {"image": "b"}}), "desktop"),
        (json!({"gpu": {"count": 2}}), "gpu"),
        (json!({"encode": {"bitrate": 100}}), "encode"),
        (json!({"viewers": {"max": 2}}), "viewers.max"),
    ] {
        assert_eq!(changed(&before, &after(spec)), [part]);
    }
    for spec in [
        json!({"viewers": {"ingress": {"host": "a.b"}}}),
        json!({"lifecycle": {"ttl": "1h"}}),
        json!({"viewers": {"service": {"type": "NodePort"}}}),
    ] {
        assert!(changed(&before, &after(spec)).is_empty());
    }
    let home =
        |size| workload(&validated(&json!({"spec": {"desktop": {"home": {"size": size}}}})), None).shape;
    assert_eq!(home("1Gi"), home("2Gi"), "a claim that grows is the same to the pod");
}

#[test]
fn the_group_of_most_nodes_that_will_do() {
    let stream = validated(&json!({}));
    let nodes = [
        node("n1", 44, &[]),
        node("n2", 105, &[("a", "vsock://2:1")]),
        node("n3", 44, &[]),
        crate::facts::Node { ready: false, ..node("n4", 7, &[]) },
    ];
    assert_eq!(render_gid(&stream, &nodes, &Pairing::NotNeeded), Some(44));
    let paired = Pairing::Paired { host_agent: "a".to_owned(), endpoint: None };
    assert_eq!(render_gid(&stream, &nodes, &paired), Some(105), "where the host-agent is");
    assert_eq!(render_gid(&stream, &nodes[3..], &Pairing::NotNeeded), Some(7), "it may be back soon");
    assert_eq!(render_gid(&stream, &[], &Pairing::NotNeeded), None);
}
