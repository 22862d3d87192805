//! Device plugin of one extended resource.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use futures_util::{Stream, StreamExt};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use super::cdi;
use super::shares::{self, Pairs};
use super::wire::device_plugin::device_plugin_server::DevicePlugin;
use super::wire::{
    AllocateRequest, AllocateResponse, CdiDevice, ContainerAllocateResponse,
    ContainerPreferredAllocationResponse, Device, DevicePluginOptions, DeviceSpec, Empty, HEALTHY,
    ListAndWatchResponse, PreStartContainerRequest, PreferredAllocationRequest, PreferredAllocationResponse,
    UNHEALTHY,
};
use operator_api::{GpuClass, names};
use operator_discovery::gpus::Found;

/// An extended resource of GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource {
    /// Driver family of the GPUs.
    pub class: GpuClass,
    /// True if the card node is mapped too.
    pub card: bool,
}

impl Resource {
    /// Name of the resource: `desktopstream.dev/dri…`.
    pub fn name(self) -> String {
        names::resource(self.class, self.card)
    }

    /// File name of the plugin's socket in the kubelet's folder.
    pub fn socket(self) -> String {
        format!("{}.sock", self.name().replace('/', "-"))
    }

    /// True if the GPU provides this resource.
    pub fn has(self, found: &Found) -> bool {
        (self.class == GpuClass::Any || self.class == found.gpu.class)
            && (!self.card || found.gpu.card.is_some())
    }

    /// All resources that these GPUs provide.
    pub fn of(found: &[Found]) -> BTreeSet<Self> {
        let mut all = BTreeSet::new();
        for class in [GpuClass::Any].into_iter().chain(GpuClass::FAMILIES) {
            for card in [false, true] {
                let resource = Self { class, card };
                if found.iter().any(|gpu| resource.has(gpu)) {
                    all.insert(resource);
                }
            }
        }
        all
    }
}

/// How devices are allocated.
#[derive(Debug, Clone)]
pub struct Allocation {
    /// Number of shares of each GPU.
    pub shares: u32,
    /// Folder for CDI specifications. If set, containers get CDI devices in place of device files.
    pub cdi: Option<PathBuf>,
}

/// Counts open `ListAndWatch` streams. The kubelet keeps one open while the plugin is registered.
#[derive(Debug, Clone, Default)]
pub struct Watchers(Arc<()>);

impl Watchers {
    /// True if no stream is open.
    pub fn is_empty(&self) -> bool {
        Arc::weak_count(&self.0) == 0
    }

    /// Counts a stream until the guard is dropped.
    fn watch(&self) -> Weak<()> {
        Arc::downgrade(&self.0)
    }
}

/// Server of one resource.
#[derive(Debug, Clone)]
pub struct Plugin {
    /// The resource.
    pub resource: Resource,
    /// GPUs of the node, as they change.
    gpus: watch::Receiver<Vec<Found>>,
    /// How devices are allocated.
    allocation: Allocation,
    /// Open `ListAndWatch` streams.
    pub watchers: Watchers,
    /// Container whose pod's second container is expected next.
    pairs: Arc<Mutex<Pairs>>,
}

type Answer<T> = Result<Response<T>, Status>;

impl Plugin {
    /// Makes the server of `resource`.
    pub fn new(resource: Resource, gpus: watch::Receiver<Vec<Found>>, allocation: Allocation) -> Self {
        Self { resource, gpus, allocation, watchers: Watchers::default(), pairs: Arc::default() }
    }

