//! The device plugins with a fake kubelet, which restarts as real ones do. The cluster suite has a real one.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use operator_api::GpuClass;
use operator_discovery::gpus::{self, Found, Roots};
use operator_node_agent::kubelet;
use operator_node_agent::plugin::{Allocation, Resource};
use operator_node_agent::wire::device_plugin::device_plugin_client::DevicePluginClient;
use operator_node_agent::wire::registration::registration_server::{Registration, RegistrationServer};
use operator_node_agent::wire::{
    AllocateRequest, ContainerAllocateRequest, ContainerPreferredAllocationRequest, Empty,
    PreferredAllocationRequest, RegisterRequest,
};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

/// Time limit of a step.
const LONG: Duration = Duration::from_secs(30);

/// Sends registrations to the test, and watches the devices of each plugin unless it is told to forget them.
struct FakeKubelet {
    registrations: mpsc::UnboundedSender<RegisterRequest>,
    folder: PathBuf,
    forgets: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl Registration for FakeKubelet {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        let path = self.folder.join(&request.endpoint);
        let mut forgets = self.forgets.clone();
        tokio::spawn(async move {
            let endpoint = Endpoint::from_shared(format!("unix://{}", path.display())).expect("a path");
            let Ok(channel) = endpoint.connect().await else { return };
            let Ok(list) = DevicePluginClient::new(channel).list_and_watch(Empty {}).await else { return };
            let mut list = list.into_inner();
            let watching = async { while let Ok(Some(_)) = list.message().await {} };
            let forgotten = async {
                if forgets.wait_for(|forgets| *forgets).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = watching => {}
                () = forgotten => {}
            }
        });
        self.registrations.send(request).map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Empty {}))
    }
}

/// Starts a kubelet: empties the folder and creates the socket.
fn start(folder: &Path) -> (JoinHandle<()>, mpsc::UnboundedReceiver<RegisterRequest>) {
    let (kubelet, registrations, forget) = start_forgetful(folder);
    // Nothing is forgotten if nothing is sent.
    drop(forget);
    (kubelet, registrations)
}

/// The same, with a switch that ends its watches.
fn start_forgetful(
    folder: &Path,
) -> (JoinHandle<()>, mpsc::UnboundedReceiver<RegisterRequest>, watch::Sender<bool>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        std::fs::remove_file(entry.expect("an entry").path()).expect("removes");
    }
    let listener = UnixListener::bind(folder.join("kubelet.sock")).expect("listens");
    let (registrations_in, registrations) = mpsc::unbounded_channel();
    let (forget, forgets) = watch::channel(false);
    let kubelet = FakeKubelet { registrations: registrations_in, folder: folder.to_owned(), forgets };
    let serving = Server::builder()
        .add_service(RegistrationServer::new(kubelet))
        .serve_with_incoming(UnixListenerStream::new(listener));
    (tokio::spawn(async move { serving.await.expect("serves") }), registrations, forget)
}

/// Device directories of a node with two virtio GPUs, the second without a card node.
fn roots(root: &Path) -> Roots {
    let (sys, dev) = (root.join("sys"), root.join("dev"));
    std::fs::create_dir_all(dev.join("dri")).expect("a folder");
    let driver = sys.join("bus/virtio/drivers/virtio_gpu");
    std::fs::create_dir_all(&driver).expect("a folder");
    for (at, minors) in [("0000:00:02.0", &["card0", "renderD128"][..]), ("0000:00:03.0", &["renderD129"])] {
        let device = sys.join("devices/pci0000:00").join(at).join("virtio0");
        std::fs::create_dir_all(&device).expect("a folder");
        symlink(&driver, device.join("driver")).expect("links");
        for minor in minors {
            let class = sys.join("class/drm").join(minor);
            std::fs::create_dir_all(&class).expect("a folder");
            symlink(&device, class.join("device")).expect("links");
            symlink("/dev/null", dev.join("dri").join(minor)).expect("links");
        }
    }
    Roots { dev, sys, more_drivers: Vec::new() }
}

struct Node {
    folder: tempfile::TempDir,
    found: watch::Sender<Vec<Found>>,
    agent: JoinHandle<()>,
}

