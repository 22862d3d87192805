//! The cluster itself: what every test of an operator takes for granted. `cargo test --release -p cluster -- --ignored
//! --nocapture` prints how long each step takes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use cluster::{Cluster, Config, Daemon, Image};
use lab::host::ProcessId;

/// Long, for busy machines: the limits are for what hangs.
const PATIENCE: Duration = Duration::from_mins(3);

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: pair}
spec:
  nodeName: n1
  securityContext: {runAsUser: 1000, runAsGroup: 1000, runAsNonRoot: true, supplementalGroups: [4242], seccompProfile: {type: RuntimeDefault}}
  initContainers:
  - name: side
    image: docker.io/local/probe:1
    imagePullPolicy: Never
    restartPolicy: Always
    args: [serve, ':8080', from the sidecar]
    startupProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
  containers:
  - name: main
    image: docker.io/local/probe:1
    imagePullPolicy: Never
    args: [wait]
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
";

#[test]
#[ignore = "root, and minutes: brings clusters up"]
fn a_cluster_is_real_and_leaves_nothing_behind() {
    let mut watch = Watch(Instant::now());
    let outside = written_outside();
    let orphan = an_orphan();
    watch.lap("a run is killed");
    let mut cluster = Cluster::up(&Config::new("smoke").nodes(2)).expect("it comes up");
    watch.lap("up, two nodes");
    assert!(!orphan.iter().any(|process| process.is_alive()), "the next one swept the killed one");
    assert!(!Cluster::running().expect("readable").contains(&"smoke-orphan".to_owned()));
    assert!(Cluster::up(&Config::new("smoke")).is_err(), "a name is taken once");

    let nodes = cluster.kubectl(&["get", "nodes", "-o", "wide"]).expect("kubectl works");
    println!("{nodes}");
    assert_eq!(nodes.matches(" Ready ").count(), 2, "{nodes}");
    assert!(nodes.contains("v1.36"), "the kubelet knows its version: {nodes}");

    a_pod_with_a_sidecar_runs(&cluster);
    watch.lap("a pod with a sidecar, logs, exec");
    names_and_services_lead_across_nodes(&cluster);
    watch.lap("names and Services");
    images_come_from_folders(&cluster);
    watch.lap("an image of a folder");
    helm_installs(&cluster);
    watch.lap("helm");
    the_kubelet_can_be_stopped(&mut cluster);
    watch.lap("kubelet stopped and started");

    let folder = cluster.folder().expect("it has one");
    let namespaces = namespaces_of(&folder);
    assert!(namespaces.len() > 9, "three machines and their pods: {namespaces:?}");
    let processes = processes_of(&folder);
    cluster.down().expect("it ends");
    watch.lap("down");
    nothing_is_left(&folder, &namespaces);
    assert!(!processes.iter().any(|process| process.is_alive()));
    assert_eq!(written_outside(), outside, "nothing was written outside of its folder");

    let again = Cluster::up(&Config::new("smoke")).expect("it comes up again");
    watch.lap("up again, one node");
    for (step, took) in again.steps() {
        println!("{:8.1} s    {step}", took.as_secs_f64());
    }
    let namespaces = namespaces_of(&folder);
    drop(again);
    watch.lap("dropped");
    nothing_is_left(&folder, &namespaces);
}

fn a_pod_with_a_sidecar_runs(cluster: &Cluster) {
    cluster.apply(POD).expect("it is accepted");
    cluster.wait("default", "pod/pair", "condition=Ready", PATIENCE).expect("it runs");
    // Who runs has not yet said anything.
    let deadline = Instant::now() + PATIENCE;
    let identity = loop {
        let log = cluster.logs("default", "pair", "main").expect("it has a log");
        if !log.is_empty() || Instant::now() > deadline {
            break log;
        }
        sleep(Duration::from_millis(200));
    };
    assert!(identity.contains("uid=1000 gid=1000 groups=[1000 4242]"), "{identity}");
    let output = cluster.exec("default", "pair", "side", &["/probe", "get", "http://127.0.0.1:8080/"]);
    assert_eq!(
        output.expect("kubectl runs").ok().expect("a pod's containers share a network"),
        "from the sidecar"
    );
    let missing = cluster.exec("default", "pair", "main", &["/no-such-program"]).expect("kubectl runs");
    assert!(!missing.success());
    let node =
        cluster.exec("default", "pair", "main", &["/probe", "open", "/dev/null"]).expect("kubectl runs");
    assert_eq!(node.ok().expect("harmless devices are there"), "opened\n");
}

