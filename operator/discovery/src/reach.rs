//! Finds the endpoints at which this machine reaches host-agents, by connecting to them.
//!
//! A connection that is accepted counts. Whether the right host-agent answers is decided when a sidecar connects: by the
//! fingerprint in the endpoint, and by the token.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use contract::Endpoint;
use operator_api::HostAgent;
use operator_plan::host_agent;

/// Time that a connection to a host-agent on the local network may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Consecutive failures after which an endpoint counts as unreachable.
const MAX_FAILURES: u32 = 2;

/// Connects to host-agents, and tolerates a single failure, so that one lost packet does not move a stream.
#[derive(Debug, Default)]
pub struct Reach {
    /// Consecutive failures, by HostAgent and endpoint.
    failures: HashMap<(String, Endpoint), u32>,
}

impl Reach {
    /// Connects to every endpoint of every host-agent that a node with `labels` may use. Returns the endpoints that
    /// answer, by HostAgent. `proc` is the machine's `/proc`.
    pub async fn probe(
        &mut self,
        agents: &[HostAgent],
        labels: &BTreeMap<String, String>,
        proc: &Path,
    ) -> BTreeMap<String, Vec<Endpoint>> {
        let mut reached = BTreeMap::new();
        let gateway = gateway(proc);
        let mut failures = HashMap::new();
        for agent in agents {
            let name = agent.metadata.name.clone().unwrap_or_default();
            let is_allowed =
                agent.spec.node_selector.iter().all(|(key, value)| labels.get(key) == Some(value));
            if !is_allowed || agent.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let mut answering = Vec::new();
            for endpoint in host_agent::endpoints(&agent.spec, gateway) {
                let key = (name.clone(), endpoint.clone());
                let answers =
                    tokio::time::timeout(CONNECT_TIMEOUT, connect(&endpoint)).await.unwrap_or(false);
                // An endpoint that has never answered starts as unreachable.
                let before = self.failures.get(&key).copied().unwrap_or(MAX_FAILURES);
                let count = if answers { 0 } else { (before + 1).min(MAX_FAILURES) };
                if count < MAX_FAILURES {
                    answering.push(endpoint);
                }
                failures.insert(key, count);
            }
            if !answering.is_empty() {
                reached.insert(name, answering);
            }
        }
        self.failures = failures;
        reached
    }
}

async fn connect(endpoint: &Endpoint) -> bool {
    match endpoint {
        Endpoint::Tls { host, port, .. } | Endpoint::Tcp { host, port } => {
            tokio::net::TcpStream::connect((host.as_str(), *port)).await.is_ok()
        }
        Endpoint::Unix(path) => tokio::net::UnixStream::connect(path).await.is_ok(),
        Endpoint::Vsock { cid, port } => vsock(*cid, *port).await,
    }
}

#[cfg(target_os = "linux")]
async fn vsock(cid: u32, port: u32) -> bool {
    let address = tokio_vsock::VsockAddr::new(cid, port);
    tokio_vsock::VsockStream::connect(address).await.is_ok()
}

#[cfg(not(target_os = "linux"))]
async fn vsock(_: u32, _: u32) -> bool {
    false
}

/// The machine's default gateway, which in a VM usually is the host. Reads `net/route` of `proc` (proc_net_route).
fn gateway(proc: &Path) -> Option<Ipv4Addr> {
    let table = std::fs::read_to_string(proc.join("net/route")).ok()?;
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let (destination, gateway) = (*columns.get(1)?, *columns.get(2)?);
        // The kernel prints the address as a number in host byte order: little-endian on every supported machine.
        let address = u32::from_str_radix(gateway, 16).ok()?.swap_bytes();
        (destination == "00000000" && address != 0).then(|| Ipv4Addr::from(address))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(name: &str, spec: &serde_json::Value) -> HostAgent {
        serde_json::from_value(serde_json::json!({"metadata": {"name": name}, "spec": spec}))
            .expect("an agent")
    }

    #[test]
    fn gateway_is_that_of_the_default_route() {
        let root = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(root.path().join("net")).expect("a folder");
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\n\
                     eth0\t0000A8C0\t00000000\t0001\t0\n\
                     eth0\t00000000\t0140A8C0\t0003\t0\n";
        std::fs::write(root.path().join("net/route"), table).expect("writes");
        assert_eq!(gateway(root.path()), Some(Ipv4Addr::new(192, 168, 64, 1)));
    }

    #[tokio::test]
    async fn endpoint_is_unreachable_after_two_failures() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let endpoint = format!("tls://{address}#sha256={}", "ab".repeat(32));
        let folder = tempfile::tempdir().expect("a folder");
        let agents = [
            agent("a", &serde_json::json!({"endpoints": [endpoint, "tcp://127.0.0.1:1"], "plaintext": true})),
            agent("b", &serde_json::json!({"endpoints": [endpoint], "nodeSelector": {"zone": "x"}})),
            agent("c", &serde_json::json!({"endpoints": ["unix:/nowhere"]})),
        ];
        let mut reach = Reach::default();
        let none = BTreeMap::new();
        let seen = reach.probe(&agents, &none, folder.path()).await;
        assert_eq!(seen, BTreeMap::from([("a".to_owned(), vec![endpoint.parse().expect("an endpoint")])]));
        drop(listener);
        assert_eq!(reach.probe(&agents, &none, folder.path()).await.len(), 1, "after one failure");
        assert!(reach.probe(&agents, &none, folder.path()).await.is_empty());
        let zone = BTreeMap::from([("zone".to_owned(), "x".to_owned())]);
        let _again = tokio::net::TcpListener::bind(address).await.expect("the port");
        assert_eq!(reach.probe(&agents, &zone, folder.path()).await.len(), 2);
    }
}
