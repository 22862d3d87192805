//! The test cluster itself: nodes, pods, names, images, Helm, daemons, and a complete end.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cluster::instance::{Instance, Kind};
use cluster::suite::{Fixture, Suite};
use cluster::{Cluster, Config, Daemon, Image, tests};
use lab::host::ProcessId;

/// Limit of each wait. Generous: it bounds conditions that never come, not slow machines.
const TIMEOUT: Duration = Duration::from_mins(3);
const NAME: &str = "smoke";
/// Name of a cluster whose process is killed.
const ORPHAN: &str = "smoke-orphan";

/// A pod with a sidecar container, with the strictest security settings.
const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: NAME, labels: {app: NAME}}
spec:
  nodeName: NODE
  terminationGracePeriodSeconds: 1
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

/// A cluster of two nodes.
struct Smoke {
    cluster: Cluster,
    /// Folders outside of the cluster's that existed before it.
    outside: Vec<PathBuf>,
}

impl Fixture for Smoke {
    fn restore(&mut self) -> Result<()> {
        self.cluster.start_ended_daemons()?;
        self.cluster.kubectl(&["delete", "pods,configmaps", "--all", "--grace-period=1"])?;
        Ok(())
    }
}

impl Smoke {
    fn up() -> Result<Self> {
        let outside = default_folders();
        Ok(Self { cluster: Cluster::up(&Config::new(NAME).nodes(2))?, outside })
    }

    /// Runs `test` with a pod on a node.
    fn with_pod<T>(&self, name: &str, node: &str, test: impl FnOnce() -> Result<T>) -> Result<T> {
        self.cluster.apply(&POD.replace("NAME", name).replace("NODE", node))?;
        self.cluster.wait("default", &format!("pod/{name}"), "condition=Ready", TIMEOUT)?;
        let result = test()?;
        self.cluster.kubectl(&["delete", "pod", name])?;
        Ok(result)
    }

    fn probe(&self, pod: &str, container: &str, arguments: &[&str]) -> Result<cluster::Output> {
        self.cluster.exec("default", pod, container, &[&["/probe"], arguments].concat())
    }
}

fn main() -> ExitCode {
    Suite::new()
        .test("cluster_of_a_killed_process_is_ended_by_the_next_one", orphan_is_ended)
        .fixture(
            Smoke::up,
            tests![
                nodes_are_ready_and_have_the_pinned_version,
                name_of_a_running_cluster_is_refused,
                pod_runs_with_its_user_groups_and_sidecar,
                service_is_reached_by_name_from_each_node_and_from_the_host,
                imported_folder_runs_as_an_image,
                chart_is_installed_and_uninstalled_by_helm,
                stopped_kubelet_leaves_containers_running,
                ended_cluster_leaves_nothing_behind,
            ],
        )
        .test("dropped_cluster_leaves_nothing_behind", dropped_cluster_leaves_nothing_behind)
        .main()
}

fn nodes_are_ready_and_have_the_pinned_version(smoke: &Smoke) -> Result<()> {
    let nodes = smoke.cluster.kubectl(&["get", "nodes", "-o", "wide"])?;
    println!("{nodes}");
    ensure!(nodes.matches(" Ready ").count() == 2, "{nodes}");
    ensure!(nodes.contains("v1.36"), "{nodes}");
    for (step, took) in smoke.cluster.steps() {
        println!("{:8.1} s    {step}", took.as_secs_f64());
    }
    Ok(())
}

fn name_of_a_running_cluster_is_refused(_: &Smoke) -> Result<()> {
    let error = Cluster::up(&Config::new(NAME)).err().context("it came up")?;
    ensure!(error.to_string().contains("already running"), "{error:#}");
    Ok(())
}

fn pod_runs_with_its_user_groups_and_sidecar(smoke: &Smoke) -> Result<()> {
    smoke.with_pod("pair", "n1", || {
        // A container that runs may not have written yet.
        let identity = until("the container writes its log", || {
            let log = smoke.cluster.logs("default", "pair", "main")?;
            ensure!(!log.is_empty(), "the log is empty");
            Ok(log)
        })?;
        ensure!(identity.contains("uid=1000 gid=1000 groups=[1000 4242]"), "{identity}");
        let answer = smoke.probe("pair", "main", &["get", "http://127.0.0.1:8080/"])?.ok()?;
        ensure!(answer == "from the sidecar", "the containers share a network: {answer}");
        ensure!(!smoke.cluster.exec("default", "pair", "main", &["/no-such-program"])?.success());
        let opened = smoke.probe("pair", "main", &["open", "/dev/null"])?.ok()?;
        ensure!(opened == "opened\n", "{opened}");
        Ok(())
    })
}

