use super::*;

#[test]
fn unscheduled_pod_reason_is_the_resource_that_is_missing() {
    let mut world = World::new(json!({"desktop": {"home": {"size": "1Gi"}}}));
    world.report = None;
    world.pod = Some(unscheduled("0/1 nodes are available: 1 Insufficient desktopstream.dev/dri."));
    assert_eq!(of(&world.status(), "DevicesReady").1, "Unschedulable");
    world.nodes[0].devices.clear();
    let status = world.status();
    let (holds, reason, message) = of(&status, "DevicesReady");
    assert_eq!((holds, reason), ("False", "NoDeviceOnAnyNode"));
    assert!(message.contains("node-agent"), "{message}");
    assert_eq!(of(&status, "Ready").1, "NoDeviceOnAnyNode", "the first obstacle is the reason of Ready");
    assert_eq!(status.phase, Some(Phase::Pending));
    world.claim = Some(
        serde_json::from_value(json!({"metadata": {}, "status": {"phase": "Pending"}})).expect("a claim"),
    );
    let message = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found";
    world.pod = Some(unscheduled(message));
    let status = world.status();
    let (_, reason, message) = of(&status, "DevicesReady");
    assert_eq!(reason, "VolumePending");
    let expected = "claim desk-home is not bound; scheduler: 0/1 nodes are available: pod has unbound immediate \
                    PersistentVolumeClaims; see kubectl describe pvc desk-home,";
    assert!(message.starts_with(expected), "{message}");
}

#[test]
fn message_of_an_unscheduled_pod_has_one_sentence_of_the_scheduler() {
    let mut world = World::new(json!({}));
    world.report = None;
    for message in [
        "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available.",
        "0/1 nodes are available: 1 Insufficient cpu.",
    ] {
        world.pod = Some(unscheduled(message));
        let status = world.status();
        let (_, reason, message) = of(&status, "DevicesReady");
        assert_eq!(reason, "Unschedulable");
        assert!(message.contains("1 Insufficient cpu; add nodes"), "{message}");
    }
}

#[test]
fn container_that_does_not_start_degrades_the_stream() {
    let waiting = |reason: &str| json!({"state": {"waiting": {"reason": reason, "message": "because"}}});
    for (name, reason, kind, expected) in [
        ("desktop", "ImagePullBackOff", "DevicesReady", "ImageCannotBePulled"),
        ("desktop", "ErrImageNeverPull", "DevicesReady", "ImageCannotBePulled"),
        ("desktop", "CreateContainerConfigError", "DevicesReady", "ContainerConfigError"),
        (names::SIDECAR_CONTAINER, "CrashLoopBackOff", "Capturing", "SidecarCrashing"),
        ("desktop", "CrashLoopBackOff", "Capturing", "DesktopCrashing"),
    ] {
        let mut world = World::new(json!({}));
        world.report = None;
        world.pod = Some(container(name, waiting(reason)));
        let status = world.status();
        assert_eq!((of(&status, kind).0, of(&status, kind).1), ("False", expected), "{name} {reason}");
        assert_eq!(status.phase, Some(Phase::Degraded), "{name} {reason}");
        assert_eq!(of(&status, "Ready").1, expected);
    }
}

#[test]
fn desktop_whose_image_is_not_there_yet_is_not_ready_while_the_test_pattern_streams() {
    let mut world = World::new(json!({"capture": {"source": "TestPattern"}}));
    assert_eq!(of(&world.status(), "Ready").0, "True");
    let creating = json!({"restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}});
    for pod in [container("desktop", creating), pod(json!({"phase": "Pending"}))] {
        world.pod = Some(pod);
        let status = world.status();
        assert_eq!((of(&status, "DevicesReady").0, of(&status, "DevicesReady").1), ("Unknown", "Waiting"));
        assert_eq!((of(&status, "Ready").0, of(&status, "Ready").1), ("False", "Waiting"));
        assert_eq!(status.phase, Some(Phase::Starting));
    }
}

#[test]
fn sidecar_that_waits_for_a_secret_of_the_user_names_it() {
    let creating = json!({"restartCount": 0, "state": {"waiting": {"reason": "PodInitializing"}}});
    for (auth, is_named) in [(json!({}), false), (json!({"secretName": "mine"}), true)] {
        let mut world = World::new(json!({"viewers": {"auth": auth}}));
        world.report = None;
        world.pod = Some(container(names::SIDECAR_CONTAINER, creating.clone()));
        let status = world.status();
        let (holds, reason, message) = of(&status, "DevicesReady");
        assert_eq!(message.contains("Secret mine with the key token"), is_named, "{message}");
        assert!(!is_named || (holds, reason) == ("Unknown", "Waiting"), "{holds} {reason}");
        world.pod = Some(running());
        assert_eq!(of(&world.status(), "DevicesReady").0, "True");
    }
}

#[test]
fn different_gpus_of_desktop_and_sidecar_are_reported() {
    let mut world = World::new(json!({}));
    let mut pod = container(
        "desktop",
        json!({"ready": true, "started": true, "restartCount": 0, "state": {"running": {}}}),
    );
    let status = pod.status.as_mut().and_then(|status| status.container_statuses.as_mut()).expect("statuses");
    let share = json!([{"name": "desktopstream.dev/dri", "resources": [{"resourceID": "pci-0000:00:02.0::3", "health": "Healthy"}]}]);
    status[0].allocated_resources_status = Some(serde_json::from_value(share).expect("a resource"));
    world.pod = Some(pod);
    world.report(|report| report.render_node_path = Some("/dev/dri/renderD128".to_owned()));
    assert_eq!(of(&world.status(), "DevicesReady").0, "True");
    world.report(|report| report.render_node_path = Some("/dev/dri/renderD129".to_owned()));
    let differs = world.status();
    assert_eq!((of(&differs, "DevicesReady").0, of(&differs, "Ready").1), ("False", "GpusDiffer"));
    assert!(
        of(&differs, "DevicesReady").2.contains("pci-0000:00:02.0"),
        "{}",
        of(&differs, "DevicesReady").2
    );
    world.report(|report| report.render_node_path = None);
    assert_eq!(of(&world.status(), "DevicesReady").0, "True", "an earlier sidecar");
}
