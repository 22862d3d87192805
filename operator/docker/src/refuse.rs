//! What Docker can't do of a stream: refused by the field's name, with what to write instead.

use k8s_openapi::api::core::v1::{ResourceRequirements, SecurityContext, Volume, VolumeMount};

use super::names;
use operator_api::{Desktop, DesktopStream, ServiceType, WorkloadKind};
use operator_plan::validate::{Invalid, Problem, Validated, bytes, validate};

/// A stream that makes sense, and does on Docker.
pub fn check(stream: &DesktopStream, project: &str) -> Result<Validated, Invalid> {
    let mut said = Said::default();
    let valid = match validate(stream) {
        Ok(valid) => Some(valid),
        Err(Invalid(problems)) => {
            said.0 = problems;
            None
        }
    };
    let namespace = stream.metadata.namespace.as_deref();
    said.ensure(
        namespace.is_none_or(|it| it == project),
        "metadata.namespace",
        &format!("Docker has projects instead: remove it, or run with --project {}", namespace.unwrap_or("")),
    );
    let publish = stream.metadata.annotations.iter().flatten().find(|(key, _)| *key == names::PUBLISH);
    said.ensure(
        publish.is_none_or(|(_, text)| Publish::read(text).is_some()),
        "metadata.annotations",
        "desktopstream.dev/publish is [IP:]PORT, such as 8090 or 0.0.0.0:8090",
    );
    if let Some(desktop) = &stream.spec.desktop {
        refuse_desktop(&mut said, desktop);
    }
    if let Some(attach) = &stream.spec.attach {
        said.ensure(
            attach.kind == WorkloadKind::Pod,
            "spec.attach.kind",
            "Docker has no workloads: write Pod, and label your container desktopstream.dev/attach=NAME",
        );
        said.none(
            attach.container.is_some(),
            "spec.attach.container",
            "the labelled container is the desktop",
        );
    }
    refuse_viewers(&mut said, stream);
    match valid {
        Some(valid) if said.0.is_empty() => Ok(Validated { namespace: project.to_owned(), ..valid }),
        _ => Err(Invalid(said.0)),
    }
}

/// Where the viewers' port is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// On this address of the machine.
    pub ip: std::net::IpAddr,
    /// There; any free port if 0.
    pub port: u16,
}

impl Publish {
    /// This machine alone, any port.
    pub const LOCAL: Self = Self { ip: std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), port: 0 };

    /// `8090`, `0.0.0.0:8090`, `[::1]:8090`.
    pub fn read(text: &str) -> Option<Self> {
        if let Ok(port) = text.parse() {
            return Some(Self { port, ..Self::LOCAL });
        }
        let address: std::net::SocketAddr = text.parse().ok()?;
        Some(Self { ip: address.ip(), port: address.port() })
    }

    /// What a stream asks for.
    pub fn of(stream: &DesktopStream) -> Self {
        let text = stream.metadata.annotations.as_ref().and_then(|all| all.get(names::PUBLISH));
        text.and_then(|text| Self::read(text)).unwrap_or(Self::LOCAL)
    }
}

#[derive(Default)]
struct Said(Vec<Problem>);

impl Said {
    fn ensure(&mut self, holds: bool, field: &str, message: &str) {
        if !holds {
            self.0.push(Problem { field: field.to_owned(), message: message.to_owned() });
        }
    }

    /// A field that must be absent, and what to do without it.
    fn none(&mut self, is_there: bool, field: &str, instead: &str) {
        self.ensure(!is_there, field, &format!("Docker can't do this: remove it; {instead}"));
    }
}

fn refuse_desktop(said: &mut Said, desktop: &Desktop) {
    said.none(
        desktop.pod_template.is_some(),
        "spec.desktop.podTemplate",
        "write image, command, args, env, volumes and resources of spec.desktop",
    );
    said.none(
        !desktop.node_selector.is_empty(),
        "spec.desktop.nodeSelector",
        "there is one machine; choose its GPU by spec.gpu.class",
    );
    said.none(!desktop.tolerations.is_empty(), "spec.desktop.tolerations", "there is one machine");
    said.none(
        !desktop.image_pull_secrets.is_empty(),
        "spec.desktop.imagePullSecrets",
        "pull the image by `docker login` and `docker pull`",
    );
    said.none(
        desktop.env.iter().any(|env| env.value_from.is_some()),
        "spec.desktop.env.valueFrom",
        "write value",
    );
    if let Some(home) = &desktop.home {
        said.none(
            home.storage_class_name.is_some(),
            "spec.desktop.home.storageClassName",
            "the home folder is a Docker volume",
        );
    }
    desktop.volumes.iter().for_each(|volume| refuse_volume(said, volume));
    desktop.volume_mounts.iter().for_each(|mount| refuse_mount(said, mount));
    if let Some(resources) = &desktop.resources {
        refuse_resources(said, resources);
    }
    if let Some(context) = &desktop.security_context {
        refuse_context(said, context);
    }
}

