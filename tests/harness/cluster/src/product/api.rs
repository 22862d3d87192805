//! Client of the apiserver through one `kubectl proxy`. A kubectl process per request would take half a second of a core.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::http;
use crate::Cluster;

/// Kinds by kubectl's singular names, with their API paths and plurals.
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
/// Plurals of cluster-scoped kinds.
const CLUSTER_SCOPED: [&str; 4] =
    ["hostagents", "nodes", "validatingwebhookconfigurations", "mutatingwebhookconfigurations"];

/// The proxy process. Ended on drop.
pub struct Api {
    proxy: Child,
    address: SocketAddr,
}

impl Api {
    /// Starts the proxy.
    pub fn start(cluster: &Cluster) -> Result<Self> {
        let mut command = cluster.command("kubectl")?;
        command.args(["proxy", "--port=0"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut proxy = command.spawn()?;
        let mut line = String::new();
        BufReader::new(proxy.stdout.take().context("stdout is a pipe")?).read_line(&mut line)?;
        let address = line.trim().strip_prefix("Starting to serve on ").and_then(|it| it.parse().ok());
        let address = address.with_context(|| format!("unexpected output of kubectl proxy: {line:?}"))?;
        Ok(Self { proxy, address })
    }

    /// Address of the proxy, which answers as the apiserver does, without TLS and authentication.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Gets an object.
    pub fn get(&self, namespace: &str, kind: &str, name: &str) -> Result<Value> {
        match self.request("GET", &format!("{}/{name}", path(namespace, kind)?), None)? {
            (200, object) => Ok(object),
            (_, status) => bail!("{kind} {name}: {}", status["message"]),
        }
    }

    /// True if the object exists.
    pub fn exists(&self, namespace: &str, kind: &str, name: &str) -> Result<bool> {
        match self.request("GET", &format!("{}/{name}", path(namespace, kind)?), None)? {
            (200, _) => Ok(true),
            (404, _) => Ok(false),
            (status, answer) => bail!("{kind} {name}: {status} {}", answer["message"]),
        }
    }

    /// Lists the objects with these labels; all if `labels` is empty.
    pub fn list(&self, namespace: &str, kind: &str, labels: &str) -> Result<Vec<Value>> {
        let labels = labels.replace('/', "%2F").replace('=', "%3D");
        let (status, all) =
            self.request("GET", &format!("{}?labelSelector={labels}", path(namespace, kind)?), None)?;
        ensure!(status == 200, "{kind}s: {}", all["message"]);
        Ok(all["items"].as_array().cloned().unwrap_or_default())
    }

    /// Creates an object (`POST`) or replaces it (`PUT`). Returns whether it was accepted, and the answer.
    pub fn put(&self, method: &str, object: &Value) -> Result<(bool, Value)> {
        let kind = object["kind"].as_str().context("no kind")?.to_lowercase();
        let mut path = path(object["metadata"]["namespace"].as_str().unwrap_or("default"), &kind)?;
        if method == "PUT" {
            path = format!("{path}/{}", object["metadata"]["name"].as_str().context("no name")?);
        }
        let (status, answer) = self.request(method, &path, Some(object))?;
        Ok((status < 300, answer))
    }

    /// Sends any request; returns status and answer.
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let body = body.map(ToString::to_string).unwrap_or_default();
        let (status, answer) = http::request(self.address, method, path, None, &body)?;
        Ok((status, serde_json::from_slice(&answer).with_context(|| format!("{method} {path}: {status}"))?))
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.proxy.kill();
        let _ = self.proxy.wait();
    }
}

fn path(namespace: &str, kind: &str) -> Result<String> {
    let singular = kind.trim_end_matches('s');
    let found = KINDS.iter().find(|(name, _, plural)| *name == kind || *name == singular || *plural == kind);
    let (_, group, plural) = found.with_context(|| format!("kind {kind} is not in KINDS: add it"))?;
    if CLUSTER_SCOPED.contains(plural) {
        return Ok(format!("{group}/{plural}"));
    }
    Ok(format!("{group}/namespaces/{namespace}/{plural}"))
}