    fn pairs(&self) -> MutexGuard<'_, Pairs> {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn list(resource: Resource, each: u32, found: &[Found]) -> ListAndWatchResponse {
        let devices = found.iter().filter(|found| resource.has(found)).flat_map(|found| {
            let health = if found.healthy { HEALTHY } else { UNHEALTHY };
            (0..each).map(move |share| Device {
                id: shares::id(&found.gpu.name, share),
                health: health.to_owned(),
            })
        });
        ListAndWatchResponse { devices: devices.collect() }
    }

    fn allocate_container(&self, ids: &[String]) -> Result<ContainerAllocateResponse, Status> {
        let found = self.gpus.borrow();
        let mut answer = ContainerAllocateResponse::default();
        let mut done = BTreeSet::new();
        for id in ids {
            let name = shares::gpu_of(id)
                .ok_or_else(|| Status::invalid_argument(format!("{id:?} is not a device of this plugin")))?;
            if !done.insert(name.to_owned()) {
                continue;
            }
            let gpu = found
                .iter()
                .find(|found| found.gpu.name == name && found.healthy && self.resource.has(found))
                .map(|found| &found.gpu)
                .ok_or_else(|| {
                    Status::not_found(format!(
                        "GPU {name} was removed: delete the pod to have it scheduled again"
                    ))
                })?;
            if answer.envs.is_empty() {
                let render = cdi::in_container(&gpu.render);
                answer.envs = HashMap::from([
                    ("DESKTOPSTREAM_RENDER_NODE".to_owned(), render.clone()),
                    ("DESKTOP_RENDER_NODE".to_owned(), render),
                ]);
            }
            if self.allocation.cdi.is_some() {
                answer.cdi_devices.push(CdiDevice { name: cdi::name(name, self.resource.card) });
                continue;
            }
            let card = gpu.card.iter().filter(|_| self.resource.card);
            for path in std::iter::once(&gpu.render).chain(card) {
                answer.devices.push(DeviceSpec {
                    container_path: cdi::in_container(path),
                    host_path: path.clone(),
                    permissions: "rw".to_owned(),
                });
            }
        }
        Ok(answer)
    }
}

#[tonic::async_trait]
impl DevicePlugin for Plugin {
    type ListAndWatchStream = Pin<Box<dyn Stream<Item = Result<ListAndWatchResponse, Status>> + Send>>;

    async fn get_device_plugin_options(&self, _: Request<Empty>) -> Answer<DevicePluginOptions> {
        Ok(Response::new(DevicePluginOptions {
            pre_start_required: false,
            get_preferred_allocation_available: true,
        }))
    }

    async fn list_and_watch(&self, _: Request<Empty>) -> Answer<Self::ListAndWatchStream> {
        let (resource, each) = (self.resource, self.allocation.shares);
        let (changes, watching) = (WatchStream::new(self.gpus.clone()), self.watchers.watch());
        Ok(Response::new(Box::pin(changes.map(move |found| {
            let _: &Weak<()> = &watching;
            Ok(Self::list(resource, each, &found))
        }))))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<PreferredAllocationRequest>,
    ) -> Answer<PreferredAllocationResponse> {
        let requests = request.into_inner().container_requests;
        let partner = self.pairs().expected(Instant::now());
        let answers = requests.iter().map(|it| {
            let size = usize::try_from(it.allocation_size).unwrap_or(0);
            let each = self.allocation.shares;
            let (available, must) = (&it.available_device_ids, &it.must_include_device_ids);
            let device_ids = shares::prefer(available, must, size, each, &partner);
            ContainerPreferredAllocationResponse { device_ids }
        });
        Ok(Response::new(PreferredAllocationResponse { container_responses: answers.collect() }))
    }

    async fn allocate(&self, request: Request<AllocateRequest>) -> Answer<AllocateResponse> {
        let requests = request.into_inner().container_requests;
        let answers: Result<Vec<_>, _> =
            requests.iter().map(|it| self.allocate_container(&it.device_ids)).collect();
        let answers = answers?;
        for request in &requests {
            let gpus = request.device_ids.iter().filter_map(|id| shares::gpu_of(id));
            self.pairs().allocated(gpus.map(ToOwned::to_owned).collect(), Instant::now());
        }
        Ok(Response::new(AllocateResponse { container_responses: answers }))
    }

    async fn pre_start_container(&self, _: Request<PreStartContainerRequest>) -> Answer<Empty> {
        Ok(Response::new(Empty {}))
    }
}
