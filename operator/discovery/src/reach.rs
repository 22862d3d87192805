//! Which host-agents this node reaches, and where: by trying. A connection that is accepted counts; who
//! answers is for the token to find out.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use operator_api::{HostAgent, names};

/// How long a connection may take. A host is near.
const PATIENCE: Duration = Duration::from_secs(1);
/// Tries in a row that must fail before an endpoint counts as gone.
const MISSES: u32 = 2;

/// Remembers what was reached, so that one lost packet moves no stream.
#[derive(Debug, Default)]
pub struct Reach {
    misses: HashMap<(String, String), u32>,
}

impl Reach {
    /// Tries all endpoints of all host-agents that this node may use.
    pub async fn look(
        &mut self,
        agents: &[HostAgent],
        labels: &BTreeMap<String, String>,
        proc: &Path,
    ) -> BTreeMap<String, Vec<String>> {
        let mut reached = BTreeMap::new();
        let gateway = gateway(proc);
        let mut tried = HashMap::new();
        for agent in agents {
            let name = agent.metadata.name.clone().unwrap_or_default();
            let allowed = agent.spec.node_selector.iter().all(|(key, value)| labels.get(key) == Some(value));
            if !allowed || agent.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let mut good = Vec::new();
            for endpoint in endpoints(&agent.spec.endpoints, gateway) {
                let key = (name.clone(), endpoint.clone());
                let answers = tokio::time::timeout(PATIENCE, connect(&endpoint)).await.unwrap_or(false);
                // One that never answered has missed enough already.
                let before = self.misses.get(&key).copied().unwrap_or(MISSES);
                let misses = if answers { 0 } else { (before + 1).min(MISSES) };
                if misses < MISSES {
                    good.push(endpoint);
                }
                tried.insert(key, misses);
            }
            if !good.is_empty() {
                reached.insert(name, good);
            }
        }
        self.misses = tried;
        reached
    }
}

/// Endpoints to try: those given, else the usual ones; `gateway` filled in.
fn endpoints(given: &[String], gateway: Option<Ipv4Addr>) -> Vec<String> {
    let port = names::HOST_AGENT_PORT;
    let usual = [format!("vsock://2:{port}"), format!("tcp://gateway:{port}")];
    let all = if given.is_empty() { &usual[..] } else { given };
    all.iter()
        .filter_map(|endpoint| match endpoint.strip_prefix("tcp://gateway:") {
            Some(port) => gateway.map(|gateway| format!("tcp://{gateway}:{port}")),
            None => Some(endpoint.replace("vsock://host:", "vsock://2:")),
        })
        .collect()
}

async fn connect(endpoint: &str) -> bool {
    if let Some(address) = endpoint.strip_prefix("tcp://") {
        return tokio::net::TcpStream::connect(address).await.is_ok();
    }
    if let Some(path) = endpoint.strip_prefix("unix:") {
        return tokio::net::UnixStream::connect(path.replacen("//", "", 1)).await.is_ok();
    }
    let Some((cid, port)) = endpoint.strip_prefix("vsock://").and_then(|rest| rest.split_once(':')) else {
        return false;
    };
    match (cid.parse(), port.parse()) {
        (Ok(cid), Ok(port)) => vsock(cid, port).await,
        _ => false,
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

/// The node's default gateway, which for a VM is most often its host.
fn gateway(proc: &Path) -> Option<Ipv4Addr> {
    let table = std::fs::read_to_string(proc.join("net/route")).ok()?;
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let (destination, gateway) = (*columns.get(1)?, *columns.get(2)?);
        // Little-endian hexadecimal, as the kernel prints it on every machine that we run on.
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
    fn the_gateway_is_the_default_routes() {
        let root = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(root.path().join("net")).expect("a folder");
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\n\
                     eth0\t0000A8C0\t00000000\t0001\t0\n\
                     eth0\t00000000\t0140A8C0\t0003\t0\n";
        std::fs::write(root.path().join("net/route"), table).expect("writes");
        let gateway = gateway(root.path());
        assert_eq!(gateway, Some(Ipv4Addr::new(192, 168, 64, 1)));
        assert_eq!(endpoints(&[], gateway), ["vsock://2:15937", "tcp://192.168.64.1:15937"]);
        assert_eq!(endpoints(&["tcp://gateway:1".to_owned()], None), [""; 0]);
        assert_eq!(endpoints(&["vsock://host:1".to_owned()], None), ["vsock://2:1"]);
    }

    #[tokio::test]
    async fn an_endpoint_is_gone_when_it_misses_twice() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("tcp://{}", listener.local_addr().expect("an address"));
        let folder = tempfile::tempdir().expect("a folder");
        let agents = [
            agent("a", &serde_json::json!({"endpoints": [endpoint, "tcp://127.0.0.1:1"]})),
            agent("b", &serde_json::json!({"endpoints": [endpoint], "nodeSelector": {"zone": "x"}})),
            agent("c", &serde_json::json!({"endpoints": ["unix:/nowhere"]})),
        ];
        let mut reach = Reach::default();
        let none = BTreeMap::new();
        let seen = reach.look(&agents, &none, folder.path()).await;
        assert_eq!(seen, BTreeMap::from([("a".to_owned(), vec![endpoint.clone()])]));
        drop(listener);
        assert_eq!(reach.look(&agents, &none, folder.path()).await.len(), 1, "one miss is none");
        assert!(reach.look(&agents, &none, folder.path()).await.is_empty());
        let zone = BTreeMap::from([("zone".to_owned(), "x".to_owned())]);
        let _again =
            tokio::net::TcpListener::bind(endpoint.trim_start_matches("tcp://")).await.expect("the port");
        assert_eq!(reach.look(&agents, &zone, folder.path()).await.len(), 2);
    }
}
