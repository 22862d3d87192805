//! The operator in a real cluster: kinds, rules, webhook, objects, repair, obstacles, injection, leadership, and what it
//! survives. Desktops that run are in desktop.rs; most of these are bound to no node, so that none has to.
//!
//! One cluster for all of it: each part has streams of its own.

use std::thread::sleep;
use std::time::{Duration, Instant};

use cluster::Daemon;
use cluster::product::{self, Bed, SYSTEM, Watch, images, no_gpu, samples, stream};
use serde_json::{Value, json};

/// What the operator is told besides.
const INSTALLED: &[&str] = &["--operator-arg=--token-life=30s"];

#[test]
#[ignore = "root, and minutes: brings a cluster up"]
fn the_operator_keeps_its_word() {
    let mut watch = Watch::start();
    let mut bed = Bed::up("operator", 1).expect("a cluster");
    watch.lap("up");
    bed.install(INSTALLED).expect("installed");
    watch.lap("installed");
    bad_specs_are_refused(&bed);
    watch.lap("bad specs");
    samples_are_taken_and_defaults_are_stored(&bed);
    watch.lap("samples");
    the_installation_checks_itself(&bed);
    watch.lap("check");
    rights_end_where_they_should(&bed);
    watch.lap("rights");
    objects_are_made_repaired_and_removed(&bed);
    watch.lap("objects");
    a_changed_spec_makes_another_pod(&bed);
    watch.lap("changes");
    suspension_keeps_the_home(&bed);
    watch.lap("suspension");
    obstacles_are_named(&bed);
    watch.lap("obstacles");
    pods_of_others_are_injected(&bed);
    watch.lap("injection");
    one_of_two_leads(&bed);
    watch.lap("leadership");
    killed_at_random_it_ends_the_same(&bed);
    watch.lap("killed twenty times");
    an_apiserver_that_was_away_is_caught_up_with(&mut bed);
    watch.lap("apiserver away");
    without_the_webhook_pods_of_others_go_on(&bed);
    watch.lap("webhook down");
}

