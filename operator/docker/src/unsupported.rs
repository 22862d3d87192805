//! Validation for Docker: the rules of `plan`, plus an error for each field that a Docker Engine cannot honour, with what to
//! use instead.

use k8s_openapi::api::core::v1::{ResourceRequirements, SecurityContext, Volume, VolumeMount};
use operator_api::{Desktop, DesktopStream, ServiceType, WorkloadKind};
use operator_plan::quantity::amount;
use operator_plan::validate::{self, Invalid, Problem, Validated};

use crate::names::{self, Project};
use crate::publish::Publish;

/// Validates a stream of `project`.
///
/// # Errors
///
/// All problems: invalid fields and those that Docker does not support.
pub fn validate(stream: &DesktopStream, project: &Project) -> Result<Validated, Invalid> {
    let (valid, mut problems) = match validate::validate(stream) {
        Ok(valid) => (Some(valid), Problems::default()),
        Err(Invalid(problems)) => (None, Problems(problems)),
    };
    let namespace = stream.metadata.namespace.as_deref();
    problems.require(
        namespace.is_none_or(|it| it == project.as_str()),
        "metadata.namespace",
        &format!(
            "Docker has projects instead of namespaces: remove it, or use --project {}",
            namespace.unwrap_or("")
        ),
    );
    let publish = stream.metadata.annotations.iter().flatten().find(|(key, _)| *key == names::PUBLISH);
    problems.require(
        publish.is_none_or(|(_, text)| Publish::parse(text).is_some()),
        "metadata.annotations",
        "desktopstream.dev/publish must be [IP:]PORT, such as 8090 or 0.0.0.0:8090",
    );
    if let Some(desktop) = &stream.spec.desktop {
        desktop_problems(&mut problems, desktop);
    }
    if let Some(attach) = &stream.spec.attach {
        problems.require(
            attach.kind == WorkloadKind::Pod,
            "spec.attach.kind",
            "Docker has no workloads: set it to Pod, and label your container desktopstream.dev/attach=NAME",
        );
        problems.unsupported(
            attach.container.is_some(),
            "spec.attach.container",
            "the labelled container is the desktop",
        );
    }
    viewer_problems(&mut problems, stream);
    match valid {
        Some(valid) if problems.0.is_empty() => Ok(Validated { namespace: project.to_string(), ..valid }),
        _ => Err(Invalid(problems.0)),
    }
}

#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn require(&mut self, holds: bool, field: &str, message: &str) {
        if !holds {
            self.0.push(Problem { field: field.to_owned(), message: message.to_owned() });
        }
    }

    /// Requires the absence of a field, and names the alternative.
    fn unsupported(&mut self, is_set: bool, field: &str, alternative: &str) {
        self.require(!is_set, field, &format!("not supported on Docker: remove it; {alternative}"));
    }
}

fn desktop_problems(problems: &mut Problems, desktop: &Desktop) {
    problems.unsupported(
        desktop.pod_template.is_some(),
        "spec.desktop.podTemplate",
        "use image, command, args, env, volumes and resources of spec.desktop",
    );
    problems.unsupported(
        !desktop.node_selector.is_empty(),
        "spec.desktop.nodeSelector",
        "there is one machine; select its GPU with spec.gpu.class",
    );
    problems.unsupported(!desktop.tolerations.is_empty(), "spec.desktop.tolerations", "there is one machine");
    problems.unsupported(
        !desktop.image_pull_secrets.is_empty(),
        "spec.desktop.imagePullSecrets",
        "pull the image with `docker login` and `docker pull`",
    );
    problems.unsupported(
        desktop.env.iter().any(|env| env.value_from.is_some()),
        "spec.desktop.env.valueFrom",
        "use value",
    );
    if let Some(home) = &desktop.home {
        problems.unsupported(
            home.storage_class_name.is_some(),
            "spec.desktop.home.storageClassName",
            "the home folder is a Docker volume",
        );
    }
    desktop.volumes.iter().for_each(|volume| volume_problems(problems, volume));
    desktop.volume_mounts.iter().for_each(|mount| mount_problems(problems, mount));
    if let Some(resources) = &desktop.resources {
        resource_problems(problems, resources);
    }
    if let Some(context) = &desktop.security_context {
        security_context_problems(problems, context);
    }
}

