use serde_json::json;

use super::*;
use crate::testing::{node, validated};

#[test]
fn sidecar_args_follow_the_spec() {
    let stream = validated(&json!({"spec": {
        "capture": {"source": "Wayland", "require": "ZeroCopy", "cursor": "Hidden", "maxFramerate": 30},
        "encode": {"bitrateKbps": 2000, "keyframeIntervalMilliseconds": 2000},
        "viewers": {"allowedOrigins": ["https://a", "https://b"]},
    }}));
    let args = workload(&stream, Some(105)).sidecar_args.join(" ");
    assert_eq!(
        args,
        "run --name=team/desk --listen=0.0.0.0:8080 --admin-listen=0.0.0.0:15939 --max-viewers=16 \
         --control=exclusive --audio-output=true --clipboard=both --size=fixed --source=wayland --cursor=hidden --max-fps=30 --bitrate-kbps=2000 \
         --keyframe-ms=2000 --runtime-dir=/run/desktop --require=zero-copy \
         --upstream-file=/run/desktopstream/host-agent/endpoint --token-file=/run/desktopstream/host-agent/token \
         --tls-key-file=/run/desktopstream/host-agent/tls.key \
         --allowed-origins=https://a,https://b --viewer-token-file=/run/desktopstream/viewer/token \
         --view-only-token-file=/run/desktopstream/viewer/view-only-token"
    );
    let following = validated(&json!({"spec": {"capture": {"size": "FollowViewer"}}}));
    let following = workload(&following, None);
    assert!(following.sidecar_args.contains(&"--size=follow-viewer".to_owned()));
    assert_eq!(following.desktop_env["DESKTOP_SIZE_POLICY"], "follow-viewer");
    let local = validated(&json!({"spec": {
        "gpu": {"count": 0}, "capture": {"source": "TestPattern", "width": 640, "height": 360},
        "encode": {"placement": "Sidecar"}, "viewers": {"auth": {"type": "None"}},
    }}));
    let local = workload(&local, Some(105));
    let args = local.sidecar_args.join(" ");
    for part in ["--frame-path=local", "--initial-size=640x360", "--insecure-no-viewer-auth"] {
        assert!(args.contains(part), "{args}");
    }
    assert!(!args.contains("token-file"), "{args}");
    assert_eq!((local.device, local.render_gid), (None, None), "a group only with a device");
    assert_eq!(local.desktop_env["DESKTOP_SIZE"], "640x360");
}

#[test]
fn shape_differs_in_the_parts_that_need_a_new_pod() {
    let before = workload(&validated(&json!({})), None).shape;
    let after = |spec| workload(&validated(&json!({"spec": spec})), Some(44)).shape;
    assert!(changed(&before, &after(json!({}))).is_empty(), "another node");
    let mut of_an_earlier_version = before.clone();
    for part in ["viewers.control", "viewers.clipboard", "audio", "capture.size"] {
        of_an_earlier_version.remove(part).expect("recorded");
    }
    assert!(changed(&of_an_earlier_version, &before).is_empty(), "an upgrade replaces no pod");
    let shared = after(json!({"viewers": {"control": "Shared"}}));
    assert_eq!(changed(&of_an_earlier_version, &shared), ["viewers.control"]);
    let one_way = after(json!({"viewers": {"clipboard": "ToDesktop"}}));
    assert_eq!(changed(&of_an_earlier_version, &one_way), ["viewers.clipboard"]);
    let following = after(json!({"capture": {"size": "FollowViewer"}}));
    assert_eq!(changed(&of_an_earlier_version, &following), ["capture.size"]);
    let mute = after(json!({"audio": {"output": false}}));
    assert_eq!(changed(&of_an_earlier_version, &mute), ["audio"]);
    for (spec, part) in [
        (json!({"desktop": {"image": "b"}}), "desktop"),
        (json!({"gpu": {"count": 2}}), "gpu"),
        (json!({"encode": {"bitrateKbps": 100}}), "encode"),
        (json!({"viewers": {"max": 2}}), "viewers.max"),
        (json!({"viewers": {"control": "None"}}), "viewers.control"),
        (json!({"viewers": {"clipboard": "Off"}}), "viewers.clipboard"),
        (json!({"audio": {"output": false}}), "audio"),
        (json!({"capture": {"maxFramerate": 30}}), "capture"),
        (json!({"capture": {"size": "FollowViewer"}}), "capture.size"),
    ] {
        assert_eq!(changed(&before, &after(spec)), [part]);
    }
    for spec in [
        json!({"viewers": {"ingress": {"host": "a.b"}}}),
        json!({"lifecycle": {"ttlSeconds": 3600}}),
        json!({"viewers": {"service": {"type": "NodePort"}}}),
    ] {
        assert!(changed(&before, &after(spec)).is_empty());
    }
    let home =
        |size| workload(&validated(&json!({"spec": {"desktop": {"home": {"size": size}}}})), None).shape;
    assert_eq!(home("1Gi"), home("2Gi"), "the size of the claim");
}

#[test]
fn render_gid_is_the_group_of_most_nodes_that_can_run_the_pod() {
    let stream = validated(&json!({}));
    let nodes = [
        node("n1", 44, &[]),
        node("n2", 105, &[("a", "vsock://2:1")]),
        node("n3", 44, &[]),
        crate::facts::Node { ready: false, ..node("n4", 7, &[]) },
    ];
    assert_eq!(render_gid(&stream, &nodes, &Pairing::NotNeeded), Some(44));
    let paired = Pairing::Paired { host_agent: "a".to_owned(), endpoint: None };
    assert_eq!(render_gid(&stream, &nodes, &paired), Some(105), "nodes that reach the host-agent");
    assert_eq!(render_gid(&stream, &nodes[3..], &Pairing::NotNeeded), Some(7), "a node that is not ready");
    assert_eq!(render_gid(&stream, &[], &Pairing::NotNeeded), None);
}
