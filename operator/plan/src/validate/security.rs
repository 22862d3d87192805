//! The administrator's limits on what a stream may ask for, besides the rights of its author ([`crate::rights`]).
//!
//! Pods are held to a Pod Security Standard (<https://kubernetes.io/docs/concepts/security/pod-security-standards/>), also in
//! namespaces without Pod Security admission. Fields that the author leaves out count as compliant, because the operator fills
//! them in. The chart repeats the limits in CEL (`templates/stream-policy.yaml`) for installations without the webhook.

use k8s_openapi::api::core::v1::{
    Capabilities, Container, HTTPGetAction, PodSecurityContext, PodSpec, SELinuxOptions, SeccompProfile,
    SecurityContext, TCPSocketAction, Volume,
};
use operator_api::DeviceNodes;

use super::{Check, Invalid, Validated};
use crate::kubernetes::simple;

/// Capabilities that `baseline` lets a container add.
const BASELINE_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Sysctls that `baseline` lets a pod set.
const BASELINE_SYSCTLS: [&str; 10] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_syncookies",
];
/// SELinux types that `baseline` allows.
const BASELINE_SELINUX: [&str; 4] =
    ["container_engine_t", "container_init_t", "container_kvm_t", "container_t"];
/// Volume types that `restricted` allows.
const RESTRICTED_VOLUMES: [&str; 8] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
];
/// Prefix of the annotations by which older clusters select AppArmor profiles.
const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Pod Security Standard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum PodSecurity {
    /// No access to the host, and no root.
    #[default]
    Restricted,
    /// No access to the host.
    Baseline,
    /// Unrestricted: the node is the limit.
    Privileged,
}

impl PodSecurity {
    /// All standards, the strictest first.
    pub const ALL: [Self; 3] = [Self::Restricted, Self::Baseline, Self::Privileged];

    /// Name of the standard in Kubernetes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Restricted => "restricted",
            Self::Baseline => "baseline",
            Self::Privileged => "privileged",
        }
    }
}

/// Limits of an installation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Standard that desktops may not exceed.
    pub pod_security: PodSecurity,
    /// True if `gpu.deviceNodes` may be `RenderAndCard`.
    pub card_nodes: bool,
    /// Keys of annotations that Services and Ingresses may get. `PREFIX*` stands for all keys with that prefix.
    pub annotations: Vec<String>,
    /// Hosts that Ingresses may have. `*.DOMAIN` stands for all hosts below a domain, `*` for all hosts.
    pub ingress_hosts: Vec<String>,
}

impl Policy {
    /// A policy without limits, for tests of other parts.
    #[cfg(any(test, feature = "testing"))]
    pub fn unlimited() -> Self {
        let all = || vec!["*".to_owned()];
        Self {
            pod_security: PodSecurity::Privileged,
            card_nodes: true,
            annotations: all(),
            ingress_hosts: all(),
        }
    }

    /// Returns the stream if it keeps the limits.
    ///
    /// # Errors
    /// Every field that exceeds them.
    pub fn admit(&self, stream: Validated) -> Result<Validated, Invalid> {
        let mut check = Check::default();
        self.check_pod(&mut check, &stream);
        let viewers = &stream.spec.viewers;
        check.ensure(
            self.card_nodes || stream.spec.gpu.device_nodes == DeviceNodes::RenderOnly,
            "spec.gpu.deviceNodes",
            "the administrator does not allow card nodes: set it to RenderOnly",
        );
        let ingress = viewers.ingress.as_ref();
        let annotations = [
            ("spec.viewers.service.annotations", Some(&viewers.service.annotations)),
            ("spec.viewers.ingress.annotations", ingress.map(|ingress| &ingress.annotations)),
        ];
        for (field, annotations) in annotations {
            for key in annotations.into_iter().flatten().map(|(key, _)| key) {
                check.ensure(
                    self.annotations.iter().any(|pattern| is_key(pattern, key)),
                    field,
                    &format!("the administrator does not allow annotation {key:?}: remove it"),
                );
            }
        }
        if let Some(ingress) = ingress {
            check.ensure(
                self.ingress_hosts.iter().any(|pattern| is_host(pattern, &ingress.host)),
                "spec.viewers.ingress.host",
                &format!(
                    "the administrator does not allow this host: choose one of {}",
                    self.ingress_hosts.join(", ")
                ),
            );
        }
        if check.0.is_empty() { Ok(stream) } else { Err(Invalid(check.0)) }
    }