fn volume_problems(problems: &mut Problems, volume: &Volume) {
    let field = format!("spec.desktop.volumes[{}]", volume.name);
    let supported =
        volume.empty_dir.is_some() || volume.host_path.is_some() || volume.persistent_volume_claim.is_some();
    problems.unsupported(
        !supported,
        &field,
        "use emptyDir, hostPath, or persistentVolumeClaim, whose claimName is a Docker volume",
    );
    let kind = volume.host_path.as_ref().and_then(|path| path.type_.as_deref()).unwrap_or_default();
    problems.unsupported(
        !["", "Directory", "File", "Socket", "CharDevice", "BlockDevice"].contains(&kind),
        &format!("{field}.hostPath.type"),
        "create the path yourself",
    );
}

fn mount_problems(problems: &mut Problems, mount: &VolumeMount) {
    let has_unsupported_field =
        mount.sub_path.is_some() || mount.sub_path_expr.is_some() || mount.mount_propagation.is_some();
    problems.unsupported(
        has_unsupported_field || mount.recursive_read_only.is_some(),
        &format!("spec.desktop.volumeMounts[{}]", mount.name),
        "use only name, mountPath and readOnly",
    );
}

fn resource_problems(problems: &mut Problems, resources: &ResourceRequirements) {
    let all = [("requests", &resources.requests), ("limits", &resources.limits)];
    for (part, list) in all {
        for (name, quantity) in list.iter().flat_map(|list| list.iter()) {
            let field = format!("spec.desktop.resources.{part}.{name}");
            if name == "cpu" || name == "memory" {
                problems.require(
                    amount(quantity).is_some_and(|it| it.as_f64() >= 0.0),
                    &field,
                    "must be a quantity such as 500m, 2 or 4Gi",
                );
            } else {
                problems.unsupported(true, &field, "use only cpu and memory");
            }
        }
    }
    problems.unsupported(
        resources.claims.is_some(),
        "spec.desktop.resources.claims",
        "request the GPU with spec.gpu",
    );
}

fn security_context_problems(problems: &mut Problems, context: &SecurityContext) {
    const FIELD: &str = "spec.desktop.securityContext";
    let SecurityContext {
        allow_privilege_escalation: _,
        capabilities: _,
        privileged: _,
        read_only_root_filesystem: _,
        run_as_group: _,
        run_as_user,
        run_as_non_root,
        app_armor_profile,
        proc_mount,
        se_linux_options,
        seccomp_profile,
        windows_options,
    } = context;
    let contradictory = *run_as_user == Some(0) && *run_as_non_root == Some(true);
    problems.require(!contradictory, FIELD, "runAsUser 0 contradicts runAsNonRoot");
    let profile = seccomp_profile.as_ref().map_or("RuntimeDefault", |profile| profile.type_.as_str());
    problems.unsupported(
        profile != "RuntimeDefault" && profile != "Unconfined",
        &format!("{FIELD}.seccompProfile"),
        "use RuntimeDefault or Unconfined",
    );
    let others = [app_armor_profile.is_some(), proc_mount.is_some(), se_linux_options.is_some()];
    problems.unsupported(
        others.contains(&true) || windows_options.is_some(),
        FIELD,
        "use only runAsUser, runAsGroup, capabilities, privileged, readOnlyRootFilesystem and seccompProfile",
    );
}