fn service_is_reached_by_name_from_each_node_and_from_the_host(smoke: &Smoke) -> Result<()> {
    let cluster = &smoke.cluster;
    smoke.with_pod("served", "n1", || {
        cluster.kubectl(&["expose", "pod", "served", "--port=80", "--target-port=8080"])?;
        for node in ["n1", "n2"] {
            let pod = format!("client-{node}");
            smoke.with_pod(&pod, node, || {
                until(&format!("the Service answers on {node}"), || {
                    let url = "http://served.default.svc.cluster.local/";
                    let answer = smoke.probe(&pod, "main", &["get", url])?;
                    ensure!(answer.stdout == "from the sidecar", "{answer:?}");
                    Ok(())
                })
            })?;
        }
        let address =
            cluster.kubectl(&["get", "service", "served", "-o", "jsonpath={.spec.clusterIP}:80"])?;
        let forward = cluster.forward(address.parse()?)?;
        let probe = cluster.tools().program("probe")?;
        let output = Command::new(probe).args(["get", &format!("http://{}/", forward.address())]).output()?;
        ensure!(output.stdout == b"from the sidecar", "{output:?}");
        cluster.kubectl(&["delete", "service", "served"])?;
        Ok(())
    })
}

fn imported_folder_runs_as_an_image(smoke: &Smoke) -> Result<()> {
    let root = tempfile::tempdir()?;
    fs::create_dir(root.path().join("bin"))?;
    fs::copy(smoke.cluster.tools().program("probe")?, root.path().join("bin/asker"))?;
    let image = Image::of_folder("docker.io/local/asker:2", root.path()).entrypoint(&["/bin/asker"]).user(77);
    smoke.cluster.import(&image)?;
    let image = ["--image=docker.io/local/asker:2", "--image-pull-policy=Never", "--restart=Never"];
    smoke.cluster.kubectl(&[&["run", "asker"], &image[..], &["id"]].concat())?;
    smoke.cluster.wait("default", "pod/asker", "jsonpath={.status.phase}=Succeeded", TIMEOUT)?;
    let identity = smoke.cluster.logs("default", "asker", "asker")?;
    ensure!(identity.contains("uid=77"), "{identity}");
    smoke.cluster.kubectl(&["delete", "pod", "asker"])?;
    Ok(())
}

fn chart_is_installed_and_uninstalled_by_helm(smoke: &Smoke) -> Result<()> {
    let cluster = &smoke.cluster;
    let folder = tempfile::tempdir()?;
    let chart = folder.path().join("chart");
    fs::create_dir_all(chart.join("templates"))?;
    fs::write(chart.join("Chart.yaml"), "apiVersion: v2\nname: chart\nversion: 0.1.0\n")?;
    let template =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}}\ndata: {key: value}\n";
    fs::write(chart.join("templates/map.yaml"), template)?;
    cluster.helm(&["install", "from-helm", &chart.display().to_string()])?;
    let value = cluster.kubectl(&["get", "configmap", "from-helm", "-o", "jsonpath={.data.key}"])?;
    ensure!(value == "value", "{value}");
    cluster.helm(&["uninstall", "from-helm"])?;
    ensure!(cluster.kubectl(&["get", "configmap", "from-helm"]).is_err(), "the ConfigMap is left");
    Ok(())
}

fn stopped_kubelet_leaves_containers_running(smoke: &mut Smoke) -> Result<()> {
    let kubelet = Daemon::Kubelet(1);
    let socket = smoke.cluster.in_node(1, "/var/lib/kubelet/device-plugins/kubelet.sock")?;
    ensure!(socket.exists(), "{} does not exist", socket.display());
    smoke.cluster.apply(&POD.replace("NAME", "stays").replace("NODE", "n1"))?;
    smoke.cluster.wait("default", "pod/stays", "condition=Ready", TIMEOUT)?;
    smoke.cluster.stop(kubelet)?;
    ensure!(!smoke.probe("stays", "main", &["id"])?.success(), "exec works without a kubelet");
    smoke.cluster.start(kubelet)?;
    until("exec works again", || smoke.probe("stays", "main", &["id"])?.ok())?;
    let restarts = "jsonpath={.status.containerStatuses[0].restartCount}";
    let restarts = smoke.cluster.kubectl(&["get", "pod", "stays", "-o", restarts])?;
    ensure!(restarts == "0", "{restarts} restarts");
    smoke.cluster.kubectl(&["delete", "pod", "stays"])?;
    Ok(())
}

fn ended_cluster_leaves_nothing_behind(smoke: Smoke) -> Result<()> {
    smoke.cluster.apply(&POD.replace("NAME", "pair").replace("NODE", "n1"))?;
    smoke.cluster.wait("default", "pod/pair", "condition=Ready", TIMEOUT)?;
    let folder = smoke.cluster.folder()?;
    let namespaces = namespaces_of(&folder)?;
    ensure!(namespaces.len() > 9, "three machines and a pod: {namespaces:?}");
    let processes = processes_of(&folder)?;
    smoke.cluster.down()?;
    await_nothing_left(&folder, &namespaces)?;
    ensure!(!processes.iter().any(|process| process.is_alive()), "a process is alive");
    ensure!(default_folders() == smoke.outside, "the cluster created {:?}", default_folders());
    Ok(())
}

