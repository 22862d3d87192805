//! State that no object holds: current pairings, issued tokens, last answers of sidecars. It is lost with the process and
//! rebuilt from objects and sidecars.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use contract::Endpoint;
use operator_api::DesktopStreamStatus;
use operator_plan::facts::Node;
use operator_plan::kubernetes::HostAgentSecret;
use parking_lot::Mutex;

/// State of one stream.
#[derive(Debug, Default, Clone)]
pub struct Stream {
    /// Host-agent that the stream is paired with; counts as its load.
    pub host_agent: Option<String>,
    /// The host-agent Secret; `None` until this process has written it.
    pub host_agent_secret: Option<WrittenSecret>,
    /// Time at which the stream's own viewer Secret was last found to exist.
    pub viewer_secret_at: Option<Instant>,
    /// Last status that was written, which the watch may not have reported yet.
    pub status: Option<TimedStatus>,
    /// Consecutive failures.
    pub failures: u32,
    /// Error of a stream whose types are not known, once its status reports it.
    pub unreadable: Option<String>,
    /// Endpoints that lead to host-agents of other VMs.
    pub mispaired: MispairedEndpoints,
    /// Time at which the pod was last replaced because it ran without its device.
    pub device_replaced_at: Option<Instant>,
    /// Time at which the statistics in the status last changed.
    pub stats_written_at: Option<Instant>,
}

/// The host-agent Secret as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenSecret {
    /// Endpoint and token; `None` without a host-agent.
    pub content: Option<HostAgentSecret>,
    /// Time of the last write.
    pub at: Instant,
}

/// A status that was written.
#[derive(Debug, Clone)]
pub struct TimedStatus {
    /// Time of the write.
    pub at: Instant,
    /// The status.
    pub status: DesktopStreamStatus,
}

/// Endpoints that, from a node, lead to a host-agent of another VM.
///
/// Entries expire, because a VM can be restarted with another tap.
#[derive(Debug, Default, Clone)]
pub struct MispairedEndpoints(Vec<Mispaired>);

#[derive(Debug, Clone)]
struct Mispaired {
    node: String,
    endpoint: Endpoint,
    at: Instant,
}

impl MispairedEndpoints {
    /// Time after which an entry expires.
    const EXPIRY: Duration = Duration::from_secs(600);
    /// Maximum number of entries; the number of host-agents that a node reaches is smaller.
    const MAX: usize = 16;

    /// Records that a sidecar on `node` reached another VM's host-agent at `endpoint`.
    pub fn observe(&mut self, node: &str, endpoint: &Endpoint) {
        self.0.retain(|it| it.at.elapsed() < Self::EXPIRY && (it.node != node || it.endpoint != *endpoint));
        self.0.truncate(Self::MAX - 1);
        self.0.push(Mispaired { node: node.to_owned(), endpoint: endpoint.clone(), at: Instant::now() });
    }

    /// The nodes without these endpoints.
    pub fn hide(&self, nodes: &[Node]) -> Vec<Node> {
        let mut nodes = nodes.to_vec();
        for entry in self.0.iter().filter(|it| it.at.elapsed() < Self::EXPIRY) {
            let Some(node) = nodes.iter_mut().find(|node| node.name == entry.node) else { continue };
            for endpoints in node.facts.host_agents.values_mut() {
                endpoints.retain(|endpoint| *endpoint != entry.endpoint);
            }
            node.facts.host_agents.retain(|_, endpoints| !endpoints.is_empty());
        }
        nodes
    }

    /// True without entries.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// State of all streams, by UID.
#[derive(Debug, Default)]
pub struct Memory(Mutex<HashMap<String, Stream>>);

impl Memory {
    /// Copy of a stream's state.
    pub fn get(&self, uid: &str) -> Stream {
        self.0.lock().get(uid).cloned().unwrap_or_default()
    }

    /// Changes a stream's state.
    pub fn update<T>(&self, uid: &str, change: impl FnOnce(&mut Stream) -> T) -> T {
        change(self.0.lock().entry(uid.to_owned()).or_default())
    }

    /// Chooses a host-agent for a stream while no other choice is made. `choose` gets the number of other streams by
    /// host-agent; `taken` is the host-agent whose load the choice counts as.
    pub fn choose<T>(
        &self,
        uid: &str,
        choose: impl FnOnce(&HashMap<String, u32>) -> T,
        taken: impl FnOnce(&T) -> Option<String>,
    ) -> T {
        let mut all = self.0.lock();
        let mut loads = HashMap::new();
        for stream in all.iter().filter(|(other, _)| *other != uid).map(|(_, stream)| stream) {
            if let Some(host_agent) = &stream.host_agent {
                *loads.entry(host_agent.clone()).or_insert(0) += 1;
            }
        }
        let choice = choose(&loads);
        all.entry(uid.to_owned()).or_default().host_agent = taken(&choice);
        choice
    }

    /// Number of streams that are paired with a host-agent.
    pub fn load(&self, host_agent: &str) -> u32 {
        let all = self.0.lock();
        all.values().filter(|stream| stream.host_agent.as_deref() == Some(host_agent)).count() as u32
    }

    /// Removes streams that no longer exist.
    pub fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.0.lock().retain(|uid, _| exists(uid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mispaired_endpoint_is_hidden_only_at_its_node() {
        let endpoint = |text: &str| text.parse::<Endpoint>().expect("an endpoint");
        let node = |name: &str| Node {
            name: name.to_owned(),
            facts: operator_plan::facts::NodeFacts {
                host_agents: [("a", "tcp://10.0.0.1:1"), ("b", "unix:///run/b"), ("c", "vsock://2:1")]
                    .map(|(agent, text)| (agent.to_owned(), vec![endpoint(text)]))
                    .into(),
                ..Default::default()
            },
            ..Node::default()
        };
        let mut mispaired = MispairedEndpoints::default();
        assert!(mispaired.is_empty());
        for _ in 0..2 {
            mispaired.observe("n1", &endpoint("tcp://10.0.0.1:1"));
            mispaired.observe("n1", &endpoint("unix:/run/b"));
        }
        let seen = mispaired.hide(&[node("n1"), node("n2")]);
        assert_eq!(seen[0].facts.host_agents.keys().collect::<Vec<_>>(), ["c"]);
        assert_eq!(seen[1], node("n2"));
        for port in 0..100 {
            mispaired.observe("n1", &endpoint(&format!("vsock://2:{port}")));
        }
        assert_eq!(mispaired.0.len(), MispairedEndpoints::MAX);
    }

    #[test]
    fn choices_count_each_other_as_load() {
        let memory = Memory::default();
        let take = |uid: &str| {
            memory.choose(
                uid,
                |loads| loads.get("a").copied().unwrap_or(0) < 1,
                |is_free| is_free.then(|| "a".to_owned()),
            )
        };
        assert!(take("1"));
        assert!(take("1"), "a stream is not a load of its own");
        assert!(!take("2"));
        assert_eq!(memory.load("a"), 1);
        memory.retain(|uid| uid == "2");
        assert!(take("2"));
    }
}
