//! VMs of the lab as nodes of a cluster.
//!
//! ```text
//! Cluster::connect_vm(n) ─▶ lab::Network ─▶ Vm::boot, with the payload of add_to_payload ─▶ Cluster::join(n, vm)
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
use crate::progress;
use crate::tools::Tools;

/// A node's programs, and the programs that these run.
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
/// Folder in the payload.
const FOLDER: &str = "node";
/// Folder in the guest for the files of this boot.
const FILES: &str = "/run/node";
/// Limit of each step on an emulated processor.
const STEP_TIMEOUT: Duration = Duration::from_mins(6);
/// Interval between two looks into the guest. Long, as each look takes time of an emulated processor.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Adds a node's programs and images to a payload folder. A VM that boots with images of disks needs those disks.
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

/// Name of node `number`.
pub fn name(number: u8) -> String {
    format!("vm{number}")
}

fn mac(number: u8) -> String {
    format!("52:54:00:88:00:{number:02x}")
}

impl Cluster {
    /// Creates the network interface of the VM that becomes node `number`, unless it exists. The number must not be that of
    /// a machine.
    pub fn connect_vm(&self, number: u8) -> Result<Network> {
        let (hub, interface) = (self.hub(), name(number));
        if hub.run(&["ip", "link", "show", &interface]).is_err() {
            hub.run(&["ip", "tuntap", "add", "dev", &interface, "mode", "tap"])?;
            hub.run(&["ip", "link", "set", &interface, "master", "br0", "up"])?;
            let own = addresses::node(number).to_string();
            hub.run(&["ip", "route", "add", &addresses::pods(number), "via", &own])?;
        }
        Ok(Network { namespace: hub.network_file(), interface, mac: mac(number) })
    }

    /// Starts the node's daemons in a VM that was booted with its network and the payload of [`add_to_payload`]; returns when
    /// the node is ready.
    pub fn join(&self, number: u8, vm: &Vm) -> Result<()> {
        let begin = Instant::now();
        let done =
            |step: &str| progress!("{:5.1} s  {}: {step}", begin.elapsed().as_secs_f64(), name(number));
        let files = tempfile::tempdir()?;
        self.write_files(number, files.path())?;
        let guest = vm.guest();
        guest.copy_to(files.path(), FILES)?;
        let node = |arguments: &str| guest.check(&format!("{FILES}/node {arguments}"));
        node(&format!("network {} {}/{MACHINES_PREFIX} {HUB}", mac(number), addresses::node(number)))?;
        node("start containerd")?;
        let ctr = format!("/payload/{FOLDER}/ctr --address {} version", node::CONTAINERD_SOCKET);
        await_guest("containerd", vm, || Ok(guest.exec(&ctr)?.success()))?;
        done("containerd");
        node("import")?;
        done("images");
        node("start kubelet")?;
        node("start kube-proxy")?;
        let name = name(number);
        let ready = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        await_guest(&format!("node {name}"), vm, || {
            Ok(self.try_kubectl(&["get", "node", &name, "-o", ready])?.stdout == "True")
        })?;
        done("ready");
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

fn await_guest(subject: &str, vm: &Vm, mut is_ready: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + STEP_TIMEOUT;
    while !is_ready()? {
        if Instant::now() > deadline {
            let logs = vm.guest().exec("tail -n 15 /var/log/containerd.log /var/log/kubelet.log")?;
            anyhow::bail!("{subject}: not ready after {} s\n{}", STEP_TIMEOUT.as_secs(), logs.stdout);
        }
        std::thread::sleep(RETRY_INTERVAL);
    }
    Ok(())
}
