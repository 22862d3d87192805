//! The Helm chart in a real cluster: installation, upgrade under a running stream, uninstallation; and the kubectl plugin.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::ops::Deref;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cluster::product::{
    SYSTEM, TIMEOUT, Testbed, chart, condition, gpus, http, pods, rights, spec_without_gpu,
};
use cluster::suite::{Fixture, Suite};
use cluster::{Output, tests};
use serde_json::{Value, json};

/// The stream that most tests use.
const STREAM: &str = "pattern";
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// A cluster with the chart and a stream.
struct Chart {
    bed: Testbed,
    /// Objects before the first installation.
    before: BTreeSet<String>,
    /// Helm's output at the installation.
    notes: String,
}

impl Deref for Chart {
    type Target = Testbed;

    fn deref(&self) -> &Testbed {
        &self.bed
    }
}

impl Fixture for Chart {
    fn restore(&mut self) -> Result<()> {
        // Returns the release to its first values, or installs the chart again.
        helm(&self.bed, &["upgrade", "--install"], &["--create-namespace", "--reset-values"])?;
        self.bed.await_installation()?;
        self.start_stream()
    }
}

fn main() -> ExitCode {
    Suite::new()
        .fixture(
            Chart::up,
            tests![
                installed_pods_are_ready_without_a_restart,
                notes_name_the_next_command,
                all_value_sets_pass_strict_validation,
                helm_test_passes_and_removes_its_pod,
                node_agent_may_write_its_facts_on_its_own_node_only,
                plugin_list_prints_rates_and_frame_paths,
                plugin_list_of_an_empty_namespace_says_so,
                plugin_snapshot_writes_a_png,
                plugin_open_serves_with_the_token_until_it_is_ended,
                plugin_open_serves_with_the_view_only_token_on_request,
                plugin_doctor_reports_the_source,
                plugin_logs_prints_the_last_lines,
                plugin_names_a_missing_stream,
                plugin_explains_a_suspended_stream,
                upgrade_keeps_the_stream_running,
                second_release_is_refused,
                programs_of_another_installation_end_and_name_it,
                reinstallation_keeps_the_signing_key,
                wait_returns_for_a_suspended_stream_and_not_for_a_missing_image,
                uninstallation_leaves_only_the_users_objects,
            ],
        )
        .main()
}

impl Chart {
    fn up() -> Result<Self> {
        let bed = Testbed::up("chart", 1)?;
        let before = settled_inventory(&bed)?;
        let notes = helm(&bed, &["install"], &["--create-namespace"])?;
        bed.await_installation()?;
        let chart = Self { bed, before, notes };
        chart.start_stream()?;
        Ok(chart)
    }

    fn start_stream(&self) -> Result<()> {
        self.apply_stream(STREAM, &pods::pattern(&json!({})))?;
        // The sidecar streams before the desktop is ready.
        for object in [format!("desktopstream/{STREAM}"), format!("pod/{STREAM}-desktop")] {
            self.cluster.wait("default", &object, "condition=Ready", TIMEOUT).with_context(|| self.logs())?;
        }
        Ok(())
    }

    /// The stream's pod.
    fn pod(&self) -> Result<Value> {
        self.get(&["pod", &format!("{STREAM}-desktop")])
    }

    /// `kubectl desktopstream` with these arguments.
    fn plugin(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.cluster.command("kubectl")?;
        let folder = self.programs.operator.parent().context("the program's path has no folder")?.to_owned();
        let path = command.get_envs().find(|(name, _)| *name == "PATH").and_then(|(_, path)| path);
        let path = std::env::split_paths(path.context("no PATH")?).collect::<Vec<_>>();
        let path = std::env::join_paths([folder].into_iter().chain(path))?;
        command.env("PATH", path).arg("desktopstream").args(arguments);
        Ok(command)
    }

    fn run_plugin(&self, arguments: &[&str]) -> Result<Output> {
        cluster::cluster::run(&mut self.plugin(arguments)?, b"")
    }
}

/// Helm with the simulated GPUs, for this suite's cluster.
fn helm(bed: &Testbed, verb: &[&str], arguments: &[&str]) -> Result<String> {
    let values = [
        format!("node.devDir={},node.sysDir={}", gpus::DEV, gpus::SYS),
        // Keeps node-agents away from Node objects without a kubelet.
        "node.nodeSelector.kubernetes\\.io/os=linux".to_owned(),
        "operator.env[0].name=OPERATOR_LEASE,operator.env[0].value=6s".to_owned(),
    ];
    let sets: Vec<&str> = values.iter().flat_map(|set| ["--set", set.as_str()]).collect();
    chart::helm(bed, verb, &[&sets[..], arguments].concat())
}