    fn check_pod(&self, check: &mut Check, stream: &Validated) {
        let Some(desktop) = &stream.spec.desktop else { return };
        let (at, template) = match &stream.template {
            Some(template) => ("spec.desktop.podTemplate", template.clone()),
            None => ("spec.desktop", simple(desktop)),
        };
        let mut found = Vec::new();
        let notes = template.metadata.and_then(|metadata| metadata.annotations).unwrap_or_default();
        if notes.iter().any(|(key, value)| key.starts_with(APPARMOR_ANNOTATION) && value == "unconfined") {
            found.push((PodSecurity::Privileged, "an unconfined AppArmor profile".to_owned()));
        }
        pod(&template.spec.unwrap_or_default(), &mut found);
        for (needed, message) in found.into_iter().filter(|(needed, _)| *needed > self.pod_security) {
            let (allowed, needed) = (self.pod_security.name(), needed.name());
            check.ensure(
                false,
                at,
                &format!(
                    "{message} needs Pod Security {needed}, and the administrator allows {allowed}: remove it"
                ),
            );
        }
    }
}

/// True if `pattern` stands for the annotation `key`.
fn is_key(pattern: &str, key: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == key, |prefix| key.starts_with(prefix))
}

/// True if `pattern` stands for `host`.
fn is_host(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        // The domain begins with a dot, or is empty.
        Some(domain) => host.ends_with(domain),
        None => pattern == host,
    }
}

/// Parts of a pod with the least strict standard that each needs.
type Found = Vec<(PodSecurity, String)>;

