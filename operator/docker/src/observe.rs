//! What the Engine says of a stream's two containers, in the words that `plan::status` reads: a pod's. So that
//! one code says what is wrong, in a cluster and here.

use std::collections::HashMap;

use bollard::models::{ContainerInspectResponse, ContainerSummary, ContainerSummaryStateEnum};
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    Pod, PodCondition, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::core::ObjectMeta;

use super::names::{Place, Role};
use operator_api::names;

/// Times that a container may have ended before it counts as crashing.
const CRASHES: i64 = 2;

/// One container.
#[derive(Debug, Clone, Default)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Its ID.
    pub id: String,
    /// Its image.
    pub image: String,
    /// Whether it runs.
    pub state: State,
    /// Its labels.
    pub labels: HashMap<String, String>,
    /// Its networks' names, and its address in each.
    pub networks: HashMap<String, String>,
    /// Where the viewers' port is published.
    pub published: Option<(String, u16)>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// What only an inspection tells.
    pub detail: Option<Detail>,
}

/// Whether it runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum State {
    /// Made, not started.
    #[default]
    Created,
    /// It runs.
    Running,
    /// It is stopped in its tracks.
    Paused,
    /// It ended, and the Engine waits before it starts it again.
    Restarting,
    /// It ended.
    Exited,
    /// It is going away.
    Going,
}

/// What only an inspection tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detail {
    /// How it ended last.
    pub exit_code: i64,
    /// Why it could not start.
    pub error: String,
    /// How often the Engine started it again.
    pub restarts: i64,
    /// It had used up its memory.
    pub out_of_memory: bool,
    /// When it was started last.
    pub started: Option<Timestamp>,
}

