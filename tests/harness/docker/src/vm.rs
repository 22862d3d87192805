//! A Docker Engine in a VM of the lab, which has a virtio-gpu: docker/compose.yaml as on a Mac, where all containers run in a
//! VM.
//!
//! ```text
//!  host: host-agent ◀─ link.sock ─ tap in QEMU                   browser ─▶ a forwarded port
//!            ▲                      │ guest                              │
//!            └─ tls://10.0.2.2 ─────┼ sidecar ◀───────────────────── 127.0.0.1
//!                                   │ dockerd, operator, desktop
//! ```
//!
//! - [`payload`] holds the engine's programs, the images, compose.yaml and its streams.
//! - [`GuestEngine`] runs `docker` in the guest.
//! - [`DockerVm`] is VM, engine and host-agent.
//!
//! The host-agent trusts a key that is placed in the operator's state folder, so that `docker compose up` is the only step left.
//! Root is not needed.

pub mod payload;

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use e2e::{Desktop, HostAgent, Programs};
use lab::guest::quote;
use lab::{Guest, Output, Vm, VmConfig};
use serde_json::Value;

use crate::progress;

/// Path of the script in the guest.
const SCRIPT: &str = "/payload/engine/engine";
/// Path of the operator's state folder in the guest.
const STATE: &str = "/var/lib/desktopstream";
/// Name that the operator gives the host-agent of its command line.
const HOST_AGENT: &str = "default";
/// Limit of a command in the guest, whose processor is emulated.
const COMMAND_TIMEOUT: Duration = Duration::from_mins(5);

/// A VM with an engine, and a host-agent on the host. All end on drop.
pub struct DockerVm {
    /// The VM. Declared first, as it has to end before the host-agent.
    pub vm: Vm,
    /// The host-agent on the host.
    pub host_agent: HostAgent,
    /// The engine.
    pub engine: GuestEngine,
}

impl DockerVm {
    /// Boots the VM and starts an engine that has the images.
    pub fn up(name: &str, desktops: &[Desktop]) -> Result<Self> {
        let programs = Programs::build()?;
        let payload = payload::make(&programs, desktops)?;
        let host_agent = HostAgent::start_as(HOST_AGENT, &programs.host_agent, &[])?;
        let vm = boot(name, &programs, payload.path(), desktops, &host_agent)?;
        let engine = GuestEngine { guest: vm.guest().clone() };
        let begin = Instant::now();
        engine.guest.check(&format!("{SCRIPT} start"))?;
        progress!("the engine in {name} answers after {:.0} s more", begin.elapsed().as_secs_f64());
        engine.guest.check(&format!("{SCRIPT} load"))?;
        engine.configure(&host_agent)?;
        progress!("{name} has the images after {:.0} s", begin.elapsed().as_secs_f64());
        Ok(Self { vm, host_agent, engine })
    }
}

fn boot(
    name: &str,
    programs: &Programs,
    payload: &std::path::Path,
    desktops: &[Desktop],
    host_agent: &HostAgent,
) -> Result<Vm> {
    let disks: Vec<&str> = std::iter::once("sidecar").chain(desktops.iter().map(|it| it.image())).collect();
    let mut config = VmConfig::new(name, &disks);
    // Viewers' ports are forwarded when they are known.
    config.ports = 0;
    config.payload = Some(payload.to_owned());
    config.tap = Some(e2e::rig::tap(programs, name, &host_agent.link()));
    Vm::boot(config)
}

/// The engine of a running VM.
#[derive(Debug, Clone)]
pub struct GuestEngine {
    guest: Guest,
}

impl GuestEngine {
    /// The engine of a running VM.
    ///
    /// # Errors
    /// If no VM of that name runs.
    pub fn attach(name: &str) -> Result<Self> {
        let vm = Vm::attach(name).context("start the VM with ./x lab docker up")?;
        Ok(Self { guest: vm.guest().clone() })
    }

    /// Sets the variables of compose.yaml that describe the host-agent, and installs its signing key.
    fn configure(&self, host_agent: &HostAgent) -> Result<()> {
        self.guest.check(&format!("mkdir -p -m 700 {STATE}"))?;
        let key = std::fs::read(host_agent.signing_key())?;
        self.guest.write(&format!("{STATE}/signing-key.pem"), &key)?;
        let variables = format!(
            "export COMPOSE_FILE=docker/compose.yaml STATE={STATE} OPERATOR_HOST_AGENT={}\n",
            host_agent.upstream()
        );
        self.guest.write("/run/engine.env", variables.as_bytes())
    }

    /// The guest.
    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    /// Runs `docker` and returns its stdout.
    ///
    /// # Errors
    /// If `docker` fails, with its stderr.
    pub fn docker(&self, words: &[&str]) -> Result<String> {
        self.try_docker(words)?.ok().with_context(|| format!("docker {}", words.join(" ")))
    }

    /// Runs `docker`, whose failure is a result and not an error.
    pub fn try_docker(&self, words: &[&str]) -> Result<Output> {
        self.guest.exec_within(COMMAND_TIMEOUT, &line(words))
    }

    /// Runs `docker` with this process's stdin, stdout and stderr.
    pub fn interact(&self, words: &[&str]) -> Result<ExitStatus> {
        self.guest.interact(Some(&line(words)))
    }

    /// Runs `operator docker` in the operator's container and returns its stdout.
    pub fn operator(&self, words: &[&str]) -> Result<String> {
        // `compose exec` takes three times as long on an emulated processor.
        let exec = ["exec", "desktopstream-operator-1", "operator", "docker"];
        self.docker(&[&exec[..], words].concat())
    }

    /// A stream's object with its status.
    pub fn stream(&self, name: &str) -> Result<Value> {
        let text = self.operator(&["status", name, "--json"])?;
        let all: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        Ok(all[0].clone())
    }

    /// URL of a stream's viewers on the host, and their token.
    pub fn viewers(&self, name: &str) -> Result<(String, String)> {
        let printed: Value = serde_json::from_str(&self.operator(&["open", "--json", name])?)?;
        let url = printed["url"].as_str().context("`open` printed no URL")?;
        let (port, token) = parts(url).with_context(|| format!("unexpected URL {url}"))?;
        Ok((format!("http://127.0.0.1:{}", self.guest.forward(port)?), token.to_owned()))
    }
}

/// Port and token of a viewers' URL.
fn parts(url: &str) -> Option<(u16, &str)> {
    let (port, rest) = url.strip_prefix("http://127.0.0.1:")?.split_once('/')?;
    let (_, token) = rest.split_once("#token=")?;
    Some((port.parse().ok()?, token))
}

/// The shell command line that runs `docker` with these arguments.
fn line(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| quote(word)).collect();
    format!("{SCRIPT} docker {}", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn viewers_url_is_split_into_port_and_token() {
        assert_eq!(parts("http://127.0.0.1:32768/#token=abc"), Some((32768, "abc")));
        assert_eq!(parts("http://127.0.0.1:32768/?token=abc"), None, "proxies log the query");
        assert_eq!(parts("http://10.0.0.1:32768/#token=abc"), None);
        assert_eq!(parts("http://127.0.0.1:32768/"), None);
    }

    #[test]
    fn arguments_are_quoted_for_the_shell() {
        assert_eq!(line(&["run", "sh -c 'x'"]), format!(r"{SCRIPT} docker 'run' 'sh -c '\''x'\'''"));
    }
}
