use kube::core::DeserializeGuard;
use operator_api::{DesktopStreamStatus, conditions};
use operator_plan::testing;
use serde_json::{Value, json};

use super::*;
use crate::testing::{Apiserver, World, report};

const STREAM: &str = "/apis/desktopstream.dev/v1alpha1/namespaces/team/desktopstreams/desk";

/// Stores a stream; returns it as the watch reports it.
fn add(apiserver: &Apiserver, changes: &Value) -> DesktopStream {
    let stream = serde_json::to_value(testing::stream(changes)).expect("JSON");
    serde_json::from_value(apiserver.add(STREAM, stream)).expect("a stream")
}

fn guarded(stream: DesktopStream) -> Arc<Guarded> {
    Arc::new(DeserializeGuard(Ok(stream)))
}

fn stored(apiserver: &Apiserver) -> DesktopStreamStatus {
    let stream = apiserver.get(STREAM).expect("the stream exists");
    serde_json::from_value(stream["status"].clone()).expect("a status")
}

#[tokio::test]
async fn expired_stream_is_deleted_only_as_it_was_judged() {
    let apiserver = Apiserver::default();
    let world = World::new(&apiserver);
    let expired = json!({
        "metadata": {"creationTimestamp": "2020-01-01T00:00:00Z"}, "spec": {"lifecycle": {"ttlSeconds": 60}},
    });
    let judged = add(&apiserver, &expired);
    // Its TTL is extended while the watch is late.
    apiserver.change(STREAM, &json!({"spec": {"lifecycle": {"ttlSeconds": 1_000_000_000}}}));
    assert!(reconcile(guarded(judged.clone()), Arc::clone(&world.context)).await.is_err(), "judged again");
    assert!(apiserver.get(STREAM).is_some());
    // It is replaced by another one of its name.
    apiserver.remove(STREAM);
    add(&apiserver, &json!({}));
    assert!(reconcile(guarded(judged), Arc::clone(&world.context)).await.is_err(), "judged again");
    assert!(apiserver.get(STREAM).is_some());
    assert_eq!(apiserver.count("POST /apis/events"), 0, "no Event about a deletion that did not happen");
    apiserver.remove(STREAM);
    let current = add(&apiserver, &expired);
    reconcile(guarded(current), Arc::clone(&world.context)).await.expect("deleted");
    assert!(apiserver.get(STREAM).is_none());
}

#[tokio::test]
async fn restarted_operator_keeps_the_status_until_the_sidecar_has_answered() {
    let apiserver = Apiserver::default();
    let mut world = World::new(&apiserver);
    let ready = json!({
        "type": "Ready", "status": "True", "reason": "PathSatisfied", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let status = json!({
        "phase": "Streaming", "podName": "desk-desktop", "nodeName": "n1", "conditions": [ready],
        "capture": {"framePath": "Local"}, "stats": {"fps": 30},
    });
    let stream = add(&apiserver, &json!({"status": status, "spec": {"encode": {"placement": "Sidecar"}}}));
    let uid = stream.uid().expect("a UID");
    let container = |name: &str| {
        json!({
            "name": name, "image": "i", "imageID": "", "ready": true, "started": true, "restartCount": 0,
            "state": {"running": {}},
        })
    };
    let owner = json!([{
        "apiVersion": "desktopstream.dev/v1alpha1", "kind": "DesktopStream", "name": "desk", "uid": uid,
        "controller": true,
    }]);
    let pod = json!({
        "metadata": {
            "name": "desk-desktop", "namespace": "team", "uid": "p-1", "ownerReferences": owner,
            "labels": {"desktopstream.dev/stream": "desk"},
        },
        "spec": {"nodeName": "n1", "containers": []},
        "status": {
            "phase": "Running", "podIP": "10.0.0.7",
            "initContainerStatuses": [container("desktopstream-sidecar")],
            "containerStatuses": [container("desktop")],
        },
    });
    report(&mut world.stores.pods, &pod);
    reconcile(guarded(stream.clone()), Arc::clone(&world.context)).await.expect("reconciled");
    assert_eq!(apiserver.count(&format!("PATCH {STREAM}/status")), 0, "nothing is known yet");
    assert_eq!(apiserver.count("POST /apis/events"), 0);
    let address = (std::net::Ipv4Addr::new(10, 0, 0, 7), operator_api::names::SIDECAR_ADMIN_PORT).into();
    assert_eq!(world.context.poller.answer(&uid, address), None, "it is polled from now on");
}

#[tokio::test]
async fn failure_that_persists_is_reported_in_the_status() {
    let apiserver = Apiserver::default();
    let world = World::new(&apiserver);
    apiserver.refuse(hyper::Method::POST, "/services", 500, "failed calling webhook \"x.example.com\"");
    let stream = guarded(add(&apiserver, &json!({"spec": {"encode": {"placement": "Sidecar"}}})));
    for attempt in 1..=REPORTED_FAILURES {
        let error = reconcile(Arc::clone(&stream), Arc::clone(&world.context)).await.expect_err("refused");
        let _requeued = on_error(Arc::clone(&stream), &error, Arc::clone(&world.context));
        let patches = apiserver.count(&format!("PATCH {STREAM}/status"));
        assert_eq!(patches, usize::from(attempt == REPORTED_FAILURES), "{attempt}");
    }
    let status = stored(&apiserver);
    let ready = status.conditions.iter().find(|it| it.type_ == conditions::READY).expect("Ready");
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "ReconcileFails"));
    assert!(ready.message.contains("x.example.com"), "{}", ready.message);
    assert_eq!(apiserver.count("POST /apis/events"), 1);
}

#[tokio::test]
async fn stream_that_cannot_be_read_is_reported_once() {
    let apiserver = Apiserver::default();
    let world = World::new(&apiserver);
    let mut object = serde_json::to_value(testing::stream(&json!({}))).expect("JSON");
    object["spec"]["operatingMode"] = "Dreaming".into();
    let broken = apiserver.add(STREAM, object);
    let guarded: Arc<Guarded> = Arc::new(serde_json::from_value(broken.clone()).expect("guarded"));
    assert!(guarded.0.is_err());
    for _ in 0..3 {
        reconcile(Arc::clone(&guarded), Arc::clone(&world.context)).await.expect("reported");
    }
    assert_eq!(apiserver.count(&format!("PATCH {STREAM}/status")), 1);
    let status = stored(&apiserver);
    assert_eq!(status.conditions[0].reason, "InvalidSpec");
    assert!(status.conditions[0].message.contains("Dreaming"), "{}", status.conditions[0].message);
    // It is corrected, and broken again in the same way.
    let mode = |mode: &str| apiserver.change(STREAM, &json!({"spec": {"operatingMode": mode}}));
    mode("Running");
    let mut corrected = broken;
    corrected["spec"]["operatingMode"] = "Running".into();
    let corrected: DesktopStream = serde_json::from_value(corrected).expect("a stream");
    reconcile(Arc::new(DeserializeGuard(Ok(corrected))), Arc::clone(&world.context))
        .await
        .expect("reconciled");
    assert_ne!(stored(&apiserver).conditions[0].reason, "InvalidSpec");
    mode("Dreaming");
    reconcile(Arc::clone(&guarded), Arc::clone(&world.context)).await.expect("reported");
    assert_eq!(stored(&apiserver).conditions[0].reason, "InvalidSpec", "reported again");
}