impl Node {
    fn new(cdi: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("plugins")).expect("a folder");
        let (found, watched) = watch::channel(gpus::find(&roots(folder.path())).expect("finds"));
        let allocation = Allocation { shares: 4, cdi: cdi.then(|| PathBuf::from("/nowhere")) };
        let agent = tokio::spawn(kubelet::keep_all(folder.path().join("plugins"), watched, allocation));
        Self { folder, found, agent }
    }

    fn plugins(&self) -> PathBuf {
        self.folder.path().join("plugins")
    }

    async fn call(&self, resource: Resource) -> DevicePluginClient<Channel> {
        let path = self.plugins().join(resource.socket());
        let endpoint = Endpoint::from_shared(format!("unix://{}", path.display())).expect("a path");
        DevicePluginClient::new(endpoint.connect().await.expect("connects"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.agent.abort();
    }
}

const DRI: Resource = Resource { class: GpuClass::Any, card: false };
const CARD: Resource = Resource { class: GpuClass::Virtio, card: true };

async fn registered(registrations: &mut mpsc::UnboundedReceiver<RegisterRequest>) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..4 {
        let request =
            tokio::time::timeout(LONG, registrations.recv()).await.expect("in time").expect("a request");
        assert_eq!(request.version, "v1beta1");
        names.push(request.resource_name);
    }
    names.sort();
    names
}

fn share(gpu: &str, at: u32) -> String {
    operator_node_agent::shares::id(gpu, at)
}

