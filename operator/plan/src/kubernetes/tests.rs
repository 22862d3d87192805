use k8s_openapi::api::core::v1::{Container, PodSpec};
use serde_json::json;

use super::*;
use crate::pair::Pairing;
use crate::testing::validated;
use crate::workload::workload;

fn rendered(changes: &serde_json::Value, pairing: &Pairing) -> PodSpec {
    let stream = validated(changes);
    let workload = workload(&stream, Some(105));
    pod(&stream, &workload, pairing, &SidecarImage::default()).expect("a pod").spec.expect("a spec")
}

/// Checks the Pod Security Standard `restricted`, as its documentation lists it.
fn restricted(spec: &PodSpec) -> Result<(), String> {
    let pod = spec.security_context.clone().unwrap_or_default();
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    for container in all {
        let name = &container.name;
        let own = container.security_context.clone().unwrap_or_default();
        let must = |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("{name}: {what}")) };
        must(own.privileged != Some(true), "privileged")?;
        must(own.allow_privilege_escalation == Some(false), "allowPrivilegeEscalation")?;
        must(own.run_as_non_root.or(pod.run_as_non_root) == Some(true), "runAsNonRoot")?;
        must(own.run_as_user != Some(0) && pod.run_as_user != Some(0), "runAsUser")?;
        let drop = own.capabilities.and_then(|it| it.drop).unwrap_or_default();
        must(drop.iter().any(|it| it == "ALL"), "capabilities")?;
        let seccomp = own.seccomp_profile.or_else(|| pod.seccomp_profile.clone()).map(|it| it.type_);
        must(seccomp.is_some_and(|it| it == "RuntimeDefault" || it == "Localhost"), "seccompProfile")?;
    }
    if spec.volumes.iter().flatten().any(|volume| volume.host_path.is_some()) {
        return Err("hostPath".to_owned());
    }
    let host = [spec.host_network, spec.host_pid, spec.host_ipc];
    if host.contains(&Some(true)) { Err("host namespace".to_owned()) } else { Ok(()) }
}

fn named<'p>(spec: &'p PodSpec, name: &str) -> &'p Container {
    let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    all.find(|container| container.name == name).expect("a container")
}

#[test]
fn pod_meets_pod_security_restricted() {
    for changes in [
        json!({}),
        json!({"spec": {"desktop": {"home": {"size": "1Gi"}}}}),
        json!({"spec": {"desktop": {"image": null, "podTemplate": {"spec": {
            "containers": [{"name": "desktop", "image": "a"}, {"name": "b", "image": "b"}],
            "initContainers": [{"name": "c", "image": "c"}],
        }}}}}),
    ] {
        assert_eq!(restricted(&rendered(&changes, &Pairing::NotNeeded)), Ok(()));
    }
}

#[test]
fn both_containers_have_the_runtime_directory_the_device_and_the_group() {
    let spec = rendered(&json!({}), &Pairing::NotNeeded);
    for name in [names::DESKTOP_CONTAINER, names::SIDECAR_CONTAINER] {
        let container = named(&spec, name);
        let limits = container.resources.as_ref().and_then(|it| it.limits.as_ref()).expect("limits");
        assert_eq!(limits["desktopstream.dev/dri"].0, "1");
        let mounts = container.volume_mounts.as_ref().expect("mounts");
        assert!(mounts.iter().any(|mount| mount.mount_path == "/run/desktop"));
    }
    let sidecar = &spec.init_containers.as_ref().expect("inits")[0];
    assert_eq!(
        (sidecar.name.as_str(), sidecar.restart_policy.as_deref()),
        (names::SIDECAR_CONTAINER, Some("Always"))
    );
    let groups = spec.security_context.and_then(|it| it.supplemental_groups);
    assert_eq!(groups, Some(vec![105]));
}

#[test]
fn host_agent_affinity_is_required_only_if_the_stream_needs_it() {
    let paired = Pairing::Paired { host_agent: "mac".to_owned(), endpoint: None };
    let affinity = |spec: PodSpec| spec.affinity.and_then(|it| it.node_affinity).expect("an affinity");
    let free = affinity(rendered(&json!({}), &paired));
    assert!(free.preferred_during_scheduling_ignored_during_execution.is_some());
    let keys = |affinity: k8s_openapi::api::core::v1::NodeAffinity| {
        let terms =
            affinity.required_during_scheduling_ignored_during_execution.expect("terms").node_selector_terms;
        terms
            .into_iter()
            .flat_map(|term| term.match_expressions.unwrap_or_default())
            .map(|it| it.key)
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(free), ["desktopstream.dev/render-gid"]);
    let bound = affinity(rendered(&json!({"spec": {"capture": {"require": "ZeroCopy"}}}), &paired));
    assert_eq!(keys(bound), ["desktopstream.dev/render-gid", "host-agent.desktopstream.dev/mac"]);
}

#[test]
fn inject_twice_is_the_same_as_once() {
    let stream = validated(&json!({"spec": {"desktop": null, "attach": {"kind": "Job", "name": "j"}}}));
    let workload = workload(&stream, Some(105));
    let theirs: PodSpec = serde_json::from_value(json!({
        "containers": [{"name": "web"}, {"name": "shell", "securityContext": {"runAsUser": 4711}}],
        "initContainers": [{"name": "first"}],
    }))
    .expect("a spec");
    let mut once = theirs;
    inject(&stream, &workload, &SidecarImage::default(), &mut once, Some("shell"));
    let mut twice = once.clone();
    inject(&stream, &workload, &SidecarImage::default(), &mut twice, Some("shell"));
    assert_eq!(once, twice);
    let user = named(&once, names::SIDECAR_CONTAINER).security_context.as_ref().and_then(|it| it.run_as_user);
    assert_eq!(user, Some(4711), "the sidecar runs as the desktop's user");
    assert!(named(&once, "web").volume_mounts.is_none(), "other containers are unchanged");
}

#[test]
fn home_claim_has_an_owner_unless_it_is_kept() {
    let home = |on_delete: &str| {
        let changes = json!({"spec": {"desktop": {"home": {"size": "1Gi", "onDelete": on_delete}}}});
        objects(&validated(&changes)).home.expect("a claim").metadata.owner_references
    };
    assert!(home("Delete").is_some());
    assert!(home("Keep").is_none());
}
