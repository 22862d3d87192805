//! The chart in a real cluster: installed, tested, upgraded under a running stream, uninstalled; and the kubectl plugin
//! beside it.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use cluster::Output;
use cluster::product::{Bed, SYSTEM, Watch, condition, gpus, http, images, no_gpu, pods};
use serde_json::Value;

const STREAM: &str = "pattern";
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

#[test]
#[ignore = "root, and minutes: brings a cluster up"]
fn the_chart_installs_upgrades_and_leaves() {
    let mut watch = Watch::start();
    let bed = Bed::up("chart", 1).expect("a cluster");
    watch.lap("up");
    let before = inventory(&bed);
    helm_installs_it(&bed);
    watch.lap("installed");
    every_rendering_is_taken(&bed);
    watch.lap("renderings");
    a_stream_runs(&bed);
    watch.lap("a stream");
    helm_tests_it(&bed);
    watch.lap("helm test");
    node_agents_write_their_own_node_only(&bed);
    watch.lap("confined");
    the_plugin_lists(&bed);
    the_plugin_opens_and_takes_snapshots(&bed);
    the_plugin_looks_inside(&bed);
    the_plugin_names_remedies(&bed);
    watch.lap("plugin");
    an_upgrade_disturbs_no_stream(&bed);
    watch.lap("upgraded");
    uninstalled_it_leaves_what_users_made(&bed, &before);
    watch.lap("uninstalled");
}

fn chart() -> PathBuf {
    lab::repository().join("charts/desktopstream")
}

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

/// Values for images that are made here, and GPUs that are made up.
fn values() -> Vec<String> {
    let (operator, tag) = images::OPERATOR.rsplit_once(':').expect("a tag");
    let all = [
        format!("image.repository={operator},image.tag={tag},image.pullPolicy=Never"),
        format!("sidecar.image={},sidecar.pullPolicy=Never", images::SIDECAR),
        format!("node.devDir={},node.sysDir={},node.reachEvery=2s", gpus::DEV, gpus::SYS),
        // Node objects without a kubelet get no node-agent.
        "node.nodeSelector.kubernetes\\.io/os=linux".to_owned(),
        "operator.poll=3s,operator.env[0].name=OPERATOR_LEASE,operator.env[0].value=6s".to_owned(),
    ];
    all.into_iter().flat_map(|set| ["--set".to_owned(), set]).collect()
}

fn helm(bed: &Bed, verb: &str, more: &[&str]) -> String {
    let chart = text(&chart());
    let mut words = vec![verb, "desktopstream", &chart, "-n", SYSTEM];
    let values = values();
    words.extend(values.iter().map(String::as_str));
    words.extend(more);
    let done = bed.cluster.helm(&words);
    done.unwrap_or_else(|error| fail(&format!("{error:#}\n{}", bed.logs())))
}

#[expect(clippy::panic, reason = "a test's way to fail")]
fn fail(why: &str) -> ! {
    panic!("{why}");
}

fn helm_installs_it(bed: &Bed) {
    let says = helm(bed, "install", &["--create-namespace", "--wait", "--timeout=180s"]);
    assert!(says.contains("kubectl desktopstream open pattern"), "{says}");
    // Ready is ready: nothing more to wait for but what the apiserver is told.
    bed.installed().expect("it works");
    let pods = bed.get(&["-n", SYSTEM, "pods"]).expect("there");
    for pod in pods["items"].as_array().expect("a list") {
        for status in pod["status"]["containerStatuses"].as_array().expect("containers") {
            assert_eq!(status["restartCount"], 0, "{}", bed.logs());
        }
    }
}

/// All value sets, judged by the real schemas. Kinds of others, which this cluster hasn't, aside.
fn every_rendering_is_taken(bed: &Bed) {
    bed.cluster.kubectl(&["create", "namespace", "team"]).expect("made");
    let mut sets = 0;
    for set in std::fs::read_dir(chart().join("ci")).expect("a folder").flatten() {
        let (chart, set) = (text(&chart()), text(&set.path()));
        let more = "metrics.serviceMonitor.enabled=false,webhook.certManager.enabled=false";
        let words = ["template", "other", &chart, "-n", "team", "-f", &set, "--set", more, "--skip-tests"];
        let yaml = bed.cluster.helm(&words).expect("rendered");
        let words = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"];
        let output = bed.stdin(&words, &yaml).expect("kubectl runs");
        assert!(output.success() && !output.stderr.contains("unknown field"), "{set}: {}", output.stderr);
        sets += 1;
    }
    assert!(sets >= 4);
    bed.cluster.kubectl(&["delete", "namespace", "team"]).expect("gone");
}

