//! What the operator knows and no object says: who has which host-agent right now, which tokens are out, what
//! sidecars said last. Lost with the process, and found again: nothing in it is the only copy.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use operator_api::DesktopStreamStatus;
use operator_plan::facts::Node;
use operator_plan::kubernetes::HostAgentSecret;
use operator_plan::status::report::Report;

/// Of one stream, by its UID.
#[derive(Debug, Default, Clone)]
pub struct Stream {
    /// `namespace/name`, for sweeping.
    pub id: String,
    /// The host-agent that it has, for others' choices.
    pub host_agent: Option<String>,
    /// Its host-agent Secret, as far as we know.
    pub host_agent_secret: Written,
    /// The viewers' token.
    pub viewer_token: Option<String>,
    /// What its sidecar said last, and when.
    pub report: Option<(Instant, Result<Report, String>)>,
    /// The status that we wrote last, and when: the watch may not have told yet.
    pub status: Option<(Instant, DesktopStreamStatus)>,
    /// Failures in a row.
    pub failures: u32,
    /// Endpoints of host-agents that turned out to have another VM than its node.
    pub strangers: Strangers,
    /// When its pod was last replaced for running without its device.
    pub device_missed: Option<Instant>,
    /// When numbers in its status were last renewed.
    pub stats_written: Option<Instant>,
}

/// Endpoints by node that led to a host-agent of another VM. A VM may be started again with another tap: what was found is
/// believed for a while.
#[derive(Debug, Default, Clone)]
pub struct Strangers(Vec<(String, String, Instant)>);

impl Strangers {
    /// How long that is.
    const BELIEVED: Duration = Duration::from_secs(600);
    /// Nobody has more host-agents at a node.
    const MOST: usize = 16;

    /// Remembers what a sidecar on `node` found.
    pub fn learn(&mut self, node: &str, endpoint: &str) {
        self.0.retain(|(place, what, at)| {
            at.elapsed() < Self::BELIEVED && (place.as_str(), what.as_str()) != (node, endpoint)
        });
        self.0.truncate(Self::MOST - 1);
        self.0.push((node.to_owned(), endpoint.to_owned(), Instant::now()));
    }

    /// The nodes without the ways to strangers.
    pub fn hide(&self, nodes: &[Node]) -> Vec<Node> {
        let mut nodes = nodes.to_vec();
        for (name, stranger, _) in self.0.iter().filter(|(_, _, at)| at.elapsed() < Self::BELIEVED) {
            let Some(node) = nodes.iter_mut().find(|node| node.name == *name) else { continue };
            for endpoints in node.facts.host_agents.values_mut() {
                endpoints.retain(|endpoint| endpoint.replacen("unix://", "unix:", 1) != *stranger);
            }
            node.facts.host_agents.retain(|_, endpoints| !endpoints.is_empty());
        }
        nodes
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A Secret of ours, as far as we know.
#[derive(Debug, Default, Clone, PartialEq)]
pub enum Written {
    /// We have not looked.
    #[default]
    Unknown,
    /// There is none.
    Absent,
    /// It says that there is no host-agent.
    Empty,
    /// It says this.
    With(HostAgentSecret),
}

/// Of all streams.
#[derive(Debug, Default)]
pub struct Memory(Mutex<HashMap<String, Stream>>);

impl Memory {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Stream>> {
        // Whoever panicked left whole entries: every change is one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of one.
    pub fn get(&self, uid: &str) -> Stream {
        self.lock().get(uid).cloned().unwrap_or_default()
    }

    /// Changes what is known of one.
    pub fn update<T>(&self, uid: &str, change: impl FnOnce(&mut Stream) -> T) -> T {
        change(self.lock().entry(uid.to_owned()).or_default())
    }

    /// Chooses for one stream while nobody else chooses: `choose` is given how many others each host-agent
    /// has, and says which it takes.
    pub fn choose<T>(
        &self,
        uid: &str,
        choose: impl FnOnce(&HashMap<String, u32>) -> (Option<String>, T),
    ) -> T {
        let mut all = self.lock();
        let mut loads = HashMap::new();
        for stream in all.iter().filter(|(other, _)| *other != uid).map(|(_, stream)| stream) {
            if let Some(host_agent) = &stream.host_agent {
                *loads.entry(host_agent.clone()).or_insert(0) += 1;
            }
        }
        let (host_agent, choice) = choose(&loads);
        all.entry(uid.to_owned()).or_default().host_agent = host_agent;
        choice
    }

    /// How many streams a host-agent has.
    pub fn load(&self, host_agent: &str) -> u32 {
        let all = self.lock();
        all.values().filter(|stream| stream.host_agent.as_deref() == Some(host_agent)).count() as u32
    }

    /// Forgets those that aren't there any more.
    pub fn keep(&self, exists: impl Fn(&str) -> bool) {
        self.lock().retain(|uid, _| exists(uid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_endpoint_is_hidden_at_its_node_only() {
        let node = |name: &str| Node {
            name: name.to_owned(),
            facts: operator_plan::facts::NodeFacts {
                host_agents: [("a", "tcp://10.0.0.1:1"), ("b", "unix:///run/b"), ("c", "vsock://2:1")]
                    .map(|(agent, endpoint)| (agent.to_owned(), vec![endpoint.to_owned()]))
                    .into(),
                ..Default::default()
            },
            ..Node::default()
        };
        let mut strangers = Strangers::default();
        assert!(strangers.is_empty());
        for _ in 0..2 {
            strangers.learn("n1", "tcp://10.0.0.1:1");
            strangers.learn("n1", "unix:/run/b");
        }
        let seen = strangers.hide(&[node("n1"), node("n2")]);
        assert_eq!(seen[0].facts.host_agents.keys().collect::<Vec<_>>(), ["c"]);
        assert_eq!(seen[1], node("n2"));
        for number in 0..100 {
            strangers.learn("n1", &number.to_string());
        }
        assert_eq!(strangers.0.len(), Strangers::MOST);
    }

    #[test]
    fn two_that_choose_see_each_other() {
        let memory = Memory::default();
        let take = |uid: &str| {
            memory.choose(uid, |loads| {
                let free = loads.get("a").copied().unwrap_or(0) < 1;
                (free.then(|| "a".to_owned()), free)
            })
        };
        assert!(take("1"));
        assert!(take("1"), "its own share is no load");
        assert!(!take("2"));
        assert_eq!(memory.load("a"), 1);
        memory.keep(|uid| uid == "2");
        assert!(take("2"));
    }
}