fn installed_pods_are_ready_without_a_restart(chart: &Chart) -> Result<()> {
    chart.await_installation()?;
    let pods = chart.get(&["-n", SYSTEM, "pods"])?;
    let pods = pods["items"].as_array().context("no list")?;
    ensure!(pods.len() >= 2, "operator and node-agent: {} pods", pods.len());
    for pod in pods {
        let containers = pod["status"]["containerStatuses"].as_array().context("no statuses")?;
        ensure!(containers.iter().all(|it| it["restartCount"] == 0), "{}", chart.logs());
    }
    Ok(())
}

fn notes_name_the_next_command(chart: &Chart) -> Result<()> {
    ensure!(chart.notes.contains("kubectl desktopstream open pattern"), "{}", chart.notes);
    Ok(())
}

/// Kinds that this cluster does not have (ServiceMonitor, Certificate) are left out.
fn all_value_sets_pass_strict_validation(chart: &Chart) -> Result<()> {
    chart.cluster.kubectl(&["create", "namespace", "team"])?;
    let mut sets = 0;
    for set in std::fs::read_dir(lab::repository().join("charts/desktopstream/ci"))? {
        let (folder, set) = (chart::folder(), set?.path().display().to_string());
        let without = "metrics.serviceMonitor.enabled=false,webhook.certManager.enabled=false";
        let template =
            ["template", "other", &folder, "-n", "team", "-f", &set, "--set", without, "--skip-tests"];
        let yaml = chart.cluster.helm(&template)?;
        let apply = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--dry-run=server",
            "--validate=strict",
            "-f",
            "-",
        ];
        let output = chart.cluster.kubectl_with_input(&apply, &yaml)?;
        ensure!(output.success() && !output.stderr.contains("unknown field"), "{set}: {}", output.stderr);
        sets += 1;
    }
    ensure!(sets >= 4, "only {sets} value sets");
    chart.cluster.kubectl(&["delete", "namespace", "team"])?;
    Ok(())
}

