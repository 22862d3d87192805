//! Decides what should exist, from what was gathered.

use std::time::Duration;

use operator_api::names;
use operator_plan::lifecycle::{self, Life};
use operator_plan::pair::{self, Candidate, Pairing};

use super::gather::Gathered;
use super::{OBSTACLE_INTERVAL, Pass, STARTING_INTERVAL};
use crate::render::Device;

/// Desired state of a stream, apart from its objects.
pub(super) struct Decision {
    /// Whether the stream runs.
    pub(super) lifecycle: lifecycle::Outcome,
    /// Host-agent that the stream is paired with, or why there is none.
    pub(super) pairing: Pairing,
    /// GPUs; `None` if the machine has too few.
    pub(super) devices: Option<Vec<Device>>,
}

impl Decision {
    pub(super) fn runs(&self) -> bool {
        self.lifecycle.life == Life::Run
    }

    pub(super) fn has_expired(&self) -> bool {
        self.lifecycle.life == Life::Expired
    }
}

impl Pass<'_> {
    pub(super) fn decide(&self, gathered: &Gathered<'_>) -> Decision {
        let annotations = self.stream.metadata.annotations.as_ref();
        let input = lifecycle::Input {
            created: Some(self.record.created),
            wake: annotations.and_then(|all| all.get(names::WAKE)).map(String::as_str),
            previous: &self.record.status,
            viewers: gathered.status().map(|status| status.viewers),
            now: self.now,
        };
        let lifecycle = lifecycle::lifecycle(&self.valid, input);
        let pairing = self.pair(lifecycle.life == Life::Run);
        let devices = self.context.machine.devices(&self.valid, &self.world.gpus);
        Decision { lifecycle, pairing, devices }
    }

    /// Chooses the host-agent and records the choice as load, under one lock: concurrent passes see each other's choices.
    fn pair(&self, occupies: bool) -> Pairing {
        let stream = &self.key.stream;
        let mut memory = self.context.memory.lock();
        let load = |agent: &str| {
            let others = memory.iter().filter(|(other, _)| *other != stream);
            others.filter(|(_, it)| it.host_agent.as_deref() == Some(agent)).count() as u32
        };
        let candidates: Vec<Candidate> = self
            .world
            .host_agents
            .iter()
            .map(|agent| {
                let name = agent.metadata.name.clone().unwrap_or_default();
                Candidate {
                    load: load(&name),
                    labels: agent.metadata.labels.clone().unwrap_or_default(),
                    spec: agent.spec.clone(),
                    name,
                }
            })
            .collect();
        let node = &self.world.node;
        let current = self.record.status.host_agent_name.as_deref();
        let pairing =
            pair::pair(&self.valid, &candidates, std::slice::from_ref(node), Some(&node.name), current);
        let occupied = pairing.host_agent().map(ToOwned::to_owned).filter(|_| occupies);
        memory.entry(stream.clone()).or_default().host_agent = occupied;
        pairing
    }

    /// Longest time until the next pass.
    pub(super) fn requeue_after(
        &self,
        gathered: &Gathered<'_>,
        decision: &Decision,
        is_blocked: bool,
    ) -> Duration {
        let mut wait = decision.lifecycle.requeue_after.unwrap_or(Duration::MAX);
        if is_blocked {
            wait = wait.min(OBSTACLE_INTERVAL);
        }
        if gathered.report.is_some() {
            wait = wait.min(if gathered.is_streaming() { self.context.poll } else { STARTING_INTERVAL });
        }
        // Renew the token at half of its lifetime, a quarter late at most.
        wait.min(self.context.token_life / 4)
    }
}