/// The corpus that the operator's own tests use: here the judges are real.
fn bad_specs_are_refused(bed: &Bed) {
    let file = lab::repository().join("operator/plan/tests/data/bad-specs.yaml");
    let text = std::fs::read_to_string(file).expect("reads");
    let all: Vec<Value> = serde_yaml_ng::from_str(&text).expect("YAML");
    assert!(all.len() >= 25);
    let mut wrong = Vec::new();
    for bad in &all {
        let (case, says) = (bad["case"].as_str().expect("a case"), bad["says"].as_str().expect("words"));
        let name = bad["name"].as_str().unwrap_or("bad-spec");
        let is_update = !bad["old"].is_null();
        if is_update {
            let mut old = bad["old"].clone();
            old["lifecycle"] = json!({"suspended": true});
            bed.stream(name, &old).expect(case);
        }
        let mut object = stream(name, &bad["spec"]);
        let (taken, answer) = loop {
            if is_update {
                let old = bed.api.get("default", "desktopstream", name).expect("it is there");
                object["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
            }
            let (taken, answer) =
                bed.api.put(if is_update { "PUT" } else { "POST" }, &object).expect("it answers");
            // The operator may write its status at the same time.
            if answer["reason"] != "Conflict" {
                break (taken, answer);
            }
        };
        let said = answer["message"].as_str().unwrap_or_default();
        let by_webhook = said.contains("admission webhook");
        if taken || !said.contains(says) {
            wrong.push(format!("{case}: expected {says:?}, got {said}"));
        } else if by_webhook != (bad["by"] == "webhook") {
            wrong.push(format!("{case}: not by {}: {said}", bad["by"]));
        } else {
            println!("         {case}: {said}");
        }
        if is_update || taken {
            bed.cluster.kubectl(&["delete", "desktopstream", name]).expect("it goes");
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), all.len(), wrong.join("\n"));
}

fn samples_are_taken_and_defaults_are_stored(bed: &Bed) {
    let folder = lab::repository().join("docs/samples");
    let folder = folder.to_str().expect("UTF-8");
    bed.cluster.kubectl(&["apply", "-f", folder]).expect("taken");
    let pattern = bed.get(&["desktopstream", "pattern"]).expect("it is there");
    assert_eq!(pattern["spec"]["viewers"]["service"]["port"], 80, "defaults are visible: {pattern}");
    assert_eq!(pattern["spec"]["encode"]["bitrate"], 6000);
    let columns = bed.cluster.kubectl(&["get", "dst"]).expect("it lists");
    for column in ["NAME", "PHASE", "RUNG", "FPS", "NODE", "HOST-AGENT", "AGE"] {
        assert!(columns.contains(column), "{columns}");
    }
    for sample in samples::ALL {
        if let Some((condition, reason)) = sample.cluster {
            bed.reason(sample.stream, condition, reason).expect(sample.stream);
        }
    }
    bed.cluster.kubectl(&["delete", "-f", folder]).expect("they go");
}

fn the_installation_checks_itself(bed: &Bed) {
    let pod = bed.get(&["-n", SYSTEM, "pods", "-l", "app.kubernetes.io/component=operator"]).expect("there");
    let pod = pod["items"][0]["metadata"]["name"].as_str().expect("a pod").to_owned();
    let output = bed.cluster.exec(SYSTEM, &pod, "operator", &["operator", "check", "--namespace", SYSTEM]);
    let output = output.expect("kubectl runs");
    println!("{}", output.stdout);
    let said = output.ok().expect("it is sound");
    for part in ["ok    kinds", "ok    leader", "ok    webhook", "ok    nodes: 1 of 1"] {
        assert!(said.contains(part), "{said}");
    }
}

/// What the roles don't give is refused.
fn rights_end_where_they_should(bed: &Bed) {
    let may = |account: &str, words: &[&str]| {
        let who = format!("--as=system:serviceaccount:{SYSTEM}:desktopstream-{account}");
        let words = [&["auth", "can-i", &who], words].concat();
        bed.cluster.try_kubectl(&words).expect("kubectl runs").stdout.trim() == "yes"
    };
    assert!(may("operator", &["patch", "pods"]) && may("operator", &["get", "secrets/one"]));
    let refused: [&[&str]; 4] = [
        &["list", "secrets"],
        &["delete", "secrets"],
        &["create", "pods", "--subresource=exec"],
        &["delete", "persistentvolumeclaims"],
    ];
    for words in refused {
        assert!(!may("operator", words), "{words:?}");
    }
    assert!(
        may("node", &["patch", "nodes"])
            && !may("node", &["list", "pods"])
            && !may("node", &["update", "nodes"])
    );
    // A node-agent's token, on another Node than its own, and for more than facts.
    let pods = bed.get(&["-n", SYSTEM, "pods", "-l", "app.kubernetes.io/component=node"]).expect("there");
    let pod = pods["items"][0]["metadata"].clone();
    let token = bed
        .cluster
        .kubectl(&[
            "-n",
            SYSTEM,
            "create",
            "token",
            "desktopstream-node",
            "--bound-object-kind=Pod",
            "--bound-object-name",
            pod["name"].as_str().expect("a name"),
        ])
        .expect("a token");
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(bed.cluster.kubeconfig()).expect("reads")).expect("JSON");
    config["users"][0]["user"] = json!({"token": token.trim()});
    let file = bed.cluster.folder().expect("it has one").join("node.kubeconfig");
    std::fs::write(&file, config.to_string()).expect("writes");
    let file = file.to_str().expect("UTF-8").to_owned();
    let patch = |node: &str, patch: &str| {
        let output = bed.cluster.try_kubectl(&["--kubeconfig", &file, "patch", "node", node, "-p", patch]);
        output.expect("kubectl runs")
    };
    let other = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "other"}});
    bed.cluster.apply(&other.to_string()).expect("another Node");
    let fact = r#"{"metadata":{"labels":{"desktopstream.dev/render-gid":"4109"}}}"#;
    let refused = patch("other", fact);
    assert!(refused.stderr.contains("its own Node only"), "{}", refused.stderr);
    let refused = patch("n1", r#"{"spec":{"unschedulable":true}}"#);
    assert!(refused.stderr.contains("may not change a Node's spec"), "{}", refused.stderr);
    let refused = patch("n1", r#"{"metadata":{"labels":{"node-role.kubernetes.io/x":""}}}"#);
    assert!(refused.stderr.contains("labels of desktopstream.dev only"), "{}", refused.stderr);
    patch("n1", fact).ok().expect("its own facts");
    bed.cluster.kubectl(&["delete", "node", "other"]).expect("it goes");
}

fn objects_are_made_repaired_and_removed(bed: &Bed) {
    let mut spec = no_gpu();
    spec["desktop"]["home"] = json!({"size": "1Gi"});
    spec["viewers"] = json!({"ingress": {"host": "desk.example.com"}});
    bed.stream("objects", &spec).expect("taken");
    let pod = bed.object("pod", "objects-desktop").expect("made");
    assert_eq!(pod["metadata"]["ownerReferences"][0]["kind"], "DesktopStream");
    let all = [
        ("service", "objects-viewers"),
        ("ingress", "objects-viewers"),
        ("networkpolicy", "objects-desktop"),
        ("pvc", "objects-home"),
        ("secret", "objects-viewer"),
    ];
    for (kind, name) in all {
        bed.object(kind, name).expect("made");
    }
    let patch = r#"[{"op":"replace","path":"/spec/ports/0/port","value":81}]"#;
    bed.cluster.kubectl(&["patch", "service", "objects-viewers", "--type=json", "-p", patch]).expect("bent");
    bed.eventually("the Service is repaired", || {
        let service = bed.get(&["service", "objects-viewers"])?;
        anyhow::ensure!(service["spec"]["ports"][0]["port"] == 80, "{}", service["spec"]["ports"]);
        Ok(())
    })
    .expect("repaired");
    bed.cluster.kubectl(&["delete", "networkpolicy", "objects-desktop"]).expect("it goes");
    bed.object("networkpolicy", "objects-desktop").expect("made again");
    spec["viewers"] = json!({});
    bed.stdin(&["replace", "-f", "-"], &stream("objects", &spec).to_string())
        .expect("kubectl runs")
        .ok()
        .expect("taken");
    bed.gone("ingress", "objects-viewers").expect("swept");
    nothing_is_written_when_nothing_changes(bed);
    bed.remove(&["objects"]).expect("it goes");
    for (kind, name) in all {
        bed.gone(kind, name).expect("gone with it");
    }
}

/// By the versions of all that there is of it.
fn nothing_is_written_when_nothing_changes(bed: &Bed) {
    let versions = || {
        let kinds = "desktopstream,pod,service,networkpolicy,pvc,secret";
        let all = bed.get(&[kinds])?;
        let items = all["items"].as_array().cloned().unwrap_or_default();
        let ours = items.iter().filter(|it| it["metadata"]["name"].to_string().contains("objects"));
        let mut versions: Vec<String> =
            ours.map(|it| format!("{} {}", it["kind"], it["metadata"]["resourceVersion"])).collect();
        versions.sort();
        anyhow::Ok(versions)
    };
    sleep(Duration::from_secs(3));
    let before = versions().expect("listed");
    assert!(before.len() >= 6, "{before:?}");
    sleep(Duration::from_secs(8));
    assert_eq!(versions().expect("listed"), before);
}

fn a_changed_spec_makes_another_pod(bed: &Bed) {
    bed.stream("changed", &no_gpu()).expect("taken");
    let uid = bed.object("pod", "changed-desktop").expect("made")["metadata"]["uid"].clone();
    let mut spec = no_gpu();
    spec["desktop"]["image"] = "docker.io/local/other:2".into();
    bed.stream("changed", &spec).expect("taken");
    let pod = bed
        .eventually("another pod", || {
            let pod = bed.get(&["pod", "changed-desktop"])?;
            anyhow::ensure!(pod["metadata"]["uid"] != uid, "the same");
            Ok(pod)
        })
        .expect("made");
    assert_eq!(pod["spec"]["containers"][0]["image"], "docker.io/local/other:2");
    bed.eventually("an Event says so", || {
        let events = bed.cluster.kubectl(&["get", "events", "-o", "json"])?;
        anyhow::ensure!(events.contains("PodReplaced") && events.contains("spec.desktop"), "none");
        Ok(())
    })
    .expect("told");
    spec["viewers"] = json!({"service": {"port": 8000}});
    bed.stream("changed", &spec).expect("taken");
    bed.eventually("the Service follows", || {
        let service = bed.get(&["service", "changed-viewers"])?;
        anyhow::ensure!(service["spec"]["ports"][0]["port"] == 8000, "not yet");
        Ok(())
    })
    .expect("it follows");
    let after = bed.object("pod", "changed-desktop").expect("there");
    assert_eq!(after["metadata"]["uid"], pod["metadata"]["uid"], "for which no pod has to go");
    bed.remove(&["changed"]).expect("it goes");
}

fn suspension_keeps_the_home(bed: &Bed) {
    let mut spec = no_gpu();
    spec["desktop"]["home"] = json!({"size": "1Gi", "onDelete": "Keep"});
    bed.stream("rests", &spec).expect("taken");
    bed.object("pod", "rests-desktop").expect("made");
    spec["lifecycle"] = json!({"suspended": true});
    bed.stream("rests", &spec).expect("taken");
    bed.gone("pod", "rests-desktop").expect("it rests");
    bed.reason("rests", "Ready", "Suspended").expect("told");
    bed.object("pvc", "rests-home").expect("kept");
    spec["lifecycle"] = json!({"suspended": false});
    bed.stream("rests", &spec).expect("taken");
    bed.object("pod", "rests-desktop").expect("made again");
    bed.remove(&["rests"]).expect("it goes");
    bed.object("pvc", "rests-home").expect("kept");
    let mut short = no_gpu();
    short["lifecycle"] = json!({"ttl": "3s"});
    bed.stream("passes", &short).expect("taken");
    bed.gone("desktopstream", "passes").expect("its time is over");
}

fn obstacles_are_named(bed: &Bed) {
    let kubectl = |arguments: &[&str]| bed.cluster.kubectl(arguments).expect("kubectl");
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}});
    bed.cluster.apply(&quota.to_string()).expect("taken");
    bed.eventually("the quota counts", || {
        let quota = bed.get(&["resourcequota", "none"])?;
        anyhow::ensure!(quota["status"]["hard"]["pods"] == "0", "not yet");
        Ok(())
    })
    .expect("counts");
    bed.stream("quota", &no_gpu()).expect("taken");
    let message = bed.reason("quota", "DevicesReady", "QuotaExceeded").expect("told");
    assert!(message.contains("raise the namespace's ResourceQuota"), "{message}");
    kubectl(&["delete", "resourcequota", "none"]);
    bed.object("pod", "quota-desktop").expect("made when there is room");

    kubectl(&["create", "service", "clusterip", "taken-viewers", "--tcp=1:1"]);
    bed.stream("taken", &no_gpu()).expect("taken");
    bed.reason("taken", "DevicesReady", "NameTaken").expect("told");
    let theirs = bed.get(&["service", "taken-viewers"]).expect("there");
    assert_eq!(theirs["spec"]["ports"][0]["port"], 1, "left alone");

    let mut secret = no_gpu();
    secret["viewers"] = json!({"auth": {"secretName": "mine"}});
    bed.stream("secret", &secret).expect("taken");
    bed.reason("secret", "DevicesReady", "SecretMissing").expect("told");
    kubectl(&[
        "create",
        "secret",
        "generic",
        "mine",
        "--from-literal=token=0123456789abcdef0123456789abcdef",
    ]);
    bed.object("pod", "secret-desktop").expect("made");

    let mut home = no_gpu();
    home["desktop"]["home"] = json!({"size": "1Gi", "storageClassName": "none-such"});
    home["desktop"]["nodeSelector"] = json!({});
    bed.stream("volume", &home).expect("taken");
    let message = bed.reason("volume", "DevicesReady", "VolumePending").expect("told");
    assert!(message.contains("volume-home"), "{message}");

    let mut lost = no_gpu();
    lost["desktop"]["nodeSelector"] = json!({"nowhere": "true"});
    bed.stream("unplaced", &lost).expect("taken");
    bed.reason("unplaced", "DevicesReady", "Unschedulable").expect("told");
    bed.remove(&["quota", "taken", "secret", "volume", "unplaced"]).expect("they go");
    kubectl(&["delete", "service", "taken-viewers"]);

    kubectl(&["create", "namespace", "strict"]);
    kubectl(&["label", "namespace", "strict", "pod-security.kubernetes.io/enforce=restricted"]);
    let mut privileged = no_gpu();
    privileged["desktop"]["securityContext"] = json!({"privileged": true});
    for (name, spec) in [("bold", &privileged), ("good", &no_gpu())] {
        let mut object = stream(name, spec);
        object["metadata"]["namespace"] = "strict".into();
        bed.cluster.apply(&object.to_string()).expect("taken");
    }
    bed.eventually("refused", || {
        let stream = bed.get(&["-n", "strict", "desktopstream", "bold"])?;
        anyhow::ensure!(stream["status"]["phase"] == "Failed", "{}", stream["status"]["phase"]);
        anyhow::ensure!(
            stream["status"].to_string().contains("violates PodSecurity"),
            "{}",
            stream["status"]
        );
        Ok(())
    })
    .expect("told");
    bed.eventually("a pod that fits `restricted`", || bed.get(&["-n", "strict", "pod", "good-desktop"]))
        .expect("made");
    kubectl(&["delete", "namespace", "strict", "--wait=false"]);
    an_invalid_spec_is_told_when_nobody_refused_it(bed);
}

