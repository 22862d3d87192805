//! A cluster in which desktopstream is installed, and the questions that tests ask it.

pub mod api;
pub mod chart;
pub mod gpus;
pub mod host_agent;
pub mod http;
pub mod images;
mod installed;
pub mod late;
pub mod pods;
pub mod rights;
pub mod samples;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{Cluster, Config, Output};

pub use installed::Installed;

/// Limit of each wait. Generous: it bounds conditions that never come, not slow machines.
pub const TIMEOUT: Duration = Duration::from_secs(180);
/// Namespace of the installation.
pub const SYSTEM: &str = "desktopstream";
/// Interval between two questions.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// A cluster, and the programs that are installed in it.
pub struct Testbed {
    /// The cluster.
    pub cluster: Cluster,
    /// The cluster's API.
    pub api: api::Api,
    /// The programs, as files.
    pub programs: images::Programs,
}

impl Testbed {
    /// A cluster with the programs' images and simulated GPUs, in which nothing is installed.
    pub fn up(name: &str, nodes: u8) -> Result<Self> {
        let operator = ["operator", "kubectl-desktopstream"];
        let programs = images::Programs::build(&[&operator, &["sidecar", "host-agent"]])?;
        let cluster = Cluster::up(&Config::new(name).nodes(nodes))?;
        for node in 1..=nodes {
            gpus::make(&cluster, node)?;
        }
        images::import(&cluster, &programs)?;
        Self::new(cluster, programs)
    }

    /// A cluster of one node without images, for operators that run beside the cluster.
    pub fn control_plane(name: &str) -> Result<Self> {
        let programs = images::Programs::build(&[&["operator"]])?;
        Self::new(Cluster::up(&Config::new(name))?, programs)
    }

    /// A testbed of a cluster that is up.
    pub fn new(cluster: Cluster, programs: images::Programs) -> Result<Self> {
        Ok(Self { api: api::Api::start(&cluster)?, cluster, programs })
    }

    /// Installs operator and node-agents with `operator install-manifests` and these arguments; returns when they are ready.
    pub fn install(&self, arguments: &[&str]) -> Result<()> {
        self.apply_manifests(arguments)?;
        self.await_installation()
    }

    /// Applies the manifests of `operator install-manifests`.
    pub fn apply_manifests(&self, arguments: &[&str]) -> Result<()> {
        let yaml = self.manifests(arguments)?;
        self.cluster
            .kubectl_with_input(&["apply", "--server-side", "-f", "-"], &yaml)?
            .ok()
            .context("installing")?;
        Ok(())
    }

    /// Output of `operator install-manifests`.
    pub fn manifests(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.programs.operator);
        command.args(["install-manifests", "--namespace", SYSTEM, "--image", images::OPERATOR]);
        command.args(["--sidecar-image", images::SIDECAR, "--pull-policy", "Never"]);
        command.args(["--dev", gpus::DEV, "--sys", gpus::SYS]);
        command.args(["--operator-arg=--poll=3s", "--node-arg=--reach-every=2s"]);
        // Most tests look at the log or the restarts of one operator.
        if !arguments.iter().any(|it| it.starts_with("--replicas")) {
            command.arg("--replicas=1");
        }
        let output = command.args(arguments).output().context("starting operator")?;
        ensure!(output.status.success(), "install-manifests: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Waits until operator and node-agents are rolled out and the apiserver calls the webhook.
    pub fn await_installation(&self) -> Result<()> {
        for workload in ["deployment/desktopstream-operator", "daemonset/desktopstream-node"] {
            let limit = format!("--timeout={}s", TIMEOUT.as_secs());
            self.cluster
                .kubectl(&["-n", SYSTEM, "rollout", "status", workload, &limit])
                .with_context(|| self.logs())?;
        }
        self.eventually("the apiserver trusts the webhook", || {
            for kind in ["validatingwebhookconfiguration", "mutatingwebhookconfiguration"] {
                let found = self.get(&[kind, "desktopstream"])?;
                let hooks = found["webhooks"].as_array().context("no webhooks")?;
                ensure!(
                    hooks.iter().all(|it| it["clientConfig"]["caBundle"].is_string()),
                    "{kind}: no caBundle yet"
                );
            }
            // The webhook's Service may be routed later.
            self.dry_run(&stream("dry-run", &spec_without_gpu()))?.ok()?;
            Ok(())
        })
    }

    /// Creates an object with `--dry-run=server`.
    pub fn dry_run(&self, object: &Value) -> Result<Output> {
        self.cluster.kubectl_with_input(&["create", "--dry-run=server", "-f", "-"], &object.to_string())
    }

    /// `kubectl get ARGUMENTS -o json`, in `default` unless the arguments begin with `-n NAMESPACE`.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        match arguments {
            [kind, name] if !name.starts_with('-') => return self.api.get("default", kind, name),
            ["-n", namespace, kind, name] => return self.api.get(namespace, kind, name),
            [kind, "-l", labels] => return Ok(json!({"items": self.api.list("default", kind, labels)?})),
            ["-n", namespace, kind, "-l", labels] => {
                return Ok(json!({"items": self.api.list(namespace, kind, labels)?}));
            }
            _ => {}
        }
        let text = self.cluster.kubectl(&[&["get", "-o", "json"], arguments].concat())?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Applies a stream in `default`.
    pub fn apply_stream(&self, name: &str, spec: &Value) -> Result<()> {
        self.cluster.apply(&stream(name, spec).to_string()).map(drop)
    }

