//! A container as the Engine reports it: the fields that we read of a listing and of an inspection.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bollard::models::{ContainerInspectResponse, ContainerSummary, ContainerSummaryStateEnum};
use k8s_openapi::jiff::Timestamp;
use operator_api::names::VIEWER_PORT;

use crate::names::{Role, StreamKey};

/// A listed container.
#[derive(Debug, Clone, Default)]
pub struct Container {
    /// Container name without the leading slash.
    pub name: String,
    /// Container ID.
    pub id: String,
    /// Image reference.
    pub image: String,
    /// Image ID.
    pub image_id: String,
    /// Processor architecture of the image's variant, if the Engine's image store has several per image.
    pub architecture: Option<String>,
    /// Lifecycle state.
    pub state: State,
    /// Labels of the container and its image.
    pub labels: HashMap<String, String>,
    /// Networks: the container's address by the network's name. Empty if it has none.
    pub networks: HashMap<String, String>,
    /// Published address of the viewer port; the IP may be unspecified (`0.0.0.0`, `::`).
    pub published: Option<SocketAddr>,
    /// Time of creation.
    pub created: Option<Timestamp>,
    /// Result of an inspection, if there was one.
    pub detail: Option<Detail>,
}

/// State of a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum State {
    /// Created, not started.
    #[default]
    Created,
    /// The process runs.
    Running,
    /// Frozen by `docker pause`.
    Paused,
    /// Ended; the Engine waits before it restarts it.
    Restarting,
    /// Ended, and not restarted by the Engine.
    Exited,
    /// Being removed.
    Removing,
}

/// Fields that only an inspection has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detail {
    /// Exit code of the last end.
    pub exit_code: i64,
    /// Error of the last start; empty if it succeeded.
    pub error: String,
    /// Number of restarts by the Engine.
    pub restarts: i64,
    /// Killed for lack of memory.
    pub out_of_memory: bool,
    /// Time of the last start.
    pub started: Option<Timestamp>,
}

impl From<&ContainerSummary> for Container {
    fn from(summary: &ContainerSummary) -> Self {
        // Legacy links add names of the form `/container/alias`.
        let names = summary.names.iter().flatten().map(|name| name.trim_start_matches('/'));
        let name = names.filter(|name| !name.contains('/')).map(str::to_owned).next();
        let descriptor = summary.image_manifest_descriptor.as_ref();
        let platform = descriptor.and_then(|descriptor| descriptor.platform.as_ref());
        let networks = summary.network_settings.as_ref().and_then(|settings| settings.networks.clone());
        let published = summary.ports.iter().flatten().find_map(|port| {
            let public = port.public_port.filter(|_| port.private_port == VIEWER_PORT)?;
            let ip = port
                .ip
                .as_deref()
                .and_then(|ip| ip.parse().ok())
                .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            Some(SocketAddr::new(ip, public))
        });
        Self {
            name: name.unwrap_or_default(),
            id: summary.id.clone().unwrap_or_default(),
            image: summary.image.clone().unwrap_or_default(),
            image_id: summary.image_id.clone().unwrap_or_default(),
            architecture: platform.and_then(|platform| platform.architecture.clone()),
            state: match summary.state {
                Some(ContainerSummaryStateEnum::RUNNING) => State::Running,
                Some(ContainerSummaryStateEnum::PAUSED) => State::Paused,
                Some(ContainerSummaryStateEnum::RESTARTING) => State::Restarting,
                Some(ContainerSummaryStateEnum::EXITED) => State::Exited,
                Some(ContainerSummaryStateEnum::REMOVING | ContainerSummaryStateEnum::DEAD) => {
                    State::Removing
                }
                _ => State::Created,
            },
            labels: summary.labels.clone().unwrap_or_default(),
            networks: networks
                .into_iter()
                .flatten()
                .map(|(name, endpoint)| (name, endpoint.ip_address.unwrap_or_default()))
                .collect(),
            published,
            created: summary.created.and_then(|at| Timestamp::from_second(at).ok()),
            detail: None,
        }
    }
}

impl Container {
    /// Stream and role, from the labels and the name; `None` if it is not ours.
    pub fn owner(&self) -> Option<(StreamKey, Role)> {
        StreamKey::of_object(&self.name, &self.labels)
    }

    /// Address of the published viewer port for connections from this machine.
    pub fn local_address(&self) -> Option<SocketAddr> {
        let published = self.published?;
        let ip = match published.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        Some(SocketAddr::new(ip, published.port()))
    }

    /// URL of the viewer page for this machine, without a trailing slash and without the token.
    pub fn local_url(&self) -> Option<String> {
        self.local_address().map(|address| format!("http://{address}"))
    }
}

impl From<&ContainerInspectResponse> for Detail {
    fn from(found: &ContainerInspectResponse) -> Self {
        let state = found.state.clone().unwrap_or_default();
        Self {
            exit_code: state.exit_code.unwrap_or_default(),
            error: state.error.unwrap_or_default(),
            restarts: found.restart_count.unwrap_or_default(),
            out_of_memory: state.oom_killed.unwrap_or_default(),
            started: state.started_at.as_deref().and_then(|at| at.parse().ok()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_a_container_is_not_that_of_a_link() {
        let names = Some(vec!["/other/p_desk_desktop".to_owned(), "/shell".to_owned()]);
        let summary = ContainerSummary { names, ..ContainerSummary::default() };
        assert_eq!(Container::from(&summary).name, "shell");
    }

    #[test]
    fn unspecified_address_is_reached_on_loopback() {
        let url = |address: &str| {
            let published = Some(address.parse().expect("an address"));
            Container { published, ..Container::default() }.local_url()
        };
        assert_eq!(url("0.0.0.0:8090").as_deref(), Some("http://127.0.0.1:8090"));
        assert_eq!(url("[::]:8090").as_deref(), Some("http://[::1]:8090"));
        assert_eq!(url("192.0.2.1:8090").as_deref(), Some("http://192.0.2.1:8090"));
        assert_eq!(Container::default().local_url(), None);
    }
}