/// As one from before a rule would be: the webhook is away while it is written.
fn an_invalid_spec_is_told_when_nobody_refused_it(bed: &Bed) {
    bed.cluster.kubectl(&["delete", "validatingwebhookconfiguration", "desktopstream"]).expect("it goes");
    let mut spec = no_gpu();
    spec["desktop"]["image"] = "a b".into();
    bed.eventually("nobody refuses it", || bed.stream("invalid", &spec)).expect("taken");
    let message = bed.reason("invalid", "Ready", "InvalidSpec").expect("told");
    assert!(message.contains("spec.desktop.image"), "{message}");
    bed.apply_manifests(INSTALLED).expect("back");
    bed.installed().expect("trusted again");
    bed.cluster.kubectl(&["annotate", "desktopstream", "invalid", "label=may-change"]).expect("not its spec");
    bed.remove(&["invalid"]).expect("and it may go");
}

fn pods_of_others_are_injected(bed: &Bed) {
    let kubectl = |arguments: &[&str]| bed.cluster.kubectl(arguments).expect("kubectl");
    kubectl(&["label", "namespace", "default", "desktopstream.dev/inject=enabled"]);
    for (kind, name) in [("Deployment", "kiosk"), ("StatefulSet", "wall"), ("Job", "render")] {
        let attach = json!({
            "attach": {"kind": kind, "name": name}, "gpu": {"count": 0}, "encode": {"where": "Sidecar"},
            "capture": {"source": "TestPattern", "width": 320, "height": 180, "maxFramerate": 5},
        });
        bed.stream(name, &attach).expect("taken");
        let is_job = kind == "Job";
        let words = if is_job { json!(["id"]) } else { json!(["wait"]) };
        let template = json!({
            "metadata": {"labels": {"app": name}},
            "spec": {
                "restartPolicy": if is_job { "Never" } else { "Always" }, "terminationGracePeriodSeconds": 1,
                "securityContext": {"runAsUser": 1000},
                "containers": [{"name": "shell", "image": images::DESKTOP, "imagePullPolicy": "Never", "args": words}],
            },
        });
        let selector = json!({"matchLabels": {"app": name}});
        let (version, spec) = match kind {
            "Job" => ("batch/v1", json!({"template": template})),
            "StatefulSet" => {
                ("apps/v1", json!({"selector": selector, "serviceName": name, "template": template}))
            }
            _ => ("apps/v1", json!({"selector": selector, "template": template})),
        };
        let object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec});
        bed.cluster.apply(&object.to_string()).expect("taken");
        let pod = bed
            .eventually(&format!("{kind}: a pod"), || {
                let pods = bed.get(&["pods", "-l", &format!("app={name}")])?;
                anyhow::ensure!(pods["items"][0].is_object(), "none");
                Ok(pods["items"][0].clone())
            })
            .expect("made");
        assert_eq!(pod["spec"]["initContainers"][0]["name"], "desktopstream-sidecar", "{pod}");
        assert_eq!(pod["spec"]["initContainers"][0]["restartPolicy"], "Always");
        assert_eq!(pod["metadata"]["labels"]["desktopstream.dev/stream"], name);
        if is_job {
            bed.cluster
                .wait("default", &format!("job/{name}"), "condition=Complete", product::PATIENCE)
                .expect("it ends");
        } else {
            bed.reason(name, "Streaming", "ByLocalEncoder").expect("a picture");
            bed.reason(name, "Ready", "AsAsked").expect("ready");
        }
        kubectl(&["delete", &format!("{kind}/{name}"), &format!("desktopstream/{name}")]);
    }
    // By label; and one whose stream is missing is warned, not hindered.
    let labelled = |name: &str, stream: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"desktopstream.dev/inject": stream}},
            "spec": {"containers": [{"name": "a", "image": images::DESKTOP, "imagePullPolicy": "Never", "args": ["wait"]}]},
        })
    };
    let output =
        bed.stdin(&["create", "-f", "-"], &labelled("lonely", "nobody").to_string()).expect("kubectl runs");
    assert!(output.success() && output.stderr.contains("no sidecar was injected"), "{}", output.stderr);
    let any = json!({"attach": {"kind": "Pod", "name": "any"}, "gpu": {"count": 0}, "encode": {"where": "Sidecar"}});
    bed.stream("any", &any).expect("taken");
    bed.stdin(&["create", "-f", "-"], &labelled("labelled", "any").to_string())
        .expect("kubectl runs")
        .ok()
        .expect("taken");
    let pod = bed.object("pod", "labelled").expect("there");
    assert_eq!(pod["spec"]["initContainers"][0]["name"], "desktopstream-sidecar");
    kubectl(&["delete", "pod/lonely", "pod/labelled", "desktopstream/any", "--grace-period=1"]);
}