fn pod(spec: &PodSpec, found: &mut Found) {
    for (name, value) in
        [("hostNetwork", spec.host_network), ("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc)]
    {
        add(found, value == Some(true), PodSecurity::Privileged, name);
    }
    spec.volumes.iter().flatten().for_each(|it| volume(it, found));
    if let Some(security) = &spec.security_context {
        pod_context(security, found);
    }
    let inits = spec.init_containers.iter().flatten();
    inits.chain(&spec.containers).for_each(|it| container(it, found));
}

fn add(found: &mut Found, present: bool, needs: PodSecurity, text: impl Into<String>) {
    if present {
        found.push((needs, text.into()));
    }
}

fn volume(volume: &Volume, found: &mut Found) {
    add(
        found,
        volume.host_path.is_some(),
        PodSecurity::Privileged,
        format!("hostPath volume {}", volume.name),
    );
    let value = serde_json::to_value(volume).unwrap_or_default();
    for kind in value.as_object().into_iter().flatten().map(|(key, _)| key.as_str()) {
        let is_plain = RESTRICTED_VOLUMES.contains(&kind) || ["name", "hostPath"].contains(&kind);
        add(found, !is_plain, PodSecurity::Baseline, format!("{kind} volume {}", volume.name));
    }
}

fn pod_context(security: &PodSecurityContext, found: &mut Found) {
    let sysctls = security.sysctls.iter().flatten();
    for sysctl in sysctls.filter(|it| !BASELINE_SYSCTLS.contains(&it.name.as_str())) {
        add(found, true, PodSecurity::Privileged, format!("sysctl {}", sysctl.name));
    }
    let windows = security.windows_options.as_ref().and_then(|it| it.host_process);
    add(found, windows == Some(true), PodSecurity::Privileged, "hostProcess");
    let apparmor = security.app_armor_profile.as_ref().map(|it| it.type_.as_str());
    profiles(security.seccomp_profile.as_ref(), apparmor, security.se_linux_options.as_ref(), found);
    user(security.run_as_user, security.run_as_non_root, found);
}

fn container(container: &Container, found: &mut Found) {
    let ports = container.ports.iter().flatten();
    for port in ports.filter_map(|port| port.host_port).filter(|port| *port != 0) {
        add(found, true, PodSecurity::Privileged, format!("hostPort {port}"));
    }
    let probes = [&container.liveness_probe, &container.readiness_probe, &container.startup_probe];
    let hooks = container.lifecycle.as_ref().map(|it| [&it.post_start, &it.pre_stop]);
    let mut probes = probes.into_iter().flatten();
    let mut hooks = hooks.into_iter().flatten().flatten();
    let has_host = probes.any(|it| names_host(it.http_get.as_ref(), it.tcp_socket.as_ref()))
        || hooks.any(|it| names_host(it.http_get.as_ref(), it.tcp_socket.as_ref()));
    add(found, has_host, PodSecurity::Privileged, "a probe or hook of another host");
    if let Some(security) = &container.security_context {
        container_context(security, found);
    }
}

/// True if a probe or hook names the host that it connects to.
fn names_host(http: Option<&HTTPGetAction>, tcp: Option<&TCPSocketAction>) -> bool {
    let hosts = [http.and_then(|it| it.host.as_deref()), tcp.and_then(|it| it.host.as_deref())];
    hosts.into_iter().flatten().any(|host| !host.is_empty())
}

fn container_context(security: &SecurityContext, found: &mut Found) {
    add(found, security.privileged == Some(true), PodSecurity::Privileged, "privileged");
    let proc_mount = security.proc_mount.as_deref().is_some_and(|it| it != "Default");
    add(found, proc_mount, PodSecurity::Privileged, "procMount");
    let windows = security.windows_options.as_ref().and_then(|it| it.host_process);
    add(found, windows == Some(true), PodSecurity::Privileged, "hostProcess");
    let escalates = security.allow_privilege_escalation == Some(true);
    add(found, escalates, PodSecurity::Baseline, "allowPrivilegeEscalation");
    if let Some(all) = &security.capabilities {
        capabilities(all, found);
    }
    let apparmor = security.app_armor_profile.as_ref().map(|it| it.type_.as_str());
    profiles(security.seccomp_profile.as_ref(), apparmor, security.se_linux_options.as_ref(), found);
    user(security.run_as_user, security.run_as_non_root, found);
}

fn capabilities(all: &Capabilities, found: &mut Found) {
    for name in all.add.iter().flatten() {
        let needs = match name.as_str() {
            "NET_BIND_SERVICE" => continue,
            name if BASELINE_CAPABILITIES.contains(&name) => PodSecurity::Baseline,
            _ => PodSecurity::Privileged,
        };
        add(found, true, needs, format!("capability {name}"));
    }
    let drops_all = all.drop.iter().flatten().any(|name| name == "ALL");
    add(found, !drops_all, PodSecurity::Baseline, "capabilities without drop: [ALL]");
}

fn profiles(
    seccomp: Option<&SeccompProfile>,
    apparmor: Option<&str>,
    selinux: Option<&SELinuxOptions>,
    found: &mut Found,
) {
    let seccomp = seccomp.is_some_and(|it| it.type_ == "Unconfined");
    add(found, seccomp, PodSecurity::Privileged, "an unconfined seccomp profile");
    add(found, apparmor == Some("Unconfined"), PodSecurity::Privileged, "an unconfined AppArmor profile");
    let Some(selinux) = selinux else { return };
    let is_set = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    let kind = selinux.type_.as_deref().unwrap_or_default();
    let is_special = is_set(&selinux.user)
        || is_set(&selinux.role)
        || !(kind.is_empty() || BASELINE_SELINUX.contains(&kind));
    add(found, is_special, PodSecurity::Privileged, "an SELinux user, role or type");
}

fn user(uid: Option<i64>, non_root: Option<bool>, found: &mut Found) {
    add(found, uid == Some(0), PodSecurity::Baseline, "runAsUser 0");
    add(found, non_root == Some(false), PodSecurity::Baseline, "runAsNonRoot false");
}

/// True if a container of a pod template requests devices of this project by itself.
pub(super) fn requests_devices(container: &Container) -> bool {
    let resources = container.resources.as_ref();
    let all = resources.into_iter().flat_map(|it| [&it.requests, &it.limits]).flatten();
    all.flat_map(|it| it.keys()).any(|name| name.starts_with(operator_api::names::RESOURCE_DOMAIN))
}

#[cfg(test)]
mod tests;
