//! A VM as a node: its cable to the hub's bridge, the programs and images that it boots with, and what makes it a member.
//!
//! ```text
//! Cluster::cable(n) ─▶ lab::Network ─▶ Vm::boot, with Payload's folder ─▶ Cluster::join(n, vm)
//! ```

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use lab::{Network, Vm};

use crate::addresses::{self, HUB, MACHINES_PREFIX};
use crate::cluster::Cluster;
use crate::image::{Image, PAUSE, PROBE};
use crate::node;
use crate::tools::Tools;

/// What a node runs, and what these run.
const PROGRAMS: [&str; 10] = [
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "runc",
    "kubelet",
    "kube-proxy",
    "loopback",
    "ptp",
    "host-local",
    "portmap",
];
const SCRIPT: &str = include_str!("vm/node.sh");
/// In the payload.
const FOLDER: &str = "node";
/// In the guest, for this boot.
const FILES: &str = "/run/node";
const PATIENCE: Duration = Duration::from_mins(3);

/// Adds programs and images to a payload's folder; images on disks need those disks in the VM.
pub fn add_to_payload(payload: &Path, tools: &Tools, images: &[Image]) -> Result<()> {
    let folder = payload.join(FOLDER);
    fs::create_dir_all(&folder)?;
    for name in PROGRAMS {
        fs::copy(tools.program(name)?, folder.join(name)).with_context(|| format!("copying {name}"))?;
    }
    let own = [(PAUSE, "pause"), (PROBE, "probe")];
    let own = own.map(|(reference, name)| Ok(Image::of_program(reference, &tools.program(name)?)));
    let mut all = own.into_iter().collect::<Result<Vec<_>>>()?;
    all.extend_from_slice(images);
    Image::write_for_vm(&all, &folder, &format!("/payload/{FOLDER}"))
}

/// The name that the node of that number has.
pub fn name(number: u8) -> String {
    format!("vm{number}")
}

fn mac(number: u8) -> String {
    format!("52:54:00:88:00:{number:02x}")
}

impl Cluster {
    /// Lays a cable for the VM that will be node `number`, which no machine of the cluster has, unless there is one.
    pub fn cable(&self, number: u8) -> Result<Network> {
        let (hub, interface) = (self.hub(), name(number));
        if hub.run(&["ip", "link", "show", &interface]).is_err() {
            hub.run(&["ip", "tuntap", "add", "dev", &interface, "mode", "tap"])?;
            hub.run(&["ip", "link", "set", &interface, "master", "br0", "up"])?;
            let own = addresses::node(number).to_string();
            hub.run(&["ip", "route", "add", &addresses::pods(number), "via", &own])?;
        }
        Ok(Network { namespace: hub.network_file(), interface, mac: mac(number) })
    }

    /// Makes a VM a node; returns when it is ready. It was booted with its cable and [`add_to_payload`]'s files.
    pub fn join(&self, number: u8, vm: &Vm) -> Result<()> {
        let begin = Instant::now();
        let told =
            |step: &str| crate::say!("{:5.1} s  {}: {step}", begin.elapsed().as_secs_f64(), name(number));
        let files = tempfile::tempdir()?;
        self.write_files(number, files.path())?;
        let guest = vm.guest();
        guest.copy_to(files.path(), FILES)?;
        let run = |words: &str| guest.check(&format!("{FILES}/node {words}"));
        run(&format!("cable {} {}/{MACHINES_PREFIX} {HUB}", mac(number), addresses::node(number)))?;
        run("start containerd")?;
        let ctr = format!("/payload/{FOLDER}/ctr --address {} version", node::CONTAINERD_SOCKET);
        until("containerd", vm, || Ok(guest.exec(&ctr)?.success()))?;
        told("containerd");
        run("import")?;
        told("images");
        run("start kubelet")?;
        run("start kube-proxy")?;
        let node = name(number);
        let ready = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        until(&format!("node {node}"), vm, || {
            Ok(self.try_kubectl(&["get", "node", &node, "-o", ready])?.stdout == "True")
        })?;
        told("ready");
        Ok(())
    }

    fn write_files(&self, number: u8, folder: &Path) -> Result<()> {
        let (pki, name, own) = (self.pki()?, name(number), addresses::node(number).to_string());
        let network = format!("{FILES}/cni");
        fs::create_dir(folder.join("cni"))?;
        node::write_json(&folder.join("cni/10-pods.conflist"), &node::network_of_pods(number))?;
        let plugins = format!("/payload/{FOLDER}");
        let config = node::containerd_config(Path::new(&plugins), Path::new(&network));
        fs::write(folder.join("containerd.toml"), config)?;
        let (authority, resolv) = (format!("{FILES}/ca.crt"), format!("{FILES}/resolv.conf"));
        node::write_json(&folder.join("kubelet.json"), &node::kubelet_config(&authority, "", &resolv))?;
        let proxy = node::proxy_config(&format!("{FILES}/proxy.kubeconfig"), &name, &own);
        node::write_json(&folder.join("kube-proxy.json"), &proxy)?;
        fs::write(folder.join("resolv.conf"), format!("nameserver {HUB}\n"))?;
        fs::write(folder.join("name"), &name)?;
        fs::write(folder.join("address"), &own)?;
        fs::copy(pki.file("ca.crt"), folder.join("ca.crt"))?;
        let user = pki.kubeconfig(&format!("system:node:{name}"), Some("system:nodes"))?;
        fs::copy(user, folder.join("kubelet.kubeconfig"))?;
        fs::copy(pki.kubeconfig("system:kube-proxy", None)?, folder.join("proxy.kubeconfig"))?;
        let script = folder.join("node");
        fs::write(&script, SCRIPT)?;
        fs::set_permissions(script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(())
    }
}

/// Asks rarely: each answer is work for an emulated processor.
fn until(what: &str, vm: &Vm, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so()? {
        if Instant::now() > deadline {
            let logs = vm.guest().exec("tail -n 15 /var/log/containerd.log /var/log/kubelet.log")?;
            anyhow::bail!("{what}: not within {} s\n{}", PATIENCE.as_secs(), logs.stdout);
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}
