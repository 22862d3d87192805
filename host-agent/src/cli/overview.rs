//! `host-agent status`: whether the service runs, what listens where, and who is there.

use std::fmt;
use std::process::{Command, Stdio};

use serde::Serialize;

use super::{Manager, Service, launchd, systemd};
use crate::config::Options;
use crate::status::Status;

/// What there is to see.
#[derive(Debug, Serialize)]
pub struct Overview {
    /// What the service manager says.
    pub service: String,
    /// The file that defines it.
    pub definition: String,
    /// What it reads.
    pub config: String,
    /// Where its log is.
    pub log: String,
    /// Where it answers.
    pub admin: String,
    /// What it answers; none if it does not run.
    pub daemon: Option<Status>,
}

impl Overview {
    /// Asks the service manager and the daemon.
    pub fn of(service: &Service, options: &Options) -> Self {
        let definition = service.definition();
        let service_state = if definition.exists() { state(service) } else { "not installed".to_owned() };
        Self {
            service: service_state,
            definition: definition.display().to_string(),
            config: format!(
                "{}{}",
                service.config.display(),
                if service.config.exists() { "" } else { " (not there: `host-agent config init`)" }
            ),
            log: service.log(),
            admin: format!("http://{}", options.admin_address()),
            daemon: crate::doctor::ask(options).ok(),
        }
    }
}

fn state(service: &Service) -> String {
    let words = match service.manager {
        Manager::Launchd => launchd::asks(service),
        Manager::Systemd => systemd::asks(),
    };
    let Some((program, arguments)) = words.split_first() else { return String::new() };
    match Command::new(program).args(arguments).stdin(Stdio::null()).output() {
        Err(error) => format!("unknown: {program}: {error}"),
        Ok(out) => {
            let said = String::from_utf8_lossy(&out.stdout);
            match service.manager {
                Manager::Launchd => launchd::state(&said).unwrap_or("installed, not loaded").to_owned(),
                Manager::Systemd if said.trim().is_empty() => "unknown: systemd does not answer".to_owned(),
                Manager::Systemd => said.trim().to_owned(),
            }
        }
    }
}

impl fmt::Display for Overview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, definition, config, log, admin, daemon } = self;
        writeln!(f, "service    {service}")?;
        writeln!(f, "           {definition}")?;
        writeln!(f, "config     {config}")?;
        writeln!(f, "log        {log}")?;
        let Some(daemon) = daemon else {
            return write!(f, "daemon     nothing answers at {admin}");
        };
        writeln!(f, "daemon     {} as {}, up {} s", daemon.version, daemon.name, daemon.uptime_s)?;
        writeln!(f, "listens")?;
        for endpoint in &daemon.listeners {
            writeln!(
                f,
                "  sidecars {endpoint}{}",
                if only_here(endpoint) { "" } else { "  (not this machine alone)" }
            )?;
        }
        writeln!(f, "  taps     {}", daemon.link)?;
        writeln!(f, "  HTTP     {admin}: /healthz, /readyz, /metrics, /status")?;
        for vm in &daemon.vms {
            writeln!(f, "VM         {}, process {}, for {} s", vm.name, vm.pid, vm.connected_s)?;
        }
        for session in &daemon.sessions {
            let vm = session.vm.as_deref().unwrap_or("no VM yet");
            writeln!(f, "session    {}, {vm}, for {} s", session.stream, session.connected_s)?;
        }
        write!(f, "{} VMs, {} sessions", daemon.vms.len(), daemon.sessions.len())
    }
}

fn only_here(endpoint: &str) -> bool {
    endpoint.parse().is_ok_and(|endpoint| crate::listen::is_local(&endpoint))
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    #[test]
    fn without_a_service_it_says_what_is_missing() {
        // A port on which nobody listens.
        let options = Options { admin: Some(([127, 0, 0, 1], 1).into()), ..Options::default() };
        let overview = Overview::of(&example(Manager::Systemd), &options);
        let text = overview.to_string();
        assert!(text.contains("not installed") && text.contains("host-agent config init"), "{text}");
        assert!(text.ends_with("nothing answers at http://127.0.0.1:1"), "{text}");
    }

    #[test]
    fn what_others_can_reach_is_marked() {
        assert!(only_here("tcp://127.0.0.1:15937") && only_here("unix:/x"));
        assert!(!only_here("tcp://0.0.0.0:15937") && !only_here("tcp://192.168.64.1:15937"));
    }
}