fn refuse_volume(said: &mut Said, volume: &Volume) {
    let field = format!("spec.desktop.volumes[{}]", volume.name);
    let can =
        volume.empty_dir.is_some() || volume.host_path.is_some() || volume.persistent_volume_claim.is_some();
    said.none(
        !can,
        &field,
        "volumes may be emptyDir, hostPath, or persistentVolumeClaim, whose claimName is a Docker volume",
    );
    let kind = volume.host_path.as_ref().and_then(|path| path.type_.as_deref()).unwrap_or_default();
    said.none(
        !["", "Directory", "File", "Socket", "CharDevice", "BlockDevice"].contains(&kind),
        &format!("{field}.hostPath.type"),
        "make it yourself",
    );
}

fn refuse_mount(said: &mut Said, mount: &VolumeMount) {
    let parts =
        mount.sub_path.is_some() || mount.sub_path_expr.is_some() || mount.mount_propagation.is_some();
    said.none(
        parts || mount.recursive_read_only.is_some(),
        &format!("spec.desktop.volumeMounts[{}]", mount.name),
        "of a mount, only name, mountPath and readOnly",
    );
}

fn refuse_resources(said: &mut Said, resources: &ResourceRequirements) {
    let all = [("requests", &resources.requests), ("limits", &resources.limits)];
    for (part, list) in all {
        for (name, quantity) in list.iter().flat_map(|list| list.iter()) {
            let field = format!("spec.desktop.resources.{part}.{name}");
            if name == "cpu" || name == "memory" {
                let reads = if name == "cpu" { cpus(&quantity.0) } else { bytes(quantity) };
                said.ensure(reads.is_some(), &field, "write a quantity such as 500m, 2 or 4Gi");
            } else {
                said.none(true, &field, "only cpu and memory");
            }
        }
    }
    said.none(
        resources.claims.is_some(),
        "spec.desktop.resources.claims",
        "the GPU is asked for by spec.gpu",
    );
}

/// Cores: `2`, `500m`.
pub(super) fn cpus(text: &str) -> Option<f64> {
    let (number, factor) = text.strip_suffix('m').map_or((text, 1.0), |number| (number, 0.001));
    Some(number.parse::<f64>().ok().filter(|it| it.is_finite() && *it >= 0.0)? * factor)
}

fn refuse_context(said: &mut Said, context: &SecurityContext) {
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
    let root = *run_as_user == Some(0) && *run_as_non_root == Some(true);
    said.ensure(!root, FIELD, "runAsUser 0 and runAsNonRoot exclude each other");
    let profile = seccomp_profile.as_ref().map_or("RuntimeDefault", |profile| profile.type_.as_str());
    said.none(
        profile != "RuntimeDefault" && profile != "Unconfined",
        &format!("{FIELD}.seccompProfile"),
        "RuntimeDefault or Unconfined",
    );
    let others = [app_armor_profile.is_some(), proc_mount.is_some(), se_linux_options.is_some()];
    said.none(
        others.contains(&true) || windows_options.is_some(),
        FIELD,
        "of it, runAsUser, runAsGroup, capabilities, privileged, readOnlyRootFilesystem, seccompProfile",
    );
}

fn refuse_viewers(said: &mut Said, stream: &DesktopStream) {
    let viewers = &stream.spec.viewers;
    let publish = "the annotation desktopstream.dev/publish says where the port is published";
    said.none(viewers.ingress.is_some(), "spec.viewers.ingress", publish);
    let service = &viewers.service;
    said.none(service.kind != ServiceType::ClusterIP, "spec.viewers.service.type", publish);
    said.none(service.port != 80, "spec.viewers.service.port", publish);
    said.none(!service.annotations.is_empty(), "spec.viewers.service.annotations", publish);
    said.none(
        viewers.auth.secret_name.is_some(),
        "spec.viewers.auth.secretName",
        "we make a token; `operator docker open` has it",
    );
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use operator_plan::testing::stream;

    fn said(changes: &Value) -> String {
        check(&stream(changes), "team").map_or_else(|invalid| invalid.to_string(), |_| String::new())
    }

    #[test]
    fn what_docker_cannot_do_is_named() {
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
            let said = said(&changes);
            assert!(said.contains(&format!("{field}: ")), "{field}: {said:?}");
        }
    }

    #[test]
    fn what_both_engines_refuse_is_refused_beside_it() {
        let said = said(&json!({"spec": {"capture": {"width": 3}, "viewers": {"ingress": {"host": "a.b"}}}}));
        assert!(said.contains("spec.capture.width") && said.contains("spec.viewers.ingress"), "{said}");
    }

    #[test]
    fn the_short_form_is_taken() {
        let changes = json!({"spec": {"desktop": {
            "home": {"size": "1Gi"}, "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}},
            "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "hostPath": {"path": "/srv"}}],
            "securityContext": {"runAsUser": 1001, "capabilities": {"add": ["SYS_NICE"]}},
        }}});
        assert_eq!(said(&changes), "");
        assert_eq!(cpus("500m"), Some(0.5));
        assert_eq!((cpus("x"), cpus("-1"), cpus("NaN")), (None, None, None));
        assert_eq!(Publish::read("0.0.0.0:80").map(|it| it.port), Some(80));
    }
}
