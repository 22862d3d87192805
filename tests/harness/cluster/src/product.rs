//! A cluster with our programs in it, installed by `operator install-manifests`, and words for what tests say of it. The one
//! module that knows what we ship.

pub mod api;
pub mod gpus;
pub mod host_agent;
pub mod http;
pub mod images;
pub mod pods;
pub mod samples;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{Cluster, Config, Output};

/// Long, for busy machines: the limits are for what hangs.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Our namespace.
pub const SYSTEM: &str = "desktopstream";

/// The cluster and our programs.
pub struct Bed {
    /// The cluster.
    pub cluster: Cluster,
    /// Its apiserver.
    pub api: api::Api,
    /// What runs in it, as files.
    pub programs: images::Programs,
}

impl Bed {
    /// A cluster with images and GPUs in it, and the kinds.
    pub fn up(name: &str, nodes: u8) -> Result<Self> {
        let programs = images::Programs::build(&[&["operator"], &["sidecar", "host-agent"]])?;
        let cluster = Cluster::up(&Config::new(name).nodes(nodes))?;
        for node in 1..=nodes {
            gpus::make(&cluster, node)?;
        }
        images::import(&cluster, &programs)?;
        Self::of(cluster, programs)
    }

    /// A cluster of one node without images, for operators that run beside it.
    pub fn control_plane(name: &str) -> Result<Self> {
        let programs = images::Programs::build(&[&["operator"]])?;
        Self::of(Cluster::up(&Config::new(name))?, programs)
    }

    /// A cluster that has what it needs already.
    pub fn of(cluster: Cluster, programs: images::Programs) -> Result<Self> {
        Ok(Self { api: api::Api::of(&cluster)?, cluster, programs })
    }

    /// Installs operator and node-agent with these arguments, and waits until they work.
    pub fn install(&self, more: &[&str]) -> Result<()> {
        self.apply_manifests(more)?;
        self.installed()
    }

    /// Applies the manifests.
    pub fn apply_manifests(&self, more: &[&str]) -> Result<()> {
        let yaml = self.manifests(more)?;
        self.stdin(&["apply", "--server-side", "-f", "-"], &yaml)?.ok().context("installing")?;
        Ok(())
    }

