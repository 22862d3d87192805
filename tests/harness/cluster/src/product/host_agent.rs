//! A real host-agent beside the cluster, at the nodes' default gateway: where node-agents look for one.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{Bed, SYSTEM};
use crate::forward::Forward;

/// Where one listens, at the nodes' gateway, and its taps find it.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// For sidecars.
    pub port: u16,
    /// For taps: a socket in the cluster's folder.
    pub link: &'static str,
}

/// The usual place.
pub const USUAL: Place = Place { port: 15937, link: "link.sock" };

/// One that runs, and the way to it; both end with this.
pub struct HostAgent {
    child: Child,
    admin: SocketAddr,
    _way: Forward,
}

impl HostAgent {
    /// Starts one under that name, which takes tokens of the cluster's operator.
    pub fn start(bed: &Bed, name: &str) -> Result<Self> {
        Self::start_at(bed, name, USUAL)
    }

    /// Starts one elsewhere.
    pub fn start_at(bed: &Bed, name: &str, place: Place) -> Result<Self> {
        let folder = bed.cluster.folder()?;
        let key = folder.join("host-agent.pub");
        let map = bed.get(&["-n", SYSTEM, "configmap", "desktopstream-public-key"])?;
        std::fs::write(&key, map["data"]["key.pem.pub"].as_str().context("no key")?)?;
        let (listen, admin) = (free()?, free()?);
        let log = File::options().create(true).append(true).open(folder.join("host-agent.log"))?;
        let mut command = Command::new(&bed.programs.host_agent);
        command.args(["serve", "--name", name, "--listen", &format!("tcp://{listen}")]);
        command.args(["--admin", &admin.to_string(), "--encoder", "x264enc"]);
        command.arg("--link").arg(folder.join(place.link)).arg("--public-key").arg(&key);
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let this = Self { child, admin, _way: bed.cluster.expose(place.port, listen)? };
        bed.eventually("host-agent serves", || {
            let (status, _) = super::http::get(admin, "/healthz", None)?;
            anyhow::ensure!(status == 200, "{status}");
            Ok(())
        })?;
        Ok(this)
    }
}

impl HostAgent {
    /// What it says of itself.
    pub fn status(&self) -> Result<Value> {
        let (status, body) = super::http::get(self.admin, "/status", None)?;
        anyhow::ensure!(status == 200, "{status}");
        Ok(serde_json::from_slice(&body)?)
    }
}

/// An address that nobody has now.
fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

impl Drop for HostAgent {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