fn viewer_problems(problems: &mut Problems, stream: &DesktopStream) {
    let viewers = &stream.spec.viewers;
    let publish = "set the published port with the annotation desktopstream.dev/publish";
    problems.unsupported(viewers.ingress.is_some(), "spec.viewers.ingress", publish);
    let service = &viewers.service;
    problems.unsupported(service.kind != ServiceType::ClusterIP, "spec.viewers.service.type", publish);
    problems.unsupported(service.port != 80, "spec.viewers.service.port", publish);
    problems.unsupported(!service.annotations.is_empty(), "spec.viewers.service.annotations", publish);
    problems.unsupported(
        viewers.auth.secret_name.is_some(),
        "spec.viewers.auth.secretName",
        "the operator creates a token; `operator docker open` uses it",
    );
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use operator_plan::testing::stream;

    fn problems(changes: &Value) -> String {
        validate(&stream(changes), &"team".parse().expect("a project"))
            .map_or_else(|invalid| invalid.to_string(), |_| String::new())
    }

    #[test]
    fn unsupported_field_is_refused_by_name() {
        for (changes, field) in [
            (json!({"metadata": {"namespace": "other"}}), "metadata.namespace"),
            (json!({"spec": {"viewers": {"ingress": {"host": "a.b"}}}}), "spec.viewers.ingress"),
            (json!({"spec": {"viewers": {"service": {"type": "NodePort"}}}}), "spec.viewers.service.type"),
            (json!({"spec": {"viewers": {"service": {"port": 8080}}}}), "spec.viewers.service.port"),
            (json!({"spec": {"viewers": {"auth": {"secretName": "s"}}}}), "spec.viewers.auth.secretName"),
            (json!({"spec": {"desktop": {"nodeSelector": {"a": "b"}}}}), "spec.desktop.nodeSelector"),
            (
                json!({"spec": {"desktop": {"tolerations": [{"operator": "Exists"}]}}}),
                "spec.desktop.tolerations",
            ),
            (
                json!({"spec": {"desktop": {"imagePullSecrets": [{"name": "s"}]}}}),
                "spec.desktop.imagePullSecrets",
            ),
            (
                json!({"spec": {"desktop": {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]}}}),
                "spec.desktop.env.valueFrom",
            ),
            (
                json!({"spec": {"desktop": {"home": {"size": "1Gi", "storageClassName": "fast"}}}}),
                "spec.desktop.home.storageClassName",
            ),
            (
                json!({"spec": {"desktop": {"volumes": [{"name": "c", "configMap": {"name": "c"}}]}}}),
                "spec.desktop.volumes[c]",
            ),
            (
                json!({"spec": {"desktop": {"resources": {"limits": {"nvidia.com/gpu": "1"}}}}}),
                "spec.desktop.resources.limits.nvidia.com/gpu",
            ),
            (
                json!({"spec": {"desktop": {"securityContext": {"procMount": "Unmasked"}}}}),
                "spec.desktop.securityContext",
            ),
            (
                json!({"metadata": {"annotations": {"desktopstream.dev/publish": "x"}}}),
                "metadata.annotations",
            ),
            (
                json!({"spec": {"desktop": null, "attach": {"kind": "Deployment", "name": "d"}}}),
                "spec.attach.kind",
            ),
        ] {
            let problems = problems(&changes);
            assert!(problems.contains(&format!("{field}: ")), "{field}: {problems:?}");
        }
    }

    #[test]
    fn invalid_and_unsupported_fields_are_reported_together() {
        let problems =
            problems(&json!({"spec": {"capture": {"width": 3}, "viewers": {"ingress": {"host": "a.b"}}}}));
        assert!(
            problems.contains("spec.capture.width") && problems.contains("spec.viewers.ingress"),
            "{problems}"
        );
    }

    #[test]
    fn malformed_quantity_is_refused() {
        for cpu in ["x", "-1", "NaN"] {
            let problems = problems(&json!({"spec": {"desktop": {"resources": {"limits": {"cpu": cpu}}}}}));
            assert!(problems.contains("spec.desktop.resources.limits.cpu: "), "{cpu}: {problems:?}");
        }
    }

    #[test]
    fn short_form_of_a_desktop_is_accepted() {
        let changes = json!({"spec": {"desktop": {
            "home": {"size": "1Gi"}, "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}},
            "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "hostPath": {"path": "/srv"}}],
            "securityContext": {"runAsUser": 1001, "capabilities": {"add": ["SYS_NICE"]}},
        }}});
        assert_eq!(problems(&changes), "");
    }
}
