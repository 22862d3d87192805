//! A node's daemons, containerd, kubelet and kube-proxy, and their configuration files.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::addresses::{self, DOMAIN, HUB, PODS};
use crate::control_plane::flag;
use crate::daemon::{Daemon, Launch};
use crate::image::PAUSE;
use crate::machine::Machine;
use crate::pki::Pki;
use crate::tools::Tools;

/// Path of containerd's socket in each node.
pub(crate) const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

/// A node to configure.
pub(crate) struct Node<'a> {
    pub(crate) machine: &'a Machine,
    pub(crate) number: u8,
    pub(crate) cgroup: &'a str,
}

impl Node<'_> {
    /// containerd, which does not need the apiserver.
    pub(crate) fn containerd(&self, tools: &Tools) -> Result<Launch> {
        let network = self.machine.folder.join("cni");
        fs::create_dir_all(&network)?;
        write_json(&network.join("10-pods.conflist"), &network_of_pods(self.number))?;
        let config = self.machine.folder.join("containerd.toml");
        let text = containerd_config(tools.folder("cni")?, &network);
        fs::write(&config, text)?;
        let arguments = [flag("config", config.display())];
        Ok(Launch::new(Daemon::Containerd(self.number), self.machine, &arguments))
    }

    /// kubelet and kube-proxy.
    pub(crate) fn kubernetes(&self, pki: &Pki) -> Result<[Launch; 2]> {
        let name = &self.machine.name;
        let folder = &self.machine.folder;
        let own = addresses::node(self.number);
        // Pods with `dnsPolicy: Default` also use the cluster's DNS server: the network has no other.
        let resolv = folder.join("resolv.conf");
        fs::write(&resolv, format!("nameserver {HUB}\n"))?;

        let config = folder.join("kubelet.json");
        write_json(
            &config,
            &kubelet_config(&pki.file("ca.crt"), self.cgroup, &resolv.display().to_string()),
        )?;
        let user = pki.kubeconfig(&format!("system:node:{name}"), Some("system:nodes"))?;
        let kubelet = [
            flag("kubeconfig", user.display()),
            flag("config", config.display()),
            flag("node-ip", own),
            flag("hostname-override", name),
        ];

        let config = folder.join("kube-proxy.json");
        let user = pki.kubeconfig("system:kube-proxy", None)?;
        write_json(&config, &proxy_config(&user.display().to_string(), name, &own.to_string()))?;
        let proxy = [flag("config", config.display())];
        Ok([
            Launch::new(Daemon::Kubelet(self.number), self.machine, &kubelet),
            Launch::new(Daemon::Proxy(self.number), self.machine, &proxy),
        ])
    }
}

pub(crate) fn containerd_config(plugins: &Path, network: &Path) -> String {
    // By default containerd unpacks images with erofs, needs a recent mkfs.erofs for it, and without one disables the CRI plugin.
    format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.differ.v1.erofs", "io.containerd.snapshotter.v1.erofs", "io.containerd.mount-handler.v1.erofs"]
[grpc]
address = "{CONTAINERD_SOCKET}"
[plugins.'io.containerd.internal.v1.opt']
path = "/var/lib/containerd/opt"
[plugins.'io.containerd.transfer.v1.local']
unpack_config = [{{platform = "linux", snapshotter = "overlayfs", differ = "walking"}}]
[plugins.'io.containerd.cri.v1.images']
snapshotter = "overlayfs"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{PAUSE}"
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["{}"]
conf_dir = "{}"
"#,
        plugins.display(),
        network.display()
    )
}

/// CNI configuration with one route per pod. On a bridge, packets between pods of one node would bypass kube-proxy's rules
/// unless the kernel has br_netfilter.
pub(crate) fn network_of_pods(number: u8) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": addresses::pods(number)}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

/// Configuration of a kubelet whose pods are below `cgroup`.
pub(crate) fn kubelet_config(authority: &str, cgroup: &str, resolv: &str) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": authority},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{cgroup}"),
        "failCgroupV1": false,
        "failSwapOn": false,
        "enforceNodeAllocatable": [],
        // A developer's disk is fuller than a server's, and its images are not the kubelet's to delete.
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "clusterDNS": [HUB],
        "clusterDomain": DOMAIN,
        "resolvConf": resolv,
        "nodeStatusUpdateFrequency": "5s",
        // The default is a folder in /usr, which the kubelet would create on the host.
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
    })
}

pub(crate) fn proxy_config(kubeconfig: &str, name: &str, own: &str) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": kubeconfig},
        "clusterCIDR": PODS,
        "hostnameOverride": name,
        "bindAddress": own,
        "healthzBindAddress": format!("{own}:10256"),
        // Zero keeps the host's settings.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "iptables": {"minSyncPeriod": "0.2s"},
    })
}

/// Imports an image on a node.
pub(crate) fn import(machine: &Machine, tools: &Tools, archive: &Path, reference: &str) -> Result<()> {
    let ctr = tools.program("ctr")?.display().to_string();
    let archive = archive.display().to_string();
    machine.run(&[&ctr, "--address", CONTAINERD_SOCKET, "-n", "k8s.io", "images", "import", &archive])?;
    let listed =
        machine.run(&[&ctr, "--address", CONTAINERD_SOCKET, "-n", "k8s.io", "images", "list", "-q"])?;
    ensure!(
        listed.lines().any(|line| line == reference),
        "{reference} was imported under another name:\n{listed}"
    );
    Ok(())
}

pub(crate) fn write_json(file: &Path, value: &Value) -> Result<()> {
    fs::write(file, serde_json::to_vec_pretty(value)?).with_context(|| format!("writing {}", file.display()))
}