impl Container {
    /// From a list.
    pub fn read(summary: &ContainerSummary) -> Self {
        let name = summary.names.iter().flatten().next().map(|name| name.trim_start_matches('/').to_owned());
        let networks = summary.network_settings.as_ref().and_then(|settings| settings.networks.clone());
        let published = summary.ports.iter().flatten().find_map(|port| {
            let public = port.public_port.filter(|_| port.private_port == names::VIEWER_PORT)?;
            Some((port.ip.clone().unwrap_or_default(), public))
        });
        Self {
            name: name.unwrap_or_default(),
            id: summary.id.clone().unwrap_or_default(),
            image: summary.image.clone().unwrap_or_default(),
            state: match summary.state {
                Some(ContainerSummaryStateEnum::RUNNING) => State::Running,
                Some(ContainerSummaryStateEnum::PAUSED) => State::Paused,
                Some(ContainerSummaryStateEnum::RESTARTING) => State::Restarting,
                Some(ContainerSummaryStateEnum::EXITED) => State::Exited,
                Some(ContainerSummaryStateEnum::REMOVING | ContainerSummaryStateEnum::DEAD) => State::Going,
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

    /// Whose it is.
    pub fn place(&self) -> Option<(Place, Role)> {
        Place::read(&self.labels)
    }
}

impl Detail {
    /// From an inspection.
    pub fn read(found: &ContainerInspectResponse) -> Self {
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

/// The two containers as a pod on `node`; `None` where neither is there.
pub fn pod(node: &str, desktop: Option<&Container>, sidecar: Option<&Container>) -> Option<Pod> {
    let of = desktop.or(sidecar)?;
    let statuses = [(desktop, names::DESKTOP_CONTAINER), (sidecar, names::SIDECAR_CONTAINER)];
    Some(Pod {
        metadata: ObjectMeta { name: Some(of.name.clone()), ..ObjectMeta::default() },
        spec: Some(PodSpec { node_name: Some(node.to_owned()), ..PodSpec::default() }),
        status: Some(PodStatus {
            phase: Some("Running".to_owned()),
            container_statuses: Some(
                statuses.into_iter().filter_map(|(it, name)| it.map(|it| status(it, name))).collect(),
            ),
            ..PodStatus::default()
        }),
    })
}

/// One that is to be on `node`, and of which nothing could be made.
pub fn unmade(name: &str, node: &str) -> Pod {
    Pod {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        spec: Some(PodSpec { node_name: Some(node.to_owned()), ..PodSpec::default() }),
        ..Pod::default()
    }
}

/// One that no machine takes.
pub fn unplaced(name: &str, why: &str) -> Pod {
    Pod {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        status: Some(PodStatus {
            conditions: Some(vec![PodCondition {
                type_: "PodScheduled".to_owned(),
                status: "False".to_owned(),
                message: Some(why.to_owned()),
                ..PodCondition::default()
            }]),
            ..PodStatus::default()
        }),
        ..Pod::default()
    }
}

fn status(container: &Container, name: &str) -> ContainerStatus {
    let detail = container.detail.clone().unwrap_or_default();
    let running = container.state == State::Running;
    let ended = ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: detail.exit_code as i32,
            reason: Some(if detail.out_of_memory { "OOMKilled" } else { "Error" }.to_owned()),
            message: Some(detail.error.clone()).filter(|error| !error.is_empty()),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    };
    let waiting = |reason: &str, message: &str| ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
        }),
        ..ContainerState::default()
    };
    let crashing = container.state == State::Restarting && detail.restarts >= CRASHES;
    let (state, last) = match container.state {
        State::Running => {
            // Who isn't inspected has run for a while, as far as we were there to see it.
            let started_at = detail.started.or(container.created).map(Time);
            let run = ContainerState {
                running: Some(ContainerStateRunning { started_at }),
                ..ContainerState::default()
            };
            (run, None)
        }
        State::Created if !detail.error.is_empty() => (waiting("CreateContainerError", &detail.error), None),
        State::Paused => (waiting("CreateContainerError", "is paused"), None),
        State::Restarting if crashing => (waiting("CrashLoopBackOff", ""), Some(ended)),
        State::Restarting | State::Exited => (ended.clone(), Some(ended)),
        State::Created | State::Going => (waiting("ContainerCreating", ""), None),
    };
    ContainerStatus {
        name: name.to_owned(),
        image: container.image.clone(),
        ready: running,
        started: Some(running),
        restart_count: detail.restarts as i32,
        state: Some(state),
        last_state: last,
        ..ContainerStatus::default()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use operator_api::conditions::{self, reasons};
    use operator_api::{DesktopStreamStatus, Phase};
    use operator_plan::lifecycle::{Life, Outcome};
    use operator_plan::pair::Pairing;
    use operator_plan::status::{Seen, status};
    use operator_plan::testing::validated;

    fn container(name: &str, state: State, detail: Detail) -> Container {
        Container { name: name.to_owned(), state, detail: Some(detail), ..Container::default() }
    }

    fn told(pod: Option<&Pod>) -> (Option<Phase>, Vec<(String, String)>) {
        let outcome = Outcome {
            life: Life::Run,
            unwatched_since: None,
            idle_since: None,
            woken_by: None,
            look_again: None,
        };
        let seen = Seen {
            pod,
            obstacle: None,
            claim: None,
            nodes: &[],
            pairing: &Pairing::NotNeeded,
            report: None,
            outcome: &outcome,
            before: &DesktopStreamStatus::default(),
            now: Timestamp::UNIX_EPOCH,
        };
        let status = status(&validated(&json!({})), seen);
        let said = status.conditions.iter().map(|it| (it.type_.clone(), it.reason.clone())).collect();
        (status.phase, said)
    }

    fn reason(said: &[(String, String)], kind: &str) -> String {
        said.iter().find(|(it, _)| it == kind).map(|(_, reason)| reason.clone()).unwrap_or_default()
    }

    #[test]
    fn the_plans_status_reads_containers() {
        let runs = container("d", State::Running, Detail::default());
        let (phase, said) = told(pod("m", Some(&runs), Some(&runs)).as_ref());
        assert_eq!(phase, Some(Phase::Starting));
        assert_eq!(reason(&said, conditions::DEVICES_READY), reasons::OK.name);

        let crashes = Detail { exit_code: 3, restarts: 4, ..Detail::default() };
        let crashes = container("d", State::Restarting, crashes);
        let (phase, said) = told(pod("m", Some(&crashes), Some(&runs)).as_ref());
        assert_eq!(phase, Some(Phase::Degraded));
        assert_eq!(reason(&said, conditions::CAPTURING), reasons::DESKTOP_CRASHING.name);
        let (_, said) = told(pod("m", Some(&runs), Some(&crashes)).as_ref());
        assert_eq!(reason(&said, conditions::CAPTURING), reasons::SIDECAR_CRASHING.name);

        let error = Detail { error: "no such device".to_owned(), ..Detail::default() };
        let (_, said) = told(pod("m", Some(&container("d", State::Created, error)), Some(&runs)).as_ref());
        assert_eq!(reason(&said, conditions::DEVICES_READY), reasons::CONFIG.name);

        let (phase, said) = told(Some(&unplaced("d", "none")));
        assert_eq!(phase, Some(Phase::Pending));
        assert_eq!(reason(&said, conditions::DEVICES_READY), reasons::NO_DEVICE.name);
        assert!(pod("m", None, None).is_none());
    }
}