fn one_of_two_leads(bed: &Bed) {
    let first = bed.leader().expect("somebody leads");
    bed.scale(2).expect("two");
    sleep(Duration::from_secs(4));
    assert_eq!(bed.leader().as_ref(), Some(&first), "the second one waits");
    let pod = first.rsplit_once('_').expect("pod and chance").0;
    bed.cluster
        .kubectl(&["-n", SYSTEM, "delete", "pod", pod, "--grace-period=0", "--force"])
        .expect("killed");
    let begin = Instant::now();
    let second = bed
        .eventually("the other one leads", || {
            bed.leader().filter(|now| *now != first).ok_or_else(|| anyhow::anyhow!("not yet"))
        })
        .expect("taken over");
    println!("         {second} took over in {:.1} s", begin.elapsed().as_secs_f64());
    bed.stream("second", &no_gpu()).expect("taken");
    bed.object("pod", "second-desktop").expect("made");
    bed.remove(&["second"]).expect("it goes");
}

/// Outside, as a kubelet waits longer after each crash; with the rights that it has inside.
fn killed_at_random_it_ends_the_same(bed: &Bed) {
    const ROUNDS: u64 = 20;
    bed.scale(0).expect("none inside");
    // Who judges was inside, too.
    bed.cluster.kubectl(&["delete", "validatingwebhookconfiguration", "desktopstream"]).expect("it goes");
    for round in 0..ROUNDS {
        let lease = ["-n", SYSTEM, "delete", "lease", "desktopstream-operator", "--ignore-not-found"];
        bed.cluster.kubectl(&lease).expect("who was killed gave nothing back");
        let operator = bed.operator_outside("killed", &["--lease=6s", "--poll=3s"]).expect("starts");
        let name = format!("killed-{round}");
        bed.eventually("nobody judges", || bed.stream(&name, &no_gpu())).expect("taken");
        // From before it leads to after it is done; spread by a prime, the same every time.
        sleep(Duration::from_millis(50 + round * 769 % 2500));
        drop(operator);
    }
    let count = |kind: &str| {
        let all = bed.get(&[kind, "-l", "desktopstream.dev/stream"]).expect("listed");
        all["items"].as_array().map_or(0, Vec::len)
    };
    let done = ["secrets", "pods", "services", "networkpolicies"].map(count);
    println!(
        "         killed, they had made {done:?} Secrets, pods, Services, policies for {ROUNDS} streams"
    );
    bed.apply_manifests(INSTALLED).expect("back");
    bed.scale(1).expect("one");
    bed.installed().expect("it works");
    for round in 0..ROUNDS {
        let name = format!("killed-{round}");
        bed.reason(&name, "DevicesReady", "Unschedulable").expect("told");
        for (kind, end) in [("service", "viewers"), ("networkpolicy", "desktop"), ("secret", "viewer")] {
            bed.object(kind, &format!("{name}-{end}")).expect("made");
        }
    }
    for kind in ["secrets", "pods", "services", "networkpolicies"] {
        assert_eq!(count(kind), ROUNDS as usize, "one each: {kind}");
    }
    let all: Vec<String> = (0..ROUNDS).map(|round| format!("killed-{round}")).collect();
    bed.remove(&all.iter().map(String::as_str).collect::<Vec<_>>()).expect("they go");
}

