//! Validation of `spec.desktop`.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use operator_api::{Desktop, names};

use super::Check;
use crate::quantity;

/// Prefix of the names of the operator's own containers and volumes.
const RESERVED: &str = "desktopstream-";

/// Checks a desktop, and parses its pod template.
pub(super) fn check(check: &mut Check, desktop: &Desktop) -> Option<PodTemplateSpec> {
    check.ensure(
        desktop.image.is_some() != desktop.pod_template.is_some(),
        "spec.desktop",
        "set exactly one of image and podTemplate",
    );
    if let Some(image) = &desktop.image {
        let plain = !image.is_empty() && image.bytes().all(|b| b.is_ascii_graphic());
        check.ensure(plain, "spec.desktop.image", "write an image reference such as registry/name:tag");
    }
    check.ensure(
        desktop.env.iter().all(|env| env.name != "XDG_RUNTIME_DIR"),
        "spec.desktop.env",
        "XDG_RUNTIME_DIR is /run/desktop, shared with the sidecar: remove it from env",
    );
    volumes(check, desktop);
    check.ensure(
        desktop
            .resources
            .iter()
            .flat_map(|it| [&it.requests, &it.limits])
            .flatten()
            .flat_map(|it| it.keys())
            .all(|resource| !resource.starts_with(names::RESOURCE_DOMAIN)),
        "spec.desktop.resources",
        "GPUs are requested by spec.gpu: remove desktopstream.dev/… from resources",
    );
    desktop.pod_template.as_ref().and_then(|value| template(check, desktop, value))
}

fn volumes(check: &mut Check, desktop: &Desktop) {
    check.ensure(
        desktop.volumes.iter().all(|volume| !volume.name.starts_with(RESERVED)),
        "spec.desktop.volumes",
        "volume names that start with desktopstream- are reserved: choose another name",
    );
    let is_runtime_dir = |path: &str| {
        let path = path.trim_end_matches('/');
        path == names::RUNTIME_DIR || path.starts_with("/run/desktop/")
    };
    check.ensure(
        desktop.volume_mounts.iter().all(|mount| !is_runtime_dir(&mount.mount_path)),
        "spec.desktop.volumeMounts",
        "/run/desktop is shared with the sidecar: choose another mountPath",
    );
    for mount in &desktop.volume_mounts {
        check.ensure(
            desktop.volumes.iter().any(|volume| volume.name == mount.name),
            "spec.desktop.volumeMounts",
            &format!("volume {:?} does not exist: add it to spec.desktop.volumes", mount.name),
        );
    }
    if let Some(home) = &desktop.home {
        check.ensure(
            quantity::amount(&home.size).is_some_and(quantity::Amount::is_positive),
            "spec.desktop.home.size",
            "must be a positive quantity such as 10Gi",
        );
        check.ensure(
            !is_runtime_dir(&home.mount_path),
            "spec.desktop.home.mountPath",
            "/run/desktop is shared with the sidecar: choose another mountPath",
        );
    }
}

fn template(check: &mut Check, desktop: &Desktop, value: &serde_json::Value) -> Option<PodTemplateSpec> {
    const FIELD: &str = "spec.desktop.podTemplate";
    let Desktop { command, args, env, resources, security_context, volumes, volume_mounts, .. } = desktop;
    let is_alone = command.is_empty()
        && args.is_empty()
        && env.is_empty()
        && volumes.is_empty()
        && volume_mounts.is_empty()
        && resources.is_none()
        && security_context.is_none()
        && desktop.node_selector.is_empty()
        && desktop.tolerations.is_empty()
        && desktop.image_pull_policy.is_none()
        && desktop.image_pull_secrets.is_empty();
    check.ensure(
        is_alone,
        "spec.desktop",
        "with podTemplate, set the container's fields in its container named desktop",
    );
    let parsed: PodTemplateSpec = match serde_json::from_value(value.clone()) {
        Ok(parsed) => parsed,
        Err(error) => {
            check.ensure(false, FIELD, &format!("must be a valid pod template: {error}"));
            return None;
        }
    };
    let Some(spec) = &parsed.spec else {
        check.ensure(false, FIELD, "must have spec.containers, with one container named desktop");
        return None;
    };
    check.ensure(
        spec.ephemeral_containers.iter().flatten().next().is_none(),
        FIELD,
        "ephemeral containers can only be added to running pods: remove ephemeralContainers",
    );
    let desktops = spec.containers.iter().filter(|it| it.name == names::DESKTOP_CONTAINER).count();
    check.ensure(desktops == 1, FIELD, "must have one container named desktop, which is streamed");
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    check.ensure(
        containers.into_iter().all(|container| !container.name.starts_with(RESERVED)),
        FIELD,
        "container names that start with desktopstream- are reserved: choose another name",
    );
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    check.ensure(
        !containers.into_iter().any(super::security::requests_devices),
        FIELD,
        "GPUs are requested by spec.gpu: remove desktopstream.dev/… from resources",
    );
    check.ensure(
        spec.volumes.iter().flatten().all(|volume| !volume.name.starts_with(RESERVED)),
        FIELD,
        "volume names that start with desktopstream- are reserved: choose another name",
    );
    Some(parsed)
}
