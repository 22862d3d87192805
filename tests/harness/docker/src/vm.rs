//! A Docker Engine inside a VM of the lab, where there is a virtio-gpu: docker/compose.yaml as a developer has it whose
//! containers run in a VM, which on a Mac is everybody.
//!
//! ```text
//!  this computer: host-agent ◀─ link.sock ─ tap in QEMU          browser ─▶ a forwarded port
//!                     ▲                      │ guest                             │
//!                     └─ tcp://10.0.2.2 ─────┼ sidecar ◀──────────────────── 127.0.0.1
//!                                            │ dockerd, operator, desktop
//! ```
//!
//! - [`payload`] is what the VM boots with: the engine's programs, our images, compose.yaml and its streams.
//! - [`GuestEngine`] speaks to the engine by `docker` in the guest.
//! - [`DockerVm`] is all of it.
//!
//! The host-agent trusts a key that the operator finds in its state folder, so that `docker compose up` is all that is left to
//! do. Needs no root.

pub mod payload;

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use e2e::{Desktop, HostAgent, Programs};
use lab::guest::quote;
use lab::{Guest, Output, Vm, VmConfig};
use serde_json::Value;

use crate::say;

/// In the guest.
const SCRIPT: &str = "/payload/engine/engine";
/// The operator's state folder in the guest.
const STATE: &str = "/var/lib/desktopstream";
/// What the operator calls a host-agent that it has from its command line.
const HOST_AGENT: &str = "default";
/// Programs in the guest are emulated ones.
const PATIENCE: Duration = Duration::from_mins(5);

/// VM, engine and host-agent; all end with this.
pub struct DockerVm {
    /// The VM. Declared first: it ends before the host-agent.
    pub vm: Vm,
    /// The host-agent, on this computer.
    pub host_agent: HostAgent,
    /// The engine.
    pub engine: GuestEngine,
}

impl DockerVm {
    /// Puts it up: an engine with our images, on which nothing runs yet.
    pub fn up(name: &str, desktops: &[Desktop]) -> Result<Self> {
        let programs = Programs::build()?;
        let payload = payload::make(&programs, desktops)?;
        let host_agent = HostAgent::start_as(HOST_AGENT, &programs.host_agent, &[])?;
        let vm = boot(name, &programs, payload.path(), desktops, &host_agent)?;
        let engine = GuestEngine { guest: vm.guest().clone() };
        let begin = Instant::now();
        engine.guest.check(&format!("{SCRIPT} start"))?;
        say!("the engine in {name} answers after {:.0} s more", begin.elapsed().as_secs_f64());
        engine.guest.check(&format!("{SCRIPT} load"))?;
        engine.introduce(&host_agent)?;
        say!("{name} has our images after {:.0} s", begin.elapsed().as_secs_f64());
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
    // Viewers' ports are known when they are there.
    config.ports = 0;
    config.payload = Some(payload.to_owned());
    config.tap = Some(e2e::rig::tap(programs, name, &host_agent.link()));
    Vm::boot(config)
}

/// The engine of a VM. Cheap to make; works for as long as the VM runs.
#[derive(Debug, Clone)]
pub struct GuestEngine {
    guest: Guest,
}

impl GuestEngine {
    /// That of a VM that runs.
    pub fn attach(name: &str) -> Result<Self> {
        let vm = Vm::attach(name).context("./x lab docker up brings it up")?;
        Ok(Self { guest: vm.guest().clone() })
    }

    /// Gives `docker compose` what it must know of the host-agent, by the variables that compose.yaml tells.
    fn introduce(&self, host_agent: &HostAgent) -> Result<()> {
        self.guest.check(&format!("mkdir -p -m 700 {STATE}"))?;
        let key = std::fs::read(host_agent.signing_key())?;
        self.guest.write(&format!("{STATE}/signing-key.pem"), &key)?;
        let variables = format!(
            "export COMPOSE_FILE=docker/compose.yaml STATE={STATE} OPERATOR_HOST_AGENT={}\n",
            host_agent.upstream()
        );
        self.guest.write("/run/engine.env", variables.as_bytes())
    }

    /// The VM.
    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    /// `docker` with these words: its stdout, or an error.
    pub fn docker(&self, words: &[&str]) -> Result<String> {
        self.try_docker(words)?.ok().with_context(|| format!("docker {}", words.join(" ")))
    }

    /// `docker`, which may well fail.
    pub fn try_docker(&self, words: &[&str]) -> Result<Output> {
        self.guest.exec_within(PATIENCE, &line(words))
    }

    /// `docker` with this process's own stdin, stdout and stderr.
    pub fn interact(&self, words: &[&str]) -> Result<ExitStatus> {
        self.guest.interact(Some(&line(words)))
    }

    /// `operator docker` in the operator's container, with these words.
    pub fn operator(&self, words: &[&str]) -> Result<String> {
        // `compose exec` takes three times as long under emulation.
        let exec = ["exec", "desktopstream-operator-1", "operator", "docker"];
        self.docker(&[&exec[..], words].concat())
    }

    /// A stream's object, with the status that a cluster would show.
    pub fn stream(&self, name: &str) -> Result<Value> {
        let text = self.operator(&["status", name, "--json"])?;
        let all: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        Ok(all[0].clone())
    }

    /// Where this computer's browser finds a stream, and the token that it must bring.
    pub fn viewers(&self, name: &str) -> Result<(String, String)> {
        let said: Value = serde_json::from_str(&self.operator(&["open", "--json", name])?)?;
        let url = said["url"].as_str().context("no URL")?;
        let (port, token) = parts(url).with_context(|| format!("{url}: not as expected"))?;
        Ok((format!("http://127.0.0.1:{}", self.guest.forward(port)?), token.to_owned()))
    }
}

/// Port and token of a viewers' URL.
fn parts(url: &str) -> Option<(u16, &str)> {
    let (port, rest) = url.strip_prefix("http://127.0.0.1:")?.split_once('/')?;
    let (_, token) = rest.split_once("token=")?;
    Some((port.parse().ok()?, token))
}

/// A line of shell that runs it.
fn line(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| quote(word)).collect();
    format!("{SCRIPT} docker {}", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_viewers_url_has_a_port_and_a_token() {
        assert_eq!(parts("http://127.0.0.1:32768/?token=abc"), Some((32768, "abc")));
        assert_eq!(parts("http://127.0.0.1:32768/#token=abc"), Some((32768, "abc")));
        assert_eq!(parts("http://10.0.0.1:32768/?token=abc"), None);
        assert_eq!(parts("http://127.0.0.1:32768/"), None);
    }

    #[test]
    fn words_stay_words() {
        assert_eq!(line(&["run", "sh -c 'x'"]), format!(r"{SCRIPT} docker 'run' 'sh -c '\''x'\'''"));
    }
}