fn helm_test_passes_and_removes_its_pod(chart: &Chart) -> Result<()> {
    let test = ["test", chart::RELEASE, "-n", SYSTEM, "--logs", "--timeout=180s"];
    let report = chart.cluster.helm(&test).with_context(|| chart.logs())?;
    for line in ["ok    kinds: 1", "ok    leader", "ok    webhook: 1 hooks", "ok    nodes: 1 of 1"] {
        ensure!(report.contains(line), "no line {line:?}: {report}");
    }
    let is_check = |it: &String| it.starts_with("Pod/") && it.contains("-check");
    let left: Vec<String> = inventory(chart)?.into_iter().filter(is_check).collect();
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

fn node_agent_may_write_its_facts_on_its_own_node_only(chart: &Chart) -> Result<()> {
    rights::check_node_agent(chart)
}

fn plugin_list_prints_rates_and_frame_paths(chart: &Chart) -> Result<()> {
    chart.eventually("the list has the stream's rate", || {
        let json: Value = serde_json::from_str(&chart.run_plugin(&["list", "--json"])?.ok()?)?;
        let row = &json[0];
        ensure!(row["fps"].as_u64() > Some(0), "{json}");
        ensure!(row["name"] == STREAM && row["framePath"] == "Local", "{json}");
        ensure!(row["nodeName"] == "n1" && row["problem"] == "", "{json}");
        Ok(())
    })?;
    let table = chart.run_plugin(&["list", "-A"])?.ok()?;
    println!("{table}");
    ensure!(table.starts_with("NAMESPACE") && table.contains(" Local "), "{table}");
    Ok(())
}

fn plugin_list_of_an_empty_namespace_says_so(chart: &Chart) -> Result<()> {
    let output = chart.run_plugin(&["list", "-n", SYSTEM])?;
    ensure!(output.success() && output.stderr.contains("no streams"), "{output:?}");
    Ok(())
}

fn plugin_snapshot_writes_a_png(chart: &Chart) -> Result<()> {
    let file = chart.cluster.folder()?.join("picture.png");
    chart.run_plugin(&["snapshot", STREAM, "-o", &file.display().to_string()])?.ok()?;
    let picture = std::fs::read(&file)?;
    ensure!(picture.starts_with(PNG), "not a PNG");
    // Width and height in the header: 320 and 180.
    ensure!(picture[16..24] == [0, 0, 1, 64, 0, 0, 0, 180], "{:?}", &picture[16..24]);
    Ok(())
}

/// Starts `open`; returns it with the address and the token that it prints.
fn open(chart: &Chart, more: &[&str]) -> Result<(Child, SocketAddr, String)> {
    let arguments = [&["open", STREAM, "--json"], more].concat();
    let mut open = chart.plugin(&arguments)?.stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(open.stdout.take().context("stdout is a pipe")?).read_line(&mut line)?;
    let json: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
    let url = json["url"].as_str().and_then(|url| url.strip_prefix("http://")).context("no HTTP URL")?;
    let (address, token) = url.split_once("/#token=").context("the URL has no token in its fragment")?;
    Ok((open, address.parse()?, token.to_owned()))
}

fn plugin_open_serves_with_the_view_only_token_on_request(chart: &Chart) -> Result<()> {
    let (mut watch, address, token) = open(chart, &["--view-only"])?;
    let (status, body) = http::get(address, "/status", Some(&token))?;
    ensure!(status == 200, "{status}: {}", String::from_utf8_lossy(&body));
    let (mut control, _, other) = open(chart, &[])?;
    ensure!(token != other, "the token of viewers that may control the desktop");
    for child in [&mut watch, &mut control] {
        pods::signal(child.id(), rustix::process::Signal::TERM)?;
        child.wait()?;
    }
    Ok(())
}

fn plugin_open_serves_with_the_token_until_it_is_ended(chart: &Chart) -> Result<()> {
    let (mut open, address, token) = open(chart, &[])?;
    let token = token.as_str();
    let (status, body) = http::get(address, "/status", Some(token))?;
    ensure!(status == 200, "{status}: {}", String::from_utf8_lossy(&body));
    let (status, _) = http::get(address, "/status", None)?;
    ensure!(status == 401, "{status} without the token");
    let (status, page) = http::get(address, "/", Some(token))?;
    ensure!(status == 200, "{status}: {}", String::from_utf8_lossy(&page));
    let (status, _) = http::get(address, &format!("/?token={token}"), None)?;
    ensure!(status == 401, "{status} with the token in the query");

    pods::signal(open.id(), rustix::process::Signal::TERM)?;
    let status = open.wait()?;
    ensure!(status.success(), "{status} after SIGTERM");
    ensure!(http::get(address, "/status", None).is_err(), "the port is still open");
    Ok(())
}

fn plugin_doctor_reports_the_source(chart: &Chart) -> Result<()> {
    let doctor = chart.run_plugin(&["doctor", STREAM, "--json"])?;
    let json: Value = serde_json::from_str(&doctor.stdout).with_context(|| format!("{doctor:?}"))?;
    println!("exit status {:?}: {json}", doctor.status);
    ensure!(json.to_string().contains("pattern"), "{json}");
    ensure!(matches!(doctor.status, Some(0 | 1)), "{doctor:?}");
    Ok(())
}

fn plugin_logs_prints_the_last_lines(chart: &Chart) -> Result<()> {
    let log = chart.run_plugin(&["logs", STREAM, "--tail=5"])?.ok()?;
    ensure!((1..=5).contains(&log.lines().count()), "{log}");
    chart.run_plugin(&["logs", STREAM, "--desktop"])?.ok()?;
    Ok(())
}

fn plugin_names_a_missing_stream(chart: &Chart) -> Result<()> {
    for arguments in [&["open", "missing"][..], &["logs", STREAM, "--pod", "missing"]] {
        let output = chart.run_plugin(arguments)?;
        ensure!(!output.success() && output.stderr.contains("not found"), "{arguments:?}: {output:?}");
    }
    Ok(())
}

fn plugin_explains_a_suspended_stream(chart: &Chart) -> Result<()> {
    let mut spec = spec_without_gpu();
    spec["operatingMode"] = "Suspended".into();
    chart.apply_stream("suspended", &spec)?;
    chart.eventually("the plugin explains why there is no picture", || {
        let output = chart.run_plugin(&["snapshot", "suspended"])?;
        ensure!(!output.success() && output.stderr.contains("no pod (Suspended)"), "{output:?}");
        Ok(())
    })?;
    chart.delete_streams(&["suspended"])
}

fn upgrade_keeps_the_stream_running(chart: &mut Chart) -> Result<()> {
    let identity = |pod: &Value| {
        let lists = ["initContainerStatuses", "containerStatuses"].map(|list| pod["status"][list].clone());
        let statuses = lists.iter().filter_map(Value::as_array).flatten();
        let restarts: Vec<Value> = statuses.map(|it| it["restartCount"].clone()).collect();
        (pod["metadata"]["uid"].clone(), restarts)
    };
    let before = identity(&chart.pod()?);
    let crds = format!("{}/crds", chart::folder());
    chart.cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &crds])?;
    let revision = |chart: &Chart| -> Result<usize> {
        let history = chart.cluster.helm(&["history", chart::RELEASE, "-n", SYSTEM, "-o", "json"])?;
        Ok(serde_json::from_str::<Vec<Value>>(&history)?.len())
    };
    let revisions = revision(chart)?;
    let values = "operator.replicas=2,node.shares=8,operator.podAnnotations.round=two";
    helm(chart, &["upgrade"], &["--set", values])?;
    chart.await_installation()?;
    chart.eventually("the node offers the new number of shares", || {
        let node = chart.get(&["node", "n1"])?;
        let shares = &node["status"]["allocatable"]["desktopstream.dev/dri-virtio"];
        ensure!(shares == "8", "{shares}");
        Ok(())
    })?;
    // The annotation makes the new leader reconcile the stream.
    chart.cluster.kubectl(&[
        "annotate",
        "--overwrite",
        "desktopstream",
        STREAM,
        "desktopstream.dev/wake=1",
    ])?;
    chart.eventually("the stream is ready", || {
        let stream = chart.get(&["desktopstream", STREAM])?;
        ensure!(condition(&stream, "Ready")["status"] == "True", "{}", stream["status"]);
        Ok(())
    })?;
    let after = identity(&chart.pod()?);
    ensure!(after == before, "pod and restarts: {before:?} before, {after:?} after");
    chart.run_plugin(&["snapshot", STREAM, "-o", "-"])?.ok()?;
    ensure!(revision(chart)? == revisions + 1, "{} revisions", revision(chart)?);
    chart.restore()
}