fn allocate(ids: &[String]) -> AllocateRequest {
    AllocateRequest { container_requests: vec![ContainerAllocateRequest { device_ids: ids.to_vec() }] }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_resource_registers_again_when_the_kubelet_restarts() {
    let node = Node::new(false);
    let all =
        ["dri", "dri-card", "dri-virtio", "dri-virtio-card"].map(|it| format!("desktopstream.dev/{it}"));
    let (first, mut registrations) = start(&node.plugins());
    assert_eq!(registered(&mut registrations).await, all);
    first.abort();
    let (_second, mut registrations) = start(&node.plugins());
    assert_eq!(registered(&mut registrations).await, all, "with the new kubelet");
    let mut list = node.call(DRI).await.list_and_watch(Empty {}).await.expect("lists").into_inner();
    let devices = list.message().await.expect("a list").expect("one").devices;
    assert_eq!(devices.len(), 8);
}

async fn next(registrations: &mut mpsc::UnboundedReceiver<RegisterRequest>) -> String {
    let request = tokio::time::timeout(LONG, registrations.recv()).await.expect("in time");
    request.expect("a request").resource_name
}

#[tokio::test(flavor = "multi_thread")]
async fn resource_registers_again_when_the_kubelet_ends_its_watch() {
    let node = Node::new(false);
    let (_kubelet, mut registrations, forget) = start_forgetful(&node.plugins());
    registered(&mut registrations).await;
    forget.send_replace(true);
    let mut again: Vec<String> = Vec::new();
    while again.len() < 4 {
        let name = next(&mut registrations).await;
        if !again.contains(&name) {
            again.push(name);
        }
    }
}

/// A second installation removes the first one's socket and registers its own, and ends later.
#[tokio::test(flavor = "multi_thread")]
async fn resource_taken_by_another_plugin_registers_again_when_that_one_ends() {
    let node = Node::new(false);
    let (_kubelet, mut registrations) = start(&node.plugins());
    registered(&mut registrations).await;
    let path = node.plugins().join(DRI.socket());
    std::fs::remove_file(&path).expect("removes");
    let other = UnixListener::bind(&path).expect("listens");
    // The plugin looks whether the other one lives: once per second, without registering.
    for _ in 0..3 {
        let connected = tokio::time::timeout(LONG, other.accept()).await;
        connected.expect("in time").expect("accepts");
    }
    assert!(registrations.try_recv().is_err(), "two plugins register in turn");
    drop(other);
    assert_eq!(next(&mut registrations).await, DRI.name());
}

#[tokio::test(flavor = "multi_thread")]
async fn allocate_maps_the_requested_device_nodes_only() {
    let node = Node::new(false);
    let (_kubelet, mut registrations) = start(&node.plugins());
    registered(&mut registrations).await;
    let mut dri = node.call(DRI).await;
    let answer =
        dri.allocate(allocate(&[share("pci-0000-00-03.0", 2)])).await.expect("allocates").into_inner();
    let given = &answer.container_responses[0];
    assert_eq!(given.devices.len(), 1, "the render node only");
    assert_eq!(given.devices[0].container_path, "/dev/dri/renderD129");
    assert!(given.devices[0].host_path.starts_with(&node.folder.path().display().to_string()));
    assert_eq!(given.devices[0].permissions, "rw");
    assert_eq!(given.envs["DESKTOPSTREAM_RENDER_NODE"], "/dev/dri/renderD129");

    let mut card = node.call(CARD).await;
    let answer =
        card.allocate(allocate(&[share("pci-0000-00-02.0", 0)])).await.expect("allocates").into_inner();
    let paths: Vec<_> =
        answer.container_responses[0].devices.iter().map(|it| it.container_path.as_str()).collect();
    assert_eq!(paths, ["/dev/dri/renderD128", "/dev/dri/card0"]);
    card.allocate(allocate(&[share("pci-0000-00-03.0", 0)])).await.expect_err("without a card node");
    dri.allocate(allocate(&["../../etc::0".to_owned()])).await.expect_err("not a GPU");
    dri.allocate(allocate(&["nonsense".to_owned()])).await.expect_err("not a share");
}

#[tokio::test(flavor = "multi_thread")]
async fn list_and_watch_sends_changes_of_health() {
    let node = Node::new(false);
    let (_kubelet, mut registrations) = start(&node.plugins());
    registered(&mut registrations).await;
    let mut list = node.call(DRI).await.list_and_watch(Empty {}).await.expect("lists").into_inner();
    let healthy = |devices: &[operator_node_agent::wire::Device]| {
        devices.iter().filter(|it| it.health == "Healthy").count()
    };
    assert_eq!(healthy(&list.message().await.expect("a list").expect("one").devices), 8);
    node.found.send_modify(|found| found[0].healthy = false);
    let next =
        tokio::time::timeout(LONG, list.message()).await.expect("in time").expect("a list").expect("one");
    assert_eq!((healthy(&next.devices), next.devices.len()), (4, 8));
    let name = node.found.borrow()[0].gpu.name.clone();
    node.call(DRI).await.allocate(allocate(&[share(&name, 0)])).await.expect_err("unhealthy");
}

#[tokio::test(flavor = "multi_thread")]
async fn preferred_allocation_completes_a_pair_and_cdi_replaces_device_nodes() {
    let node = Node::new(true);
    let (_kubelet, mut registrations) = start(&node.plugins());
    registered(&mut registrations).await;
    let mut dri = node.call(DRI).await;
    // The first container gets the GPU with fewer free shares; the second must follow it.
    let answer =
        dri.allocate(allocate(&[share("pci-0000-00-02.0", 0)])).await.expect("allocates").into_inner();
    assert_eq!(answer.container_responses.len(), 1);
    let available = (1..4).map(|at| share("pci-0000-00-02.0", at));
    let available = available.chain((0..4).map(|at| share("pci-0000-00-03.0", at))).collect();
    let request = PreferredAllocationRequest {
        container_requests: vec![ContainerPreferredAllocationRequest {
            available_device_ids: available,
            must_include_device_ids: Vec::new(),
            allocation_size: 1,
        }],
    };
    let answer = dri.get_preferred_allocation(request).await.expect("prefers").into_inner();
    assert!(
        answer.container_responses[0].device_ids[0].starts_with("pci-0000-00-02.0"),
        "the GPU of the pod's first container"
    );
    let answer =
        dri.allocate(allocate(&[share("pci-0000-00-02.0", 1)])).await.expect("allocates").into_inner();
    let given = &answer.container_responses[0];
    assert!(given.devices.is_empty());
    assert_eq!(given.cdi_devices[0].name, "desktopstream.dev/gpu=pci-0000-00-02.0");
}