    /// Deletes streams in `default`; returns when their objects are deleted, so that their names can be used again.
    pub fn delete_streams(&self, names: &[&str]) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        self.cluster.kubectl(&[&["delete", "desktopstream", "--ignore-not-found"], names].concat())?;
        for name in names {
            self.eventually(&format!("the objects of {name} are deleted"), || {
                for kind in ["pod", "service", "secret", "networkpolicy"] {
                    let left = self.api.list("default", kind, &format!("desktopstream.dev/stream={name}"))?;
                    ensure!(left.is_empty(), "{} of kind {kind}", left.len());
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Names of the streams in `default`.
    pub fn streams(&self) -> Result<Vec<String>> {
        let all = self.api.list("default", "desktopstream", "")?;
        Ok(all.iter().filter_map(|it| it["metadata"]["name"].as_str().map(ToOwned::to_owned)).collect())
    }

    /// Checks that no stream is left in `default`.
    pub fn check_no_streams(&self) -> Result<()> {
        let left = self.streams()?;
        ensure!(left.is_empty(), "the test left streams behind: {}", left.join(", "));
        Ok(())
    }

    /// Waits until a stream's condition has this reason; returns the condition's message.
    pub fn await_reason(&self, name: &str, kind: &str, reason: &str) -> Result<String> {
        self.eventually(&format!("{name}: {kind} with reason {reason}"), || {
            let stream = self.api.get("default", "desktopstream", name)?;
            let found = condition(&stream, kind);
            ensure!(found["reason"] == reason, "the status is {}", stream["status"]);
            Ok(found["message"].as_str().unwrap_or_default().to_owned())
        })
    }

    /// Waits until a stream is ready with a frame path that satisfies its spec.
    pub fn await_ready(&self, name: &str) -> Result<()> {
        self.await_reason(name, "Ready", "PathSatisfied").map(drop)
    }

    /// Waits until an object in `default` exists.
    pub fn await_object(&self, kind: &str, name: &str) -> Result<Value> {
        self.eventually(&format!("{kind} {name}"), || self.api.get("default", kind, name))
    }

    /// Waits until an object in `default` does not exist.
    pub fn await_deleted(&self, kind: &str, name: &str) -> Result<()> {
        self.eventually(&format!("{kind} {name} deleted"), || {
            ensure!(!self.api.exists("default", kind, name)?, "it exists");
            Ok(())
        })
    }

    /// Repeats a question until it succeeds, for at most [`TIMEOUT`].
    ///
    /// # Errors
    /// The last error, with the end of the programs' logs.
    pub fn eventually<T>(&self, condition: &str, question: impl FnMut() -> Result<T>) -> Result<T> {
        self.eventually_within(TIMEOUT, condition, question)
    }

    /// The same with another limit.
    pub fn eventually_within<T>(
        &self,
        limit: Duration,
        condition: &str,
        mut question: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            match question() {
                Ok(answer) => return Ok(answer),
                Err(error) if Instant::now() >= deadline => {
                    let condition = format!("{condition}: not within {} s", limit.as_secs());
                    return Err(error.context(condition).context(self.logs()));
                }
                Err(_) => sleep(RETRY_INTERVAL),
            }
        }
    }

    /// The list of pods, and the end of the logs of operator and node-agents.
    pub fn logs(&self) -> String {
        let of = |component: &str| {
            let selector = format!("app.kubernetes.io/component={component}");
            let arguments = ["-n", SYSTEM, "logs", "-l", &selector, "--tail=25", "--prefix"];
            let output = self.cluster.try_kubectl(&arguments);
            output.map(|output| output.stdout + &output.stderr).unwrap_or_default()
        };
        let pods = self.cluster.try_kubectl(&["get", "pods", "-A", "-o", "wide"]);
        format!("{}{}{}", pods.map(|it| it.stdout).unwrap_or_default(), of("operator"), of("node"))
    }

    /// Pods of the operator.
    pub fn operator_pods(&self) -> Result<Vec<Value>> {
        self.api.list(SYSTEM, "pods", "app.kubernetes.io/component=operator")
    }

    /// The operator's Lease.
    pub fn lease(&self) -> Result<Value> {
        self.api.get(SYSTEM, "lease", "desktopstream-operator")
    }

    /// Identity of the leading operator, `POD_RANDOM`.
    pub fn leader(&self) -> Option<String> {
        let lease = self.lease().ok()?;
        lease["spec"]["holderIdentity"].as_str().filter(|it| !it.is_empty()).map(ToOwned::to_owned)
    }

    /// Scales the operator's Deployment; returns when all replicas are ready and no other is left.
    pub fn scale(&self, replicas: u32) -> Result<()> {
        let count = format!("--replicas={replicas}");
        self.cluster.kubectl(&["-n", SYSTEM, "scale", "deployment/desktopstream-operator", &count])?;
        self.eventually(&format!("{replicas} operators"), || {
            let pods = self.operator_pods()?;
            ensure!(pods.len() == replicas as usize, "{} pods", pods.len());
            ensure!(pods.iter().all(|pod| condition(pod, "Ready")["status"] == "True"), "not all ready");
            Ok(())
        })
    }

    /// Writes a kubeconfig for a token; returns its path.
    pub fn kubeconfig_with_token(&self, name: &str, token: &str) -> Result<PathBuf> {
        let mut config: Value = serde_json::from_slice(&std::fs::read(self.cluster.kubeconfig())?)?;
        config["users"][0]["user"] = json!({"token": token.trim()});
        let file = self.cluster.folder()?.join(format!("{name}.kubeconfig"));
        std::fs::write(&file, config.to_string())?;
        Ok(file)
    }

    /// Writes a kubeconfig with the token of a node-agent; returns its path.
    pub fn node_agent_kubeconfig(&self) -> Result<PathBuf> {
        let pods = self.api.list(SYSTEM, "pods", "app.kubernetes.io/component=node")?;
        let pod = pods.first().and_then(|pod| pod["metadata"]["name"].as_str()).context("no node-agent")?;
        let bound = ["--bound-object-kind=Pod", "--bound-object-name", pod];
        let arguments = [&["-n", SYSTEM, "create", "token", "desktopstream-node"], &bound[..]].concat();
        self.kubeconfig_with_token("node-agent", &self.cluster.kubectl(&arguments)?)
    }

    /// Starts an operator beside the cluster, with the rights of the installed one.
    pub fn start_operator(&self, identity: &str, arguments: &[&str]) -> Result<Operator> {
        let token = self.cluster.kubectl(&["-n", SYSTEM, "create", "token", "desktopstream-operator"])?;
        let kubeconfig = self.kubeconfig_with_token(identity, &token)?;
        self.start_operator_with(identity, &kubeconfig, arguments)
    }

    /// Starts an operator beside the cluster that reaches the apiserver through a proxy without TLS, with the rights of the
    /// proxy.
    pub fn start_operator_through(&self, proxy: SocketAddr, identity: &str) -> Result<Operator> {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
            "clusters": [{"name": "proxy", "cluster": {"server": format!("http://{proxy}")}}],
            "users": [{"name": "proxy", "user": {}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
        });
        let kubeconfig = self.cluster.folder()?.join(format!("{identity}.kubeconfig"));
        std::fs::write(&kubeconfig, config.to_string())?;
        self.start_operator_with(identity, &kubeconfig, &[])
    }

    fn start_operator_with(&self, identity: &str, kubeconfig: &Path, arguments: &[&str]) -> Result<Operator> {
        let log = self.cluster.folder()?.join(format!("{identity}.log"));
        let out = std::fs::OpenOptions::new().create(true).append(true).open(&log)?;
        let metrics = http::free_address()?;
        let mut command = Command::new(&self.programs.operator);
        command.env("KUBECONFIG", kubeconfig).env("RUST_LOG", "info");
        command
            .args(["run", "--namespace", SYSTEM, "--identity", identity, "--metrics"])
            .arg(metrics.to_string());
        command.args(["--sidecar-image", images::SIDECAR, "--sidecar-pull-policy=Never"]).args(arguments);
        let child = command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn()?;
        Ok(Operator { child, log, metrics })
    }
}

/// An operator process beside the cluster. Killed on drop.
pub struct Operator {
    /// The process.
    pub child: Child,
    /// Path of the log.
    pub log: PathBuf,
    /// Address of the metrics.
    pub metrics: SocketAddr,
}

impl Operator {
    /// Waits until the operator leads and is ready.
    pub fn await_leading(&self, bed: &Testbed) -> Result<()> {
        bed.eventually("the operator leads", || {
            let (status, body) = http::get(self.metrics, "/metrics", None)?;
            let text = String::from_utf8(body)?;
            ensure!(status == 200 && text.contains("desktopstream_operator_leader 1"), "it does not lead");
            ensure!(http::get(self.metrics, "/readyz", None)?.0 == 200, "it is not ready");
            Ok(())
        })
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A `DesktopStream` in `default`.
pub fn stream(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "desktopstream.dev/v1alpha1", "kind": "DesktopStream",
        "metadata": {"name": name, "namespace": "default"}, "spec": spec,
    })
}

/// A spec without a GPU whose pod no node accepts, for tests that need no running pod.
pub fn spec_without_gpu() -> Value {
    json!({
        "desktop": {"image": images::DESKTOP, "imagePullPolicy": "Never", "nodeSelector": {"nowhere": "true"}},
        "gpu": {"count": 0}, "encode": {"placement": "Sidecar"},
    })
}

/// The condition `kind` of an object; `null` if the object does not have it.
pub fn condition(object: &Value, kind: &str) -> Value {
    let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|it| it["type"] == kind).unwrap_or_default()
}
