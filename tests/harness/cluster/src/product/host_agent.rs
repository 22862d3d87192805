//! A host-agent beside the cluster, reachable at the nodes' default gateway.

use std::fs::File;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use contract::HostAgentStatus;

use super::{SYSTEM, Testbed, http};
use crate::forward::Forward;

/// Key of TLS listeners, in the cluster's folder.
const TLS_KEY: &str = "tls.key";

/// Listening addresses of a host-agent.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Port at the gateway, for sidecars.
    pub port: u16,
    /// Name of the socket in the cluster's folder, for taps.
    pub link: &'static str,
}

/// The addresses that node-agents try by default.
pub const DEFAULT: Place = Place { port: 15937, link: "link.sock" };

/// A host-agent process, and the forward to it. Both end on drop.
pub struct HostAgent {
    child: Child,
    admin: SocketAddr,
    _forward: Forward,
}

impl HostAgent {
    /// Starts a host-agent that trusts the operator's key.
    pub fn start(bed: &Testbed, name: &str) -> Result<Self> {
        Self::start_at(bed, name, DEFAULT)
    }

    /// The same at other addresses.
    pub fn start_at(bed: &Testbed, name: &str, place: Place) -> Result<Self> {
        let folder = bed.cluster.folder()?;
        let key = folder.join("host-agent.pub");
        let map = bed.get(&["-n", SYSTEM, "configmap", "desktopstream-public-key"])?;
        std::fs::write(&key, map["data"]["key.pem.pub"].as_str().context("no key in the ConfigMap")?)?;
        let (listen, admin) = (http::free_address()?, http::free_address()?);
        let log = File::options().create(true).append(true).open(folder.join("host-agent.log"))?;
        let mut command = Command::new(&bed.programs.host_agent);
        command.args(["serve", "--name", name, "--listen", &format!("tls://{listen}")]);
        command.arg("--tls-key").arg(folder.join(TLS_KEY));
        command.args(["--admin", &format!("tcp://{admin}"), "--encoder", "x264enc"]);
        command.arg("--link").arg(folder.join(place.link)).arg("--public-key").arg(&key);
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let this = Self { child, admin, _forward: bed.cluster.expose(place.port, listen)? };
        bed.eventually("the host-agent serves", || {
            let (status, _) = http::get(admin, "/healthz", None)?;
            ensure!(status == 200, "{status}");
            Ok(())
        })?;
        Ok(this)
    }

    /// Fingerprint of all host-agents of the cluster's folder, which have one key.
    pub fn fingerprint(bed: &Testbed) -> Result<String> {
        let mut command = Command::new(&bed.programs.host_agent);
        command.args(["fingerprint", "--tls-key"]).arg(bed.cluster.folder()?.join(TLS_KEY));
        let output = command.stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// The host-agent's `/status`.
    pub fn status(&self) -> Result<HostAgentStatus> {
        let (status, body) = http::get(self.admin, "/status", None)?;
        ensure!(status == 200, "{status}");
        Ok(serde_json::from_slice(&body)?)
    }
}

impl Drop for HostAgent {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
