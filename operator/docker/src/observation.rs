//! Fills the plan's [`Observation`] from a stream's two containers.

use operator_api::names;
use operator_plan::observation::{
    BlockedCause, Container as Observed, ContainerState, Exit, Observation, Unplaced, UnplacedCause,
};

use crate::container::{Container, Detail, State};

/// The desktop and the sidecar on `node`; `None` if neither exists.
pub fn observe(node: &str, desktop: Option<&Container>, sidecar: Option<&Container>) -> Option<Observation> {
    let name = desktop.or(sidecar)?.name.clone();
    let containers = [
        desktop.map(|it| observed(it, names::DESKTOP_CONTAINER, false)),
        sidecar.map(|it| observed(it, names::SIDECAR_CONTAINER, true)),
    ];
    Some(Observation { containers: containers.into_iter().flatten().collect(), ..not_created(&name, node) })
}

/// A stream that runs on `node` and has no container yet.
pub fn not_created(name: &str, node: &str) -> Observation {
    Observation { name: name.to_owned(), node: Some(node.to_owned()), ..Observation::default() }
}

/// A stream whose devices the machine does not have.
pub fn unplaced(name: &str, message: &str) -> Observation {
    Observation {
        name: name.to_owned(),
        unplaced: Some(Unplaced { cause: UnplacedCause::Resources, message: message.to_owned() }),
        ..Observation::default()
    }
}

fn observed(container: &Container, name: &str, is_sidecar: bool) -> Observed {
    let detail = container.detail.clone().unwrap_or_default();
    let restarts = u32::try_from(detail.restarts).unwrap_or_default();
    let blocked =
        |message: &str| ContainerState::Blocked { cause: BlockedCause::Config, message: message.to_owned() };
    let state = match container.state {
        // A container that was not inspected has run since its creation, as far as we know.
        State::Running => ContainerState::Running { since: detail.started.or(container.created) },
        State::Created if !detail.error.is_empty() => blocked(&detail.error),
        State::Paused => blocked("the container is paused"),
        State::Restarting | State::Exited if restarts >= ContainerState::CRASHING_RESTARTS => {
            ContainerState::Crashing { last: Some(exit(detail)) }
        }
        State::Restarting | State::Exited => ContainerState::Exited(exit(detail)),
        State::Created | State::Removing => ContainerState::Starting,
    };
    Observed { name: name.to_owned(), image: container.image.clone(), is_sidecar, restarts, state }
}

fn exit(Detail { exit_code, error, out_of_memory, .. }: Detail) -> Exit {
    Exit {
        reason: if out_of_memory { "OOMKilled" } else { "Error" }.to_owned(),
        code: exit_code as i32,
        message: error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(state: State, detail: Detail) -> Container {
        Container { name: "d".to_owned(), state, detail: Some(detail), ..Container::default() }
    }

    fn state(state: State, detail: Detail) -> ContainerState {
        let observation = observe("m", Some(&container(state, detail)), None).expect("a container");
        observation.containers[0].state.clone()
    }

    #[test]
    fn container_states_map_to_the_plans() {
        assert_eq!(state(State::Running, Detail::default()), ContainerState::Running { since: None });
        let failed = || Detail { exit_code: 3, out_of_memory: true, ..Detail::default() };
        let exit = Exit { reason: "OOMKilled".to_owned(), code: 3, message: String::new() };
        assert_eq!(state(State::Exited, failed()), ContainerState::Exited(exit.clone()));
        let crashed = Detail { restarts: 4, ..failed() };
        assert_eq!(state(State::Restarting, crashed), ContainerState::Crashing { last: Some(exit) });
        let error = Detail { error: "no such device".to_owned(), ..Detail::default() };
        assert!(matches!(
            state(State::Created, error),
            ContainerState::Blocked { cause: BlockedCause::Config, message } if message == "no such device"
        ));
        assert_eq!(state(State::Created, Detail::default()), ContainerState::Starting);
    }

    #[test]
    fn observation_without_containers_is_none() {
        assert_eq!(observe("m", None, None), None);
        let sidecar = container(State::Running, Detail::default());
        let observation = observe("m", None, Some(&sidecar)).expect("a container");
        assert_eq!((observation.name.as_str(), observation.node.as_deref()), ("d", Some("m")));
        assert!(observation.containers[0].is_sidecar);
    }
}