fn a_stream_runs(bed: &Bed) {
    bed.stream(STREAM, &pods::pattern(&serde_json::json!({})))
        .unwrap_or_else(|error| fail(&format!("{error:#}")));
    bed.cluster
        .wait("default", &format!("desktopstream/{STREAM}"), "condition=Ready", Duration::from_secs(120))
        .unwrap_or_else(|error| fail(&format!("{error:#}\n{}", bed.logs())));
    // The sidecar streams before the desktop is there.
    bed.cluster
        .wait("default", &format!("pod/{STREAM}-desktop"), "condition=Ready", Duration::from_secs(120))
        .unwrap_or_else(|error| fail(&format!("{error:#}\n{}", bed.logs())));
    assert_eq!(desktop(bed)["status"]["phase"], "Running");
}

fn desktop(bed: &Bed) -> Value {
    bed.get(&["pod", &format!("{STREAM}-desktop")]).expect("a pod")
}

fn helm_tests_it(bed: &Bed) {
    let says = bed.cluster.helm(&["test", "desktopstream", "-n", SYSTEM, "--logs", "--timeout=120s"]);
    let says = says.unwrap_or_else(|error| fail(&format!("{error:#}\n{}", bed.logs())));
    for line in ["ok    kinds: 1", "ok    leader", "ok    webhook: 1 hooks", "ok    nodes: 1 of 1"] {
        assert!(says.contains(line), "{line} in {says}");
    }
    let pod = |it: &String| it.starts_with("Pod/") && it.contains("-check");
    let left: Vec<_> = inventory(bed).into_iter().filter(pod).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A node-agent's own token, where its rights end.
fn node_agents_write_their_own_node_only(bed: &Bed) {
    let pods = bed.get(&["-n", SYSTEM, "pods", "-l", "app.kubernetes.io/component=node"]).expect("there");
    let pod = pods["items"][0]["metadata"]["name"].as_str().expect("a name").to_owned();
    let bound = ["--bound-object-kind=Pod", "--bound-object-name", &pod];
    let words = [&["-n", SYSTEM, "create", "token", "desktopstream-node"], &bound[..]].concat();
    let token = bed.cluster.kubectl(&words).expect("a token");
    let file = bed.cluster.folder().expect("it has one").join("node-agent.kubeconfig");
    let config = std::fs::read(bed.cluster.kubeconfig()).expect("reads");
    let mut config: Value = serde_json::from_slice(&config).expect("JSON");
    config["users"][0]["user"] = serde_json::json!({"token": token.trim()});
    std::fs::write(&file, config.to_string()).expect("writes");
    let file = text(&file);
    bed.cluster
        .apply(r#"{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "other"}}"#)
        .expect("made");
    let patch = |node: &str, patch: &str| -> Output {
        let words = ["--kubeconfig", &file, "patch", "node", node, "-p", patch];
        bed.cluster.try_kubectl(&words).expect("kubectl runs")
    };
    let ours = r#"{"metadata": {"annotations": {"desktopstream.dev/tried": "yes"}}}"#;
    patch("n1", ours).ok().expect("its own Node, our annotation");
    for (node, change, says) in [
        ("other", ours, "its own Node only"),
        ("n1", r#"{"metadata": {"labels": {"team": "mine"}}}"#, "labels of desktopstream.dev only"),
        (
            "n1",
            r#"{"metadata": {"labels": {"kubernetes.io/hostname": null}}}"#,
            "labels of desktopstream.dev only",
        ),
        ("n1", r#"{"metadata": {"annotations": {"team": "mine"}}}"#, "annotations of desktopstream.dev only"),
        ("n1", r#"{"spec": {"unschedulable": true}}"#, "may not change"),
    ] {
        let output = patch(node, change);
        assert!(!output.success() && output.stderr.contains(says), "{node} {change}: {output:?}");
    }
    bed.cluster.kubectl(&["delete", "node", "other"]).expect("gone");
    bed.cluster.kubectl(&["annotate", "node", "n1", "desktopstream.dev/tried-"]).expect("gone");
}

/// kubectl, with the plugin in its PATH.
fn plugin(bed: &Bed, words: &[&str]) -> Command {
    let mut command = bed.cluster.command("kubectl").expect("a command");
    let folder = bed.programs.operator.parent().expect("a folder").to_owned();
    let path = command.get_envs().find(|(name, _)| *name == "PATH").and_then(|(_, path)| path);
    let path = std::env::split_paths(path.expect("a PATH")).collect::<Vec<_>>();
    let path = std::env::join_paths([folder].into_iter().chain(path)).expect("no colons");
    command.env("PATH", path).arg("desktopstream").args(words);
    command
}

fn say(bed: &Bed, words: &[&str]) -> Output {
    let output = plugin(bed, words).stdin(Stdio::null()).output().expect("kubectl runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Output { status: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

fn the_plugin_lists(bed: &Bed) {
    bed.eventually("numbers of the stream", || {
        let json: Value = serde_json::from_str(&say(bed, &["list", "--json"]).ok()?)?;
        anyhow::ensure!(json[0]["fps"].as_u64() > Some(0), "{json}");
        assert_eq!((&json[0]["name"], &json[0]["rung"]), (&"pattern".into(), &"Local".into()));
        assert_eq!((&json[0]["node"], &json[0]["problem"]), (&"n1".into(), &"".into()));
        Ok(())
    })
    .unwrap_or_else(|error| fail(&format!("{error:#}")));
    let table = say(bed, &["list", "-A"]).ok().expect("it lists");
    println!("{table}");
    assert!(table.starts_with("NAMESPACE") && table.contains(" Local "), "{table}");
    let none = say(bed, &["list", "-n", SYSTEM]);
    assert!(none.success() && none.stderr.contains("no streams"), "{none:?}");
}

fn the_plugin_opens_and_takes_snapshots(bed: &Bed) {
    let file = bed.cluster.folder().expect("it has one").join("picture.png");
    say(bed, &["snapshot", STREAM, "-o", &text(&file)])
        .ok()
        .unwrap_or_else(|error| fail(&format!("{error:#}")));
    let picture = std::fs::read(&file).expect("it is there");
    assert!(picture.starts_with(PNG));
    // A PNG's header says its size: 320 by 180.
    assert_eq!(picture[16..24], [0, 0, 1, 64, 0, 0, 0, 180]);

    let mut open =
        plugin(bed, &["open", STREAM, "--json"]).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut line = String::new();
    let stdout = open.stdout.take().expect("a stdout");
    BufReader::new(stdout).read_line(&mut line).expect("it says where");
    let json: Value = serde_json::from_str(&line).unwrap_or_else(|error| fail(&format!("{error}: {line:?}")));
    let url = json["url"].as_str().expect("a URL").strip_prefix("http://").expect("HTTP").to_owned();
    let (address, query) = url.split_once("/?").expect("a token");
    let address = address.parse().expect("an address");
    let token = query.strip_prefix("token=").expect("a token");
    let (status, body) = http::get(address, "/status", Some(token)).expect("it answers");
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    assert_eq!(http::get(address, "/status", None).expect("it answers").0, 401, "not without the token");
    let (status, page) = http::get(address, &format!("/?{query}"), None).expect("it answers");
    assert!(status == 200 || status == 303 || status == 302, "{status} {}", String::from_utf8_lossy(&page));

    let pid = rustix::process::Pid::from_raw(open.id().cast_signed()).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("told");
    assert!(open.wait().expect("it ends").success(), "told to end, it ends well");
    assert!(http::get(address, "/healthz", None).is_err(), "and the way with it");
}

fn the_plugin_looks_inside(bed: &Bed) {
    let doctor = say(bed, &["doctor", STREAM, "--json"]);
    let json: Value =
        serde_json::from_str(&doctor.stdout).unwrap_or_else(|error| fail(&format!("{error}: {doctor:?}")));
    println!("doctor ended with {:?}: {json}", doctor.status);
    assert!(json.to_string().contains("pattern"), "it knows what the stream's source is: {json}");
    assert!(matches!(doctor.status, Some(0 | 1)), "{doctor:?}");
    let logs = say(bed, &["logs", STREAM, "--tail=5"]).ok().expect("it has a log");
    assert!((1..=5).contains(&logs.lines().count()), "{logs}");
    say(bed, &["logs", STREAM, "--desktop"]).ok().expect("so has the desktop");
}

fn the_plugin_names_remedies(bed: &Bed) {
    let nobody = say(bed, &["open", "nobody"]);
    assert!(!nobody.success() && nobody.stderr.contains("not found"), "{nobody:?}");
    let mut spec = no_gpu();
    spec["lifecycle"] = serde_json::json!({"suspended": true});
    bed.stream("sleeps", &spec).expect("taken");
    bed.eventually("it sleeps", || {
        let output = say(bed, &["snapshot", "sleeps"]);
        anyhow::ensure!(output.stderr.contains("sleeps has no pod (Suspended)"), "{output:?}");
        Ok(())
    })
    .unwrap_or_else(|error| fail(&format!("{error:#}")));
    bed.cluster.kubectl(&["delete", "desktopstream", "sleeps"]).expect("gone");
    let wrong = say(bed, &["logs", STREAM, "--pod", "nobody"]);
    assert!(!wrong.success() && wrong.stderr.contains("not found"), "{wrong:?}");
}

fn an_upgrade_disturbs_no_stream(bed: &Bed) {
    let uid_and_restarts = |pod: &Value| {
        let lists = ["initContainerStatuses", "containerStatuses"].map(|list| pod["status"][list].clone());
        let restarts = lists.iter().filter_map(Value::as_array).flatten();
        let restarts: Vec<_> = restarts.map(|it| it["restartCount"].clone()).collect();
        (pod["metadata"]["uid"].clone(), restarts)
    };
    let before = uid_and_restarts(&desktop(bed));
    let crds = text(&chart().join("crds"));
    bed.cluster
        .kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &crds])
        .expect("the kinds are upgraded");
    let changed = ["--set", "operator.replicas=2,node.shares=8,operator.podAnnotations.round=two"];
    helm(bed, "upgrade", &[&changed[..], &["--wait", "--timeout=180s"]].concat());
    bed.installed().expect("it works again");
    let node = bed.get(&["node", "n1"]).expect("a node");
    bed.eventually("the new shares", || {
        let node = bed.get(&["node", "n1"])?;
        anyhow::ensure!(
            node["status"]["allocatable"]["desktopstream.dev/dri-virtio"] == "8",
            "{}",
            node["status"]
        );
        Ok(())
    })
    .unwrap_or_else(|error| fail(&format!("{error:#}\n{node}")));
    // The new leader has looked at it.
    bed.cluster
        .kubectl(&["annotate", "desktopstream", STREAM, "desktopstream.dev/wake=1"])
        .expect("annotated");
    bed.eventually("the stream is ready", || {
        let stream = bed.get(&["desktopstream", STREAM])?;
        anyhow::ensure!(condition(&stream, "Ready")["status"] == "True", "{}", stream["status"]);
        Ok(())
    })
    .unwrap_or_else(|error| fail(&format!("{error:#}")));
    assert_eq!(uid_and_restarts(&desktop(bed)), before, "the same pod, never restarted");
    say(bed, &["snapshot", STREAM, "-o", "-"]).ok().expect("it streams");
    let history =
        bed.cluster.helm(&["history", "desktopstream", "-n", SYSTEM, "-o", "json"]).expect("a history");
    assert_eq!(serde_json::from_str::<Value>(&history).expect("JSON").as_array().map(Vec::len), Some(2));
}

fn uninstalled_it_leaves_what_users_made(bed: &Bed, before: &BTreeSet<String>) {
    let uid = desktop(bed)["metadata"]["uid"].clone();
    bed.cluster
        .helm(&["uninstall", "desktopstream", "-n", SYSTEM, "--wait", "--timeout=120s"])
        .expect("uninstalled");
    let expected = |it: &str| {
        // The kinds, with what the apiserver makes of them; the namespace, with what each has; the user's stream.
        it.starts_with("CustomResourceDefinition//") && it.ends_with(".desktopstream.dev")
            || it == "APIService//v1alpha1.desktopstream.dev"
            || *it == format!("Namespace//{SYSTEM}")
            || it.starts_with("ServiceAccount/") && it.ends_with("/default")
            || it.starts_with("ConfigMap/")
                && (it.ends_with("/kube-root-ca.crt") || it.contains("/kube-system/"))
            || it.split('/').nth(1) == Some("default") && it.contains(&format!("/{STREAM}"))
    };
    bed.eventually("nothing else is left", || {
        let left: Vec<_> =
            inventory(bed).into_iter().filter(|it| !before.contains(it) && !expected(it)).collect();
        anyhow::ensure!(left.is_empty(), "{left:#?}");
        Ok(())
    })
    .unwrap_or_else(|error| fail(&format!("{error:#}")));
    assert_eq!(desktop(bed)["metadata"]["uid"], uid, "the desktop runs on");
    assert!(say(bed, &["list"]).ok().expect("the kinds are there").contains(STREAM));
    // Nobody's finalizer holds it.
    bed.cluster.kubectl(&["delete", "desktopstream", STREAM, "--timeout=30s"]).expect("it goes");
    bed.gone("pod", &format!("{STREAM}-desktop")).expect("and its pod with it");
}

/// All objects of the cluster but those that come and go by themselves, as KIND/NAMESPACE/NAME.
fn inventory(bed: &Bed) -> BTreeSet<String> {
    let kinds = bed.cluster.kubectl(&["api-resources", "--verbs=list", "-o", "name"]).expect("kinds");
    let kinds: Vec<_> = kinds
        .split_whitespace()
        // Events, and the addresses of Services, come with what is counted.
        .filter(|kind| !kind.starts_with("events") && !kind.starts_with("ipaddresses."))
        .collect();
    let each = "{range .items[*]}{.kind}/{.metadata.namespace}/{.metadata.name}{\"\\n\"}{end}";
    let words = ["get", &kinds.join(","), "-A", "-o", &format!("jsonpath={each}")];
    let all = bed.cluster.kubectl(&words).expect("a list");
    all.lines().map(ToOwned::to_owned).collect()
}
