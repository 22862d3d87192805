//! The apiserver by plain HTTP, through one `kubectl proxy`: a kubectl per question takes half a second of a processor,
//! and tests ask often.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::http;
use crate::Cluster;

/// Kinds by kubectl's names: where they are, and what the apiserver calls them.
const KINDS: [(&str, &str, &str); 15] = [
    ("desktopstream", "/apis/desktopstream.dev/v1alpha1", "desktopstreams"),
    ("hostagent", "/apis/desktopstream.dev/v1alpha1", "hostagents"),
    ("pod", "/api/v1", "pods"),
    ("service", "/api/v1", "services"),
    ("secret", "/api/v1", "secrets"),
    ("configmap", "/api/v1", "configmaps"),
    ("pvc", "/api/v1", "persistentvolumeclaims"),
    ("resourcequota", "/api/v1", "resourcequotas"),
    ("node", "/api/v1", "nodes"),
    ("ingress", "/apis/networking.k8s.io/v1", "ingresses"),
    ("networkpolicy", "/apis/networking.k8s.io/v1", "networkpolicies"),
    ("lease", "/apis/coordination.k8s.io/v1", "leases"),
    (
        "validatingwebhookconfiguration",
        "/apis/admissionregistration.k8s.io/v1",
        "validatingwebhookconfigurations",
    ),
    (
        "mutatingwebhookconfiguration",
        "/apis/admissionregistration.k8s.io/v1",
        "mutatingwebhookconfigurations",
    ),
    ("event", "/apis/events.k8s.io/v1", "events"),
];
/// Those without a namespace.
const EVERYWHERE: [&str; 4] =
    ["hostagents", "nodes", "validatingwebhookconfigurations", "mutatingwebhookconfigurations"];

/// The proxy; ends with this.
pub struct Api {
    proxy: Child,
    address: SocketAddr,
}

impl Api {
    /// Starts one.
    pub fn of(cluster: &Cluster) -> Result<Self> {
        let mut command = cluster.command("kubectl")?;
        command.args(["proxy", "--port=0"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut proxy = command.spawn()?;
        let mut line = String::new();
        BufReader::new(proxy.stdout.take().context("it has a stdout")?).read_line(&mut line)?;
        let address = line.trim().strip_prefix("Starting to serve on ").and_then(|it| it.parse().ok());
        let address = address.with_context(|| format!("kubectl proxy says {line:?}"))?;
        Ok(Self { proxy, address })
    }

    /// An object.
    pub fn get(&self, namespace: &str, kind: &str, name: &str) -> Result<Value> {
        match self.ask("GET", &format!("{}/{name}", path(namespace, kind)?), None)? {
            (200, object) => Ok(object),
            (_, status) => bail!("{kind} {name}: {}", status["message"]),
        }
    }

    /// Whether there is such an object.
    pub fn exists(&self, namespace: &str, kind: &str, name: &str) -> Result<bool> {
        match self.ask("GET", &format!("{}/{name}", path(namespace, kind)?), None)? {
            (200, _) => Ok(true),
            (404, _) => Ok(false),
            (status, said) => bail!("{kind} {name}: {status} {}", said["message"]),
        }
    }

    /// Those with these labels.
    pub fn list(&self, namespace: &str, kind: &str, labels: &str) -> Result<Vec<Value>> {
        let labels = labels.replace('/', "%2F").replace('=', "%3D");
        let (status, all) =
            self.ask("GET", &format!("{}?labelSelector={labels}", path(namespace, kind)?), None)?;
        ensure!(status == 200, "{kind}s: {}", all["message"]);
        Ok(all["items"].as_array().cloned().unwrap_or_default())
    }

    /// Creates it (POST) or puts it in another's place (PUT): whether it was taken, and what was said.
    pub fn put(&self, method: &str, object: &Value) -> Result<(bool, Value)> {
        let kind = object["kind"].as_str().context("no kind")?.to_lowercase();
        let mut path = path(object["metadata"]["namespace"].as_str().unwrap_or("default"), &kind)?;
        if method == "PUT" {
            path = format!("{path}/{}", object["metadata"]["name"].as_str().context("no name")?);
        }
        let (status, said) = self.ask(method, &path, Some(object))?;
        Ok((status < 300, said))
    }

    /// Any question.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let body = body.map(ToString::to_string).unwrap_or_default();
        let (status, answer) = http::request(self.address, method, path, None, &body)?;
        Ok((status, serde_json::from_slice(&answer).with_context(|| format!("{method} {path}: {status}"))?))
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.proxy.kill();
        let _ = self.proxy.wait();
    }
}

fn path(namespace: &str, kind: &str) -> Result<String> {
    let singular = kind.trim_end_matches('s');
    let found = KINDS.iter().find(|(name, _, plural)| *name == kind || *name == singular || *plural == kind);
    let (_, group, plural) = found.with_context(|| format!("kind {kind}: add it to the table"))?;
    if EVERYWHERE.contains(plural) {
        return Ok(format!("{group}/{plural}"));
    }
    Ok(format!("{group}/namespaces/{namespace}/{plural}"))
}