fn second_release_is_refused(chart: &Chart) -> Result<()> {
    let folder = chart::folder();
    let refused = chart.cluster.helm(&["install", "other", &folder, "-n", "default", "--timeout=60s"]);
    let error = format!("{:#}", refused.err().context("a second release was installed")?);
    let installed = format!("{SYSTEM}/{}", chart::RELEASE);
    ensure!(error.contains("desktopstream already") && error.contains(&installed), "{error}");
    Ok(())
}

/// Manifests that were applied without Helm change the name of the cluster's installation.
fn programs_of_another_installation_end_and_name_it(chart: &mut Chart) -> Result<()> {
    let name = |chart: &Chart, installation: &str| {
        let annotation = format!("desktopstream.dev/installation={installation}");
        let annotate = ["annotate", "--overwrite", "clusterrole", "desktopstream-view", &annotation];
        chart.cluster.kubectl(&annotate).map(drop)
    };
    name(chart, "elsewhere/other")?;
    for component in ["operator", "node"] {
        let selector = format!("app.kubernetes.io/component={component}");
        chart.eventually(&format!("{component} ends"), || {
            let log = chart.cluster.kubectl(&["-n", SYSTEM, "logs", "--previous", "-l", &selector])?;
            ensure!(log.contains("another installation of desktopstream, elsewhere/other"), "{log}");
            Ok(())
        })?;
    }
    name(chart, &format!("{SYSTEM}/{}", chart::RELEASE))?;
    chart.restore()
}

fn reinstallation_keeps_the_signing_key(chart: &mut Chart) -> Result<()> {
    let key = |chart: &Chart| -> Result<Value> {
        let key = chart.get(&["-n", SYSTEM, "configmap", "desktopstream-public-key"])?["data"].clone();
        ensure!(key["key.pem.pub"].is_string(), "{key}");
        Ok(key)
    };
    let before = key(chart)?;
    chart.cluster.helm(&["uninstall", chart::RELEASE, "-n", SYSTEM, "--wait", "--timeout=180s"])?;
    chart.eventually("all pods are gone", || {
        let left = chart.get(&["-n", SYSTEM, "pods"])?;
        ensure!(left["items"].as_array().is_some_and(Vec::is_empty), "{}", left["items"]);
        Ok(())
    })?;
    ensure!(key(chart)? == before, "the public key changed");
    helm(chart, &["install"], &[])?;
    chart.await_installation()?;
    chart.eventually("the operator leads", || {
        ensure!(chart.leader().is_some(), "no leader");
        ensure!(key(chart)? == before, "another key");
        Ok(())
    })?;
    chart.restore()
}