    /// What `install-manifests` prints.
    pub fn manifests(&self, more: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.programs.operator);
        command.args(["install-manifests", "--namespace", SYSTEM, "--image", images::OPERATOR]);
        command.args(["--sidecar-image", images::SIDECAR, "--pull-policy", "Never"]);
        command.args(["--dev", gpus::DEV, "--sys", gpus::SYS]);
        command.args(["--operator-arg=--poll=3s", "--node-arg=--reach-every=2s"]);
        let output = command.args(more).output().context("starting operator")?;
        ensure!(output.status.success(), "install-manifests: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Waits until the installation works.
    pub fn installed(&self) -> Result<()> {
        for what in ["deployment/desktopstream-operator", "daemonset/desktopstream-node"] {
            let limit = format!("--timeout={}s", PATIENCE.as_secs());
            self.cluster
                .kubectl(&["-n", SYSTEM, "rollout", "status", what, &limit])
                .with_context(|| self.logs())?;
        }
        self.eventually("the apiserver trusts the webhook", || {
            for kind in ["validatingwebhookconfiguration", "mutatingwebhookconfiguration"] {
                let found = self.get(&[kind, "desktopstream"])?;
                let hooks = found["webhooks"].as_array().context("no hooks")?;
                ensure!(
                    hooks.iter().all(|it| it["clientConfig"]["caBundle"].is_string()),
                    "{kind}: not told yet"
                );
            }
            // Its Service may lead to it a moment later.
            self.dry_run(&stream("asks", &no_gpu()))?.ok()?;
            Ok(())
        })
    }

    /// Asks the apiserver to take this, without keeping it.
    pub fn dry_run(&self, object: &Value) -> Result<Output> {
        self.stdin(&["create", "--dry-run=server", "-f", "-"], &object.to_string())
    }

    /// kubectl with an input.
    pub fn stdin(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let mut command = self.cluster.command("kubectl")?;
        let mut child = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("it has a stdin")?;
        stdin.write_all(input.as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Output {
            status: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        })
    }

    /// What `kubectl get … -o json` says.
    pub fn get(&self, what: &[&str]) -> Result<Value> {
        match what {
            [kind, name] if !name.starts_with('-') => return self.api.get("default", kind, name),
            ["-n", namespace, kind, name] => return self.api.get(namespace, kind, name),
            [kind, "-l", labels] => return Ok(json!({"items": self.api.list("default", kind, labels)?})),
            ["-n", namespace, kind, "-l", labels] => {
                return Ok(json!({"items": self.api.list(namespace, kind, labels)?}));
            }
            _ => {}
        }
        let text = self.cluster.kubectl(&[&["get", "-o", "json"], what].concat())?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Applies a stream with this spec.
    pub fn stream(&self, name: &str, spec: &Value) -> Result<()> {
        self.cluster.apply(&stream(name, spec).to_string()).map(drop)
    }

    /// Deletes streams, and waits until their pods are gone.
    pub fn remove(&self, names: &[&str]) -> Result<()> {
        self.cluster.kubectl(&[&["delete", "desktopstream"], names].concat())?;
        for name in names {
            self.gone("pod", &format!("{name}-desktop"))?;
        }
        Ok(())
    }

    /// Waits until a stream's condition has this reason; its message.
    pub fn reason(&self, name: &str, condition: &str, reason: &str) -> Result<String> {
        self.eventually(&format!("{name}: {condition} because {reason}"), || {
            let stream = self.api.get("default", "desktopstream", name)?;
            let found = self::condition(&stream, condition);
            ensure!(found["reason"] == reason, "it is {}", stream["status"]);
            Ok(found["message"].as_str().unwrap_or_default().to_owned())
        })
    }

    /// Waits until an object is there.
    pub fn object(&self, kind: &str, name: &str) -> Result<Value> {
        self.eventually(&format!("{kind} {name}"), || self.api.get("default", kind, name))
    }

    /// Waits until an object is gone.
    pub fn gone(&self, kind: &str, name: &str) -> Result<()> {
        self.eventually(&format!("{kind} {name} gone"), || {
            ensure!(!self.api.exists("default", kind, name)?, "it is there");
            Ok(())
        })
    }

    /// Asks again until it is so; an error carries the last answer and what our programs logged.
    pub fn eventually<T>(&self, what: &str, ask: impl FnMut() -> Result<T>) -> Result<T> {
        self.eventually_within(PATIENCE, what, ask)
    }

    /// The same with a limit of one's own.
    pub fn eventually_within<T>(
        &self,
        limit: Duration,
        what: &str,
        mut ask: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            match ask() {
                Ok(answer) => return Ok(answer),
                Err(error) if Instant::now() >= deadline => {
                    let what = format!("{what}: not within {} s", limit.as_secs());
                    return Err(error.context(what).context(self.logs()));
                }
                Err(_) => sleep(Duration::from_millis(250)),
            }
        }
    }

    /// The ends of our programs' logs.
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

    /// Who leads.
    pub fn leader(&self) -> Option<String> {
        let lease = self.api.get(SYSTEM, "lease", "desktopstream-operator").ok()?;
        lease["spec"]["holderIdentity"].as_str().filter(|it| !it.is_empty()).map(ToOwned::to_owned)
    }

    /// As many operators in the cluster; waits until it is so.
    pub fn scale(&self, replicas: u32) -> Result<()> {
        let count = format!("--replicas={replicas}");
        self.cluster.kubectl(&["-n", SYSTEM, "scale", "deployment/desktopstream-operator", &count])?;
        self.eventually("the Deployment has them", || {
            let selector = "app.kubernetes.io/component=operator";
            let pods = self.api.list(SYSTEM, "pods", selector)?;
            ensure!(pods.len() == replicas as usize, "{} pods", pods.len());
            ensure!(pods.iter().all(|pod| condition(pod, "Ready")["status"] == "True"), "not all ready");
            Ok(())
        })
    }

    /// An operator beside the cluster, with the rights of the one inside and no others.
    pub fn operator_outside(&self, identity: &str, more: &[&str]) -> Result<Outside> {
        let token = self.cluster.kubectl(&["-n", SYSTEM, "create", "token", "desktopstream-operator"])?;
        let mut config: Value = serde_json::from_slice(&std::fs::read(self.cluster.kubeconfig())?)?;
        config["users"][0]["user"] = json!({"token": token.trim()});
        let file = self.cluster.folder()?.join(format!("{identity}.kubeconfig"));
        std::fs::write(&file, config.to_string())?;
        let log = self.cluster.folder()?.join(format!("{identity}.log"));
        let out = std::fs::OpenOptions::new().create(true).append(true).open(&log)?;
        let metrics = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut command = Command::new(&self.programs.operator);
        command.env("KUBECONFIG", &file).env("RUST_LOG", "info");
        command.args([
            "run",
            "--namespace",
            SYSTEM,
            "--identity",
            identity,
            "--metrics",
            &metrics.to_string(),
        ]);
        command.args(["--sidecar-image", images::SIDECAR, "--sidecar-pull-policy=Never"]).args(more);
        let child = command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn()?;
        Ok(Outside { child, log, metrics })
    }
}

/// A process of ours; killed with this.
pub struct Outside {
    /// It.
    pub child: Child,
    /// What it says.
    pub log: PathBuf,
    /// Where its numbers are.
    pub metrics: std::net::SocketAddr,
}

impl Drop for Outside {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A stream as an object.
pub fn stream(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "desktopstream.dev/v1alpha1", "kind": "DesktopStream",
        "metadata": {"name": name, "namespace": "default"}, "spec": spec,
    })
}

/// A spec whose desktop needs no GPU, and that no node takes: for what needs no running pod.
pub fn no_gpu() -> Value {
    json!({
        "desktop": {"image": images::DESKTOP, "imagePullPolicy": "Never", "nodeSelector": {"nowhere": "true"}},
        "gpu": {"count": 0}, "encode": {"where": "Sidecar"},
    })
}

/// A stream's or a pod's condition.
pub fn condition(object: &Value, kind: &str) -> Value {
    let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|it| it["type"] == kind).unwrap_or_default()
}

/// Tells how long the parts of a test took.
pub struct Watch(Instant);

impl Watch {
    /// From now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// This is done.
    pub fn lap(&mut self, what: &str) {
        println!("{:6.1} s  {what}", self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}