fn dropped_cluster_leaves_nothing_behind() -> Result<()> {
    let cluster = Cluster::up(&Config::new("smoke-dropped"))?;
    let folder = cluster.folder()?;
    let namespaces = namespaces_of(&folder)?;
    drop(cluster);
    await_nothing_left(&folder, &namespaces)
}

/// The process is killed while its cluster comes up.
fn orphan_is_ended() -> Result<()> {
    let folder = lab::cache::folder()?.join(".clusters").join(ORPHAN);
    // Builds the programs now: the other process is to be killed while daemons run.
    cluster::tools::Tools::build()?;
    let mut process = Command::new(env!("CARGO_BIN_EXE_cluster"));
    let mut process = process.args(["up", "--name", ORPHAN]).stderr(Stdio::null()).spawn()?;
    until("containerd is up", || {
        ensure!(folder.join("n1/run/containerd/containerd.sock").exists(), "no socket");
        Ok(())
    })?;
    process.kill()?;
    process.wait()?;
    let left = processes_of(&folder)?;
    ensure!(left.len() > 5, "the processes ended with their parent: {left:?}");
    Instance::create(Kind::Cluster, "smoke-next", 1)?.down()?;
    ensure!(!left.iter().any(|process| process.is_alive()), "a process is alive");
    ensure!(!Cluster::running()?.contains(&ORPHAN.to_owned()), "the cluster is running");
    ensure!(!folder.exists(), "{} exists", folder.display());
    Ok(())
}

/// Existing folders among those that the cluster's programs create by default.
fn default_folders() -> Vec<PathBuf> {
    let folders =
        ["/var/lib/kubelet", "/var/lib/cni", "/opt/containerd", "/usr/libexec/kubernetes", "/run/containerd"];
    folders.into_iter().map(PathBuf::from).filter(|folder| folder.exists()).collect()
}

fn processes_of(folder: &Path) -> Result<Vec<ProcessId>> {
    Ok(pids_of(folder)?.into_iter().flat_map(ProcessId::of).collect())
}

/// The network, mount and process namespaces of a cluster's machines and pods.
fn namespaces_of(folder: &Path) -> Result<BTreeSet<String>> {
    let own = of_process(std::process::id());
    Ok(pids_of(folder)?.into_iter().flat_map(of_process).filter(|it| !own.contains(it)).collect())
}

/// Processes that have a machine's folder mounted: all processes of the cluster.
fn pids_of(folder: &Path) -> Result<Vec<u32>> {
    let name = folder.display().to_string();
    let mounts = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/mountinfo"));
    let has_folder = |pid: &u32| mounts(pid).is_ok_and(|mounts| mounts.contains(&name));
    Ok(processes()?.into_iter().filter(has_folder).collect())
}

fn of_process(pid: u32) -> Vec<String> {
    let kinds = ["net", "mnt", "pid"].map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")));
    kinds.into_iter().flatten().map(|link| link.display().to_string()).collect()
}

fn processes() -> Result<Vec<u32>> {
    let entries = fs::read_dir("/proc")?.flatten();
    Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

fn await_nothing_left(folder: &Path, namespaces: &BTreeSet<String>) -> Result<()> {
    // The host's first process may take a moment to reap the machines' shims.
    until("no process is in the cluster's namespaces", || {
        let in_use: BTreeSet<String> = processes()?.into_iter().flat_map(of_process).collect();
        ensure!(in_use.is_disjoint(namespaces), "{:?}", in_use.intersection(namespaces).collect::<Vec<_>>());
        Ok(())
    })?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(!mounts.contains(&folder.display().to_string()), "mounted: {mounts}");
    ensure!(!folder.exists(), "{} exists", folder.display());
    let name = folder.file_name().context("the folder has a name")?.to_string_lossy().into_owned();
    for hierarchy in fs::read_dir("/sys/fs/cgroup")?.flatten() {
        let inside = fs::read_dir(hierarchy.path()).into_iter().flatten().flatten();
        let prefix = format!("desktopstream-{name}-n");
        let mut left = inside.filter(|it| it.file_name().to_string_lossy().starts_with(&prefix));
        ensure!(left.next().is_none(), "a cgroup {prefix}* is left in {}", hierarchy.path().display());
    }
    Ok(())
}

fn until<T>(condition: &str, mut question: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match question() {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("{condition}: not within {} s", TIMEOUT.as_secs())));
            }
            Err(_) => sleep(Duration::from_millis(100)),
        }
    }
}