fn names_and_services_lead_across_nodes(cluster: &Cluster) {
    cluster.kubectl(&["label", "pod", "pair", "app=pair"]).expect("labelled");
    cluster.kubectl(&["expose", "pod", "pair", "--port=80", "--target-port=8080"]).expect("exposed");
    for node in ["n1", "n2"] {
        let pod = POD
            .replace("name: pair", &format!("name: asks-{node}"))
            .replace("nodeName: n1", &format!("nodeName: {node}"));
        cluster.apply(&pod).expect("it is accepted");
    }
    for node in ["n1", "n2"] {
        let pod = format!("asks-{node}");
        cluster.wait("default", &format!("pod/{pod}"), "condition=Ready", PATIENCE).expect("it runs");
        let ask = ["/probe", "get", "http://pair.default.svc.cluster.local/"];
        await_that("the Service answers", || {
            cluster.exec("default", &pod, "main", &ask).expect("kubectl runs").stdout == "from the sidecar"
        });
    }
    let address = cluster.kubectl(&["get", "service", "pair", "-o", "jsonpath={.spec.clusterIP}:80"]);
    let forward =
        cluster.forward(address.expect("it has one").parse().expect("an address")).expect("it listens");
    let probe = cluster.tools().program("probe").expect("built");
    let asked = Command::new(probe).args(["get", &format!("http://{}/", forward.address())]).output();
    assert_eq!(asked.expect("it runs").stdout, b"from the sidecar", "from this computer, too");
}

fn images_come_from_folders(cluster: &Cluster) {
    let root = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(root.path().join("bin")).expect("writable");
    let probe = cluster.tools().program("probe").expect("built");
    fs::copy(probe, root.path().join("bin/asker")).expect("copied");
    let image = Image::of_folder("docker.io/local/asker:2", root.path()).entrypoint(&["/bin/asker"]).user(77);
    cluster.import(&image).expect("it is imported");
    let run = [
        "run",
        "asker",
        "--image=docker.io/local/asker:2",
        "--image-pull-policy=Never",
        "--restart=Never",
        "id",
    ];
    cluster.kubectl(&run).expect("it is accepted");
    cluster.wait("default", "pod/asker", "jsonpath={.status.phase}=Succeeded", PATIENCE).expect("it ends");
    let identity = cluster.logs("default", "asker", "asker").expect("it has a log");
    assert!(identity.contains("uid=77"), "{identity}");
}

fn helm_installs(cluster: &Cluster) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let chart = folder.path().join("chart");
    fs::create_dir_all(chart.join("templates")).expect("writable");
    fs::write(chart.join("Chart.yaml"), "apiVersion: v2\nname: chart\nversion: 0.1.0\n").expect("writable");
    let template =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}}\ndata: {key: value}\n";
    fs::write(chart.join("templates/map.yaml"), template).expect("writable");
    cluster.helm(&["install", "from-helm", &chart.display().to_string()]).expect("helm installs it");
    let value = cluster.kubectl(&["get", "configmap", "from-helm", "-o", "jsonpath={.data.key}"]);
    assert_eq!(value.expect("it is there"), "value");
    cluster.helm(&["uninstall", "from-helm"]).expect("helm removes it");
    assert!(cluster.kubectl(&["get", "configmap", "from-helm"]).is_err());
}

