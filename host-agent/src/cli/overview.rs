//! Output of `host-agent status`: the state of the service, and the running daemon's own status.

use std::fmt;

use contract::HostAgentStatus;
use host_agent_setup::service::Service;
use serde::Serialize;

use crate::config::Options;
use crate::listen::{self, Reach};

/// The service and the daemon. The JSON output has these fields.
#[derive(Debug, Serialize)]
pub(super) struct Overview {
    /// State of the service.
    pub(super) service: String,
    /// Path of the service's definition.
    pub(super) definition: String,
    /// Path of the configuration file.
    pub(super) config: String,
    /// Location of the log.
    pub(super) log: String,
    /// Endpoint of the admin server.
    pub(super) admin: String,
    /// The daemon's `/status`; none if it does not answer.
    pub(super) daemon: Option<HostAgentStatus>,
}

impl Overview {
    /// Queries the service manager and the daemon.
    pub(super) fn new(service: &Service, options: &Options) -> Self {
        let missing = if service.config.exists() { "" } else { " (missing; run `host-agent config init`)" };
        Self {
            service: service.state().to_string(),
            definition: service.definition().display().to_string(),
            config: format!("{}{missing}", service.config.display()),
            log: service.log(),
            admin: options.admin_endpoint().to_string(),
            daemon: crate::doctor::query_daemon(options).ok(),
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
            return write!(f, "daemon     no answer at {admin}");
        };
        writeln!(f, "daemon     {} as {}, up {} s", daemon.version, daemon.name, daemon.uptime_seconds)?;
        writeln!(f, "listeners")?;
        for endpoint in &daemon.listeners {
            let note = match listen::reach(endpoint) {
                _ if endpoint.is_exposed_plaintext() => "  (plaintext, reachable from other machines or VMs)",
                Reach::ThisUser => "",
                Reach::ThisMachine => "  (reachable from this machine and its VMs)",
                Reach::Others => "  (reachable from other machines or VMs)",
            };
            writeln!(f, "  sidecars {endpoint}{note}")?;
        }
        writeln!(f, "  taps     {}", daemon.link)?;
        writeln!(f, "  HTTP     {admin}: /healthz, /readyz, /metrics, /status")?;
        for vm in &daemon.vms {
            writeln!(
                f,
                "VM         {}, process {}, connected for {} s",
                vm.name, vm.pid, vm.connected_seconds
            )?;
        }
        for session in &daemon.sessions {
            let vm = session.vm.as_deref().unwrap_or("not bound to a VM");
            writeln!(
                f,
                "session    {}, {vm}, connected for {} s",
                session.stream, session.connected_seconds
            )?;
        }
        write!(f, "{} VMs, {} sessions", daemon.vms.len(), daemon.sessions.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overview_without_service_and_daemon_names_what_is_missing() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let config = folder.path().join("host-agent.toml");
        let service = Service::of_current_user(None, Some(config)).expect("HOME is set");
        let link = Some(folder.path().join("link.sock"));
        let options = Options { link, ..Options::default() };
        let overview = Overview { service: "not installed".to_owned(), ..Overview::new(&service, &options) };
        let text = overview.to_string();
        assert!(text.starts_with("service    not installed\n"), "{text}");
        assert!(text.contains("host-agent.toml (missing; run `host-agent config init`)"), "{text}");
        let admin = folder.path().join("admin.sock");
        assert!(text.ends_with(&format!("no answer at unix:{}", admin.display())), "{text}");
    }

    #[test]
    fn listener_that_others_reach_is_marked() {
        let pinned = format!("tls://0.0.0.0:15939#sha256={}", "ab".repeat(32));
        let listeners = ["unix:/x", "tcp://127.0.0.1:15937", "tcp://0.0.0.0:15938", &pinned];
        let listeners = listeners.map(|text| text.parse().expect(text));
        let daemon = HostAgentStatus { listeners: listeners.into(), ..HostAgentStatus::default() };
        let text = Overview {
            service: String::new(),
            definition: String::new(),
            config: String::new(),
            log: String::new(),
            admin: String::new(),
            daemon: Some(daemon),
        }
        .to_string();
        assert!(text.contains("sidecars unix:/x\n"), "{text}");
        assert!(
            text.contains("sidecars tcp://127.0.0.1:15937  (reachable from this machine and its VMs)\n"),
            "{text}"
        );
        assert!(
            text.contains(
                "sidecars tcp://0.0.0.0:15938  (plaintext, reachable from other machines or VMs)\n"
            ),
            "{text}"
        );
        assert!(
            text.contains(&format!("sidecars {pinned}  (reachable from other machines or VMs)\n")),
            "{text}"
        );
    }
}