fn an_apiserver_that_was_away_is_caught_up_with(bed: &mut Bed) {
    bed.stream("patient", &no_gpu()).expect("taken");
    bed.object("pod", "patient-desktop").expect("made");
    bed.cluster.stop(Daemon::Apiserver).expect("it stops");
    sleep(Duration::from_secs(30));
    bed.cluster.start(Daemon::Apiserver).expect("it starts");
    let back = Instant::now();
    bed.eventually("a stream is taken", || bed.stream("late", &no_gpu())).expect("taken");
    bed.object("pod", "late-desktop").expect("made");
    let pods = bed.get(&["-n", SYSTEM, "pods", "-l", "app.kubernetes.io/component=operator"]).expect("there");
    let restarts = &pods["items"][0]["status"]["containerStatuses"][0]["restartCount"];
    assert_eq!(*restarts, 0, "it lost the Lease and waited for it: its webhook goes on");
    println!("         caught up {:.1} s after the apiserver", back.elapsed().as_secs_f64());
    bed.remove(&["late", "patient"]).expect("they go");
}

fn without_the_webhook_pods_of_others_go_on(bed: &Bed) {
    bed.cluster
        .kubectl(&["-n", SYSTEM, "scale", "deployment/desktopstream-operator", "--replicas=0"])
        .expect("scaled");
    bed.eventually("no operator", || {
        let pods = bed.cluster.kubectl(&[
            "-n",
            SYSTEM,
            "get",
            "pods",
            "-l",
            "app.kubernetes.io/component=operator",
            "-o",
            "name",
        ])?;
        anyhow::ensure!(pods.trim().is_empty(), "{pods}");
        Ok(())
    })
    .expect("none");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "free", "labels": {"desktopstream.dev/inject": "x"}},
        "spec": {"containers": [{"name": "a", "image": images::DESKTOP, "imagePullPolicy": "Never", "args": ["wait"]}]},
    });
    bed.cluster.apply(&pod.to_string()).expect("nobody is hindered");
    bed.cluster.wait("default", "pod/free", "condition=Ready", product::PATIENCE).expect("it runs");
    let refused = bed.stream("closed", &no_gpu()).expect_err("fail-closed");
    assert!(format!("{refused:#}").contains("validate.desktopstream.dev"), "{refused:#}");
}
