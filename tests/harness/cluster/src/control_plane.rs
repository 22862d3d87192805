//! The hub's daemons: etcd, apiserver, controller manager, scheduler and CoreDNS.

use std::fs;

use anyhow::Result;

use crate::addresses::{API_PORT, DOMAIN, HUB, PODS, SERVICES};
use crate::daemon::{Daemon, Launch};
use crate::machine::Machine;
use crate::pki::Pki;

/// etcd and the apiserver.
pub(crate) fn servers(hub: &Machine, pki: &Pki) -> [Launch; 2] {
    let etcd = [
        flag("data-dir", "/var/lib/etcd"),
        // A test cluster does not outlive a crash of the host.
        "--unsafe-no-fsync".to_owned(),
        flag("log-level", "warn"),
    ];
    let apiserver = [
        flag("etcd-servers", "http://127.0.0.1:2379"),
        flag("advertise-address", HUB),
        flag("secure-port", API_PORT),
        flag("service-cluster-ip-range", SERVICES),
        flag("client-ca-file", pki.file("ca.crt")),
        flag("tls-cert-file", pki.file("apiserver.crt")),
        flag("tls-private-key-file", pki.file("apiserver.key")),
        flag("kubelet-client-certificate", pki.file("apiserver-to-kubelet.crt")),
        flag("kubelet-client-key", pki.file("apiserver-to-kubelet.key")),
        // Node names do not resolve as host names.
        flag("kubelet-preferred-address-types", "InternalIP"),
        flag("service-account-issuer", format!("https://kubernetes.default.svc.{DOMAIN}")),
        flag("service-account-signing-key-file", pki.file("tokens.key")),
        flag("service-account-key-file", pki.file("tokens.pub")),
        flag("authorization-mode", "Node,RBAC"),
        flag("enable-admission-plugins", "NodeRestriction"),
        "--allow-privileged".to_owned(),
        // The apiserver calls webhooks by pod address: the hub has no kube-proxy.
        "--enable-aggregator-routing".to_owned(),
        flag("profiling", false),
    ];
    [Launch::new(Daemon::Etcd, hub, &etcd), Launch::new(Daemon::Apiserver, hub, &apiserver)]
}

/// The daemons that are clients of the apiserver.
pub(crate) fn clients(hub: &Machine, pki: &Pki) -> Result<[Launch; 3]> {
    let kubeconfig = |user: &str| Ok::<_, anyhow::Error>(pki.kubeconfig(user, None)?.display().to_string());
    let controllers = [
        flag("kubeconfig", kubeconfig("system:kube-controller-manager")?),
        flag("service-account-private-key-file", pki.file("tokens.key")),
        flag("root-ca-file", pki.file("ca.crt")),
        flag("cluster-cidr", PODS),
        // The default is a folder in /usr, which the program would create on the host.
        flag("flex-volume-plugin-dir", "/var/lib/volume-plugins"),
        "--use-service-account-credentials".to_owned(),
        flag("leader-elect", false),
        flag("profiling", false),
    ];
    let scheduler = [
        flag("kubeconfig", kubeconfig("system:kube-scheduler")?),
        flag("leader-elect", false),
        flag("profiling", false),
    ];
    let corefile = hub.folder.join("Corefile");
    let reader = pki.kubeconfig("coredns", Some("system:masters"))?;
    fs::write(&corefile, corefile_of(&reader.display().to_string()))?;
    let dns = [format!("-conf={}", corefile.display())];
    Ok([
        Launch::new(Daemon::Controllers, hub, &controllers),
        Launch::new(Daemon::Scheduler, hub, &scheduler),
        Launch::new(Daemon::Dns, hub, &dns),
    ])
}

fn corefile_of(kubeconfig: &str) -> String {
    format!(
        ".:53 {{
    bind {HUB}
    errors
    ready {HUB}:8181
    kubernetes {DOMAIN} in-addr.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
        fallthrough in-addr.arpa
        ttl 5
    }}
    cache 5
}}
"
    )
}

pub(crate) fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}