/// `helm --wait` reads conditions as kstatus does: it waits while Ready is not true.
fn wait_returns_for_a_suspended_stream_and_not_for_a_missing_image(chart: &Chart) -> Result<()> {
    let folder = chart.cluster.folder()?.join("release");
    std::fs::create_dir_all(folder.join("templates"))?;
    std::fs::write(folder.join("Chart.yaml"), "apiVersion: v2\nname: release\nversion: 0.1.0\n")?;
    let install = |spec: &Value, timeout: &str| {
        let object = cluster::product::stream("waited", spec).to_string();
        std::fs::write(folder.join("templates/stream.yaml"), object)?;
        let folder = folder.display().to_string();
        chart.cluster.helm(&["upgrade", "--install", "release", &folder, "-n", "default", "--wait", timeout])
    };
    let mut spec = pods::pattern(&json!({"gpu": {"count": 0}, "desktop": {"image": "localhost/missing:1"}}));
    ensure!(install(&spec, "--timeout=10s").is_err(), "returned for an image that does not exist");
    spec["operatingMode"] = "Suspended".into();
    install(&spec, "--timeout=180s").context("a suspended stream")?;
    chart.cluster.helm(&["uninstall", "release", "-n", "default"])?;
    chart.await_deleted("desktopstream", "waited")
}

fn uninstallation_leaves_only_the_users_objects(chart: Chart) -> Result<()> {
    let uid = chart.pod()?["metadata"]["uid"].clone();
    chart.cluster.helm(&["uninstall", chart::RELEASE, "-n", SYSTEM, "--wait", "--timeout=180s"])?;
    let expected = |it: &str| {
        // The CRDs and the apiserver's objects for them; the namespace and what each namespace has; the user's stream; the key
        // that hosts trust.
        *it == format!("Secret/{SYSTEM}/desktopstream-signing-key")
            || *it == format!("ConfigMap/{SYSTEM}/desktopstream-public-key")
            || it.starts_with("CustomResourceDefinition//") && it.ends_with(".desktopstream.dev")
            || it == "APIService//v1alpha1.desktopstream.dev"
            || *it == format!("Namespace//{SYSTEM}")
            || it.starts_with("ServiceAccount/") && it.ends_with("/default")
            || it.starts_with("ConfigMap/")
                && (it.ends_with("/kube-root-ca.crt") || it.contains("/kube-system/"))
            || it.split('/').nth(1) == Some("default") && it.contains(&format!("/{STREAM}"))
    };
    chart.eventually("nothing else is left", || {
        let left: Vec<String> =
            inventory(&chart)?.into_iter().filter(|it| !chart.before.contains(it) && !expected(it)).collect();
        ensure!(left.is_empty(), "{left:#?}");
        Ok(())
    })?;
    ensure!(chart.pod()?["metadata"]["uid"] == uid, "the desktop was replaced");
    let list = chart.run_plugin(&["list"])?.ok()?;
    ensure!(list.contains(STREAM), "{list}");
    // No finalizer waits for the operator.
    chart.cluster.kubectl(&["delete", "desktopstream", STREAM, "--timeout=60s"])?;
    chart.await_deleted("pod", &format!("{STREAM}-desktop"))?;
    // A cluster without the installation is of no use to the other tests.
    drop(chart);
    Ok(())
}

/// The inventory of a new cluster, once its controllers have created their own objects.
fn settled_inventory(bed: &Testbed) -> Result<BTreeSet<String>> {
    /// Longer than controllers take between two of their first objects.
    const UNCHANGED: Duration = Duration::from_secs(10);
    let mut last = inventory(bed)?;
    let (mut since, deadline) = (Instant::now(), Instant::now() + TIMEOUT);
    while since.elapsed() < UNCHANGED {
        ensure!(Instant::now() < deadline, "the cluster's objects do not settle");
        std::thread::sleep(Duration::from_secs(1));
        let now = inventory(bed)?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    Ok(last)
}

/// All objects as KIND/NAMESPACE/NAME, except Events and IPAddresses, which the cluster creates for counted objects.
fn inventory(bed: &Testbed) -> Result<BTreeSet<String>> {
    let kinds = bed.cluster.kubectl(&["api-resources", "--verbs=list", "-o", "name"])?;
    let counted = |kind: &&str| !kind.starts_with("events") && !kind.starts_with("ipaddresses.");
    let kinds: Vec<&str> = kinds.split_whitespace().filter(counted).collect();
    let each = "{range .items[*]}{.kind}/{.metadata.namespace}/{.metadata.name}{\"\\n\"}{end}";
    let all = bed.cluster.kubectl(&["get", &kinds.join(","), "-A", "-o", &format!("jsonpath={each}")])?;
    Ok(all.lines().map(ToOwned::to_owned).collect())
}