fn the_kubelet_can_be_stopped(cluster: &mut Cluster) {
    let kubelet = Daemon::Kubelet(1);
    let socket =
        cluster.in_node(1, "/var/lib/kubelet/device-plugins/kubelet.sock").expect("there is a node 1");
    assert!(socket.exists(), "where device plugins look for it");
    cluster.stop(kubelet).expect("it stops");
    let alone = cluster.exec("default", "pair", "main", &["/probe", "id"]).expect("kubectl runs");
    assert!(!alone.success(), "nobody serves exec");
    cluster.start(kubelet).expect("it starts");
    await_that("exec works again", || {
        cluster.exec("default", "pair", "main", &["/probe", "id"]).expect("kubectl runs").success()
    });
    let restarts = "jsonpath={.status.containerStatuses[0].restartCount}";
    assert_eq!(cluster.kubectl(&["get", "pod", "pair", "-o", restarts]).expect("it is there"), "0");
}

/// Which of the folders exist that these programs make if they aren't told otherwise.
fn written_outside() -> Vec<bool> {
    let folders =
        ["/var/lib/kubelet", "/var/lib/cni", "/opt/containerd", "/usr/libexec/kubernetes", "/run/containerd"];
    folders.into_iter().map(|folder| Path::new(folder).exists()).collect()
}

/// A cluster whose process was killed on its way up; returns the processes that it left.
fn an_orphan() -> Vec<ProcessId> {
    let cache = lab::cache::folder().expect("there is a cache").join(".clusters/smoke-orphan");
    // Builds what is to be built, so that the other is up to its real work.
    cluster::tools::Tools::build().expect("the programs are built");
    let mut process = Command::new(env!("CARGO_BIN_EXE_cluster"));
    process.args(["up", "--name", "smoke-orphan"]).stderr(Stdio::null());
    let mut process = process.spawn().expect("it starts");
    await_that("containerd is up", || cache.join("n1/run/containerd/containerd.sock").exists());
    process.kill().expect("it is ours");
    process.wait().expect("it is ours");
    let left = processes_of(&cache);
    assert!(left.len() > 5, "nobody ended it: {left:?}");
    left
}

fn processes_of(folder: &Path) -> Vec<ProcessId> {
    pids_of(folder).into_iter().flat_map(ProcessId::of).collect()
}

/// The namespaces of network, mounts and processes that a cluster's machines and pods have.
fn namespaces_of(folder: &Path) -> BTreeSet<String> {
    let own = of_process(std::process::id());
    pids_of(folder).into_iter().flat_map(of_process).filter(|it| !own.contains(it)).collect()
}

/// All that runs in a machine sees the machine's folders mounted.
fn pids_of(folder: &Path) -> Vec<u32> {
    let name = folder.display().to_string();
    let mounts = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/mountinfo"));
    processes().into_iter().filter(|pid| mounts(pid).is_ok_and(|mounts| mounts.contains(&name))).collect()
}

fn in_use() -> BTreeSet<String> {
    processes().into_iter().flat_map(of_process).collect()
}

fn of_process(pid: u32) -> Vec<String> {
    let kinds = ["net", "mnt", "pid"].map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")));
    kinds.into_iter().flatten().map(|link| link.display().to_string()).collect()
}

fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("there is a /proc").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn nothing_is_left(folder: &Path, namespaces: &BTreeSet<String>) {
    // Zombies of the machines' shims may wait a moment for this computer's first process.
    await_that("no process is in its namespaces", || in_use().is_disjoint(namespaces));
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("readable");
    assert!(!mounts.contains(&folder.display().to_string()), "{mounts}");
    assert!(!folder.exists());
    for hierarchy in fs::read_dir("/sys/fs/cgroup").expect("mounted").flatten() {
        let inside = fs::read_dir(hierarchy.path()).into_iter().flatten().flatten();
        let left =
            inside.map(|it| it.path()).find(|it| it.display().to_string().contains("desktopstream-smoke"));
        assert_eq!(left, None);
    }
}

fn await_that(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {} s", PATIENCE.as_secs());
        sleep(Duration::from_millis(100));
    }
}

struct Watch(Instant);

impl Watch {
    fn lap(&mut self, what: &str) {
        println!("{:6.1} s  {what}", self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}
