//! Client of a Docker Engine: the calls that we make, counted, with errors classified and explained.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerSummary, EndpointSettings, EventMessage,
    ImageInspect, Network, NetworkConnectRequest, NetworkCreateRequest, Volume, VolumeCreateRequest,
};
use bollard::query_parameters::{
    CreateContainerOptions, CreateImageOptions, EventsOptions, InspectContainerOptions,
    ListContainersOptions, ListNetworksOptions, ListVolumesOptions, RemoveContainerOptions,
    RemoveVolumeOptions, RenameContainerOptions, StartContainerOptions, StopContainerOptions,
    UploadToContainerOptions,
};
use bollard::{Docker, body_full};
use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;

/// Engine address if neither `--engine` nor `DOCKER_HOST` is set.
const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";
/// `strerror(ENOSPC)`. The Engine answers a full disk with HTTP 500 and this text, and with no code for it.
const ENOSPC: &str = "no space left on device";

/// A failed call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// No Engine answers.
    #[error(
        "no Docker Engine at {host}: {cause}; start it, join its group, or set its address with DOCKER_HOST"
    )]
    Unreachable {
        /// Address of the Engine.
        host: String,
        /// Innermost cause, such as `Connection refused`.
        cause: String,
    },
    /// The Engine answered with an error.
    #[error("cannot {action}: {message}")]
    Refused {
        /// Verb phrase, such as `create container NAME`.
        action: String,
        /// Class of the error.
        refusal: Refusal,
        /// The Engine's message on one line.
        message: String,
    },
}

/// Class of an error that the Engine answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The object does not exist (HTTP 404).
    Missing,
    /// The name is taken or the object is in use (HTTP 409).
    Conflict,
    /// The Engine's disk is full.
    OutOfSpace,
    /// Any other error.
    Other,
}

impl EngineError {
    /// Class of the Engine's answer; `None` if it is unreachable.
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Unreachable { .. } => None,
            Self::Refused { refusal, .. } => Some(*refusal),
        }
    }

    /// The object does not exist.
    pub fn is_missing(&self) -> bool {
        self.refusal() == Some(Refusal::Missing)
    }

    fn refused(action: String, status: u16, message: &str) -> Self {
        let refusal = match status {
            404 => Refusal::Missing,
            409 => Refusal::Conflict,
            _ if message.contains(ENOSPC) => Refusal::OutOfSpace,
            _ => Refusal::Other,
        };
        Self::Refused { action, refusal, message: one_line(message) }
    }
}

type Result<T> = std::result::Result<T, EngineError>;

/// An Engine. The connection is opened by the first call, and again after a call found the Engine unreachable.
#[derive(Debug)]
pub struct Engine {
    host: String,
    docker: Mutex<Option<Docker>>,
    calls: AtomicU64,
}

/// Objects of a project.
#[derive(Debug, Default, Clone)]
pub struct Listing {
    /// Containers, running or not.
    pub containers: Vec<ContainerSummary>,
    /// Networks with the label.
    pub networks: Vec<Network>,
    /// Volumes with the label.
    pub volumes: Vec<Volume>,
}

impl Engine {
    /// The Engine at `host`, else at `DOCKER_HOST`, else at the default socket.
    pub fn new(host: Option<String>) -> Self {
        let from_env = || std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
        let host = host.or_else(from_env).unwrap_or_else(|| DEFAULT_HOST.to_owned());
        Self { host, docker: Mutex::new(None), calls: AtomicU64::new(0) }
    }

    /// Number of API calls made so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Relaxed)
    }

    fn unreachable(&self, error: &dyn std::error::Error) -> EngineError {
        let mut inner = error;
        while let Some(source) = inner.source() {
            inner = source;
        }
        EngineError::Unreachable { host: self.host.clone(), cause: inner.to_string() }
    }

    /// A connection at the newest API version that both sides support (1.41 with Docker 20.10).
    async fn docker(&self) -> Result<Docker> {
        let connected = self.docker.lock().clone();
        if let Some(docker) = connected {
            self.calls.fetch_add(1, Relaxed);
            return Ok(docker);
        }
        // The negotiation is a call of its own.
        self.calls.fetch_add(2, Relaxed);
        let docker = Docker::connect_with_host(&self.host).map_err(|error| self.unreachable(&error))?;
        let docker = docker.negotiate_version().await.map_err(|error| self.unreachable(&error))?;
        *self.docker.lock() = Some(docker.clone());
        Ok(docker)
    }

    fn classify(&self, action: String, error: bollard::errors::Error) -> EngineError {
        use bollard::errors::Error;
        match error {
            Error::DockerResponseServerError { status_code, message } => {
                EngineError::refused(action, status_code, &message)
            }
            Error::DockerStreamError { error } => EngineError::refused(action, 500, &error),
            Error::JsonDataError { message, .. } => EngineError::refused(action, 500, &message),
            other => {
                // The Engine may come back with another API version.
                *self.docker.lock() = None;
                self.unreachable(&other)
            }
        }
    }

    /// Lists the containers, networks and volumes with a label, given as `KEY` or `KEY=VALUE`.
    pub async fn list(&self, label: &str) -> Result<Listing> {
        let filters: HashMap<_, _> = [("label".to_owned(), vec![label.to_owned()])].into();
        let networks = ListNetworksOptions { filters: Some(filters.clone()) };
        let volumes = ListVolumesOptions { filters: Some(filters) };
        let action = |what: &str| format!("list {what}");
        let networks = self.docker().await?.list_networks(Some(networks)).await;
        let volumes = self.docker().await?.list_volumes(Some(volumes)).await;
        Ok(Listing {
            containers: self.containers(label).await?,
            networks: networks.map_err(|error| self.classify(action("networks"), error))?,
            volumes: volumes
                .map_err(|error| self.classify(action("volumes"), error))?
                .volumes
                .unwrap_or_default(),
        })
    }

    /// Lists the containers with a label, running or not.
    pub async fn containers(&self, label: &str) -> Result<Vec<ContainerSummary>> {
        let filters = [("label".to_owned(), vec![label.to_owned()])].into();
        let options = ListContainersOptions { all: true, filters: Some(filters), ..Default::default() };
        let list = self.docker().await?.list_containers(Some(options)).await;
        list.map_err(|error| self.classify("list containers".to_owned(), error))
    }

    /// Inspects a container, by name or ID.
    pub async fn inspect(&self, name: &str) -> Result<ContainerInspectResponse> {
        let found = self.docker().await?.inspect_container(name, None::<InspectContainerOptions>).await;
        found.map_err(|error| self.classify(format!("inspect container {name}"), error))
    }

    /// Creates a container without starting it. Returns its ID.
    pub async fn create(&self, name: &str, body: ContainerCreateBody) -> Result<String> {
        let options = CreateContainerOptions { name: Some(name.to_owned()), platform: String::new() };
        let created = self.docker().await?.create_container(Some(options), body).await;
        created.map(|it| it.id).map_err(|error| self.classify(format!("create container {name}"), error))
    }

    /// Starts a container. No effect on a running one.
    pub async fn start(&self, name: &str) -> Result<()> {
        let started = self.docker().await?.start_container(name, None::<StartContainerOptions>).await;
        started.map_err(|error| self.classify(format!("start container {name}"), error))
    }

    /// Resumes a paused container.
    pub async fn unpause(&self, name: &str) -> Result<()> {
        let done = self.docker().await?.unpause_container(name).await;
        done.map_err(|error| self.classify(format!("unpause container {name}"), error))
    }

    /// Stops a container: by its stop signal, and by SIGKILL after `grace_seconds`.
    pub async fn stop(&self, name: &str, grace_seconds: i32) -> Result<()> {
        let options = StopContainerOptions { t: Some(grace_seconds), signal: None };
        let done = self.docker().await?.stop_container(name, Some(options)).await;
        done.map_err(|error| self.classify(format!("stop container {name}"), error))
    }

    /// Renames a container.
    pub async fn rename(&self, name: &str, to: &str) -> Result<()> {
        let options = RenameContainerOptions { name: to.to_owned() };
        let done = self.docker().await?.rename_container(name, options).await;
        done.map_err(|error| self.classify(format!("rename container {name} to {to}"), error))
    }

    /// Kills and removes a container, with its anonymous volumes if `volumes`. Succeeds if it does not exist or is being
    /// removed: with `force`, the Engine answers 409 only while another removal of the container is in progress.
    pub async fn remove(&self, name: &str, volumes: bool) -> Result<()> {
        let options = RemoveContainerOptions { v: volumes, force: true, link: false };
        let done = self.docker().await?.remove_container(name, Some(options)).await;
        match done.map_err(|error| self.classify(format!("remove container {name}"), error)) {
            Err(error) if matches!(error.refusal(), Some(Refusal::Missing | Refusal::Conflict)) => Ok(()),
            done => done,
        }
    }

    fn ignore_missing(
        &self,
        action: String,
        done: std::result::Result<(), bollard::errors::Error>,
    ) -> Result<()> {
        match done.map_err(|error| self.classify(action, error)) {
            Err(error) if error.is_missing() => Ok(()),
            done => done,
        }
    }

    /// Creates a network.
    pub async fn create_network(&self, request: NetworkCreateRequest) -> Result<()> {
        let action = format!("create network {}", request.name);
        let created = self.docker().await?.create_network(request).await;
        created.map(|_| ()).map_err(|error| self.classify(action, error))
    }

    /// The host's address in a network; `None` if the network has no gateway.
    pub async fn gateway(&self, name: &str) -> Result<Option<String>> {
        let found = self.docker().await?.inspect_network(name, None).await;
        let found = found.map_err(|error| self.classify(format!("inspect network {name}"), error))?;
        let configs = found.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
        Ok(configs.into_iter().find_map(|config| config.gateway))
    }

    /// Connects a container to a network.
    pub async fn connect(&self, network: &str, container: &str, endpoint: EndpointSettings) -> Result<()> {
        let request =
            NetworkConnectRequest { container: container.to_owned(), endpoint_config: Some(endpoint) };
        let done = self.docker().await?.connect_network(network, request).await;
        done.map_err(|error| self.classify(format!("connect {container} to network {network}"), error))
    }

    /// Removes a network. Succeeds if it does not exist.
    pub async fn remove_network(&self, name: &str) -> Result<()> {
        let done = self.docker().await?.remove_network(name).await;
        self.ignore_missing(format!("remove network {name}"), done)
    }

    /// Creates a volume. No effect on an existing one.
    pub async fn create_volume(&self, request: VolumeCreateRequest) -> Result<()> {
        let action = format!("create volume {}", request.name.as_deref().unwrap_or_default());
        let created = self.docker().await?.create_volume(request).await;
        created.map(|_| ()).map_err(|error| self.classify(action, error))
    }

    /// Labels of a volume.
    pub async fn volume_labels(&self, name: &str) -> Result<HashMap<String, String>> {
        let found = self.docker().await?.inspect_volume(name).await;
        found.map(|it| it.labels).map_err(|error| self.classify(format!("inspect volume {name}"), error))
    }

    /// Removes a volume. Succeeds if it does not exist.
    pub async fn remove_volume(&self, name: &str) -> Result<()> {
        let done = self.docker().await?.remove_volume(name, None::<RemoveVolumeOptions>).await;
        self.ignore_missing(format!("remove volume {name}"), done)
    }

    /// Unpacks a tar archive into a folder of a container.
    pub async fn upload(&self, name: &str, path: &str, archive: Vec<u8>) -> Result<()> {
        let options = UploadToContainerOptions { path: path.to_owned(), ..Default::default() };
        let done =
            self.docker().await?.upload_to_container(name, Some(options), body_full(archive.into())).await;
        done.map_err(|error| self.classify(format!("write into container {name}"), error))
    }

    /// Inspects an image, by reference or ID; `None` if the Engine does not have it.
    pub async fn image(&self, image: &str) -> Result<Option<ImageInspect>> {
        match self.docker().await?.inspect_image(image).await {
            Ok(found) => Ok(Some(found)),
            Err(error) => match self.classify(format!("inspect image {image}"), error) {
                error if error.is_missing() => Ok(None),
                error => Err(error),
            },
        }
    }

    /// Pulls an image and waits for the end.
    pub async fn pull(&self, image: &str) -> Result<()> {
        let options = CreateImageOptions { from_image: Some(tagged(image)), ..CreateImageOptions::default() };
        let docker = self.docker().await?;
        let mut progress = std::pin::pin!(docker.create_image(Some(options), None, None));
        let action = || format!("pull image {image}");
        while let Some(line) = progress.next().await {
            let line = line.map_err(|error| self.classify(action(), error))?;
            if let Some(message) = line.error_detail.and_then(|detail| detail.message) {
                return Err(EngineError::refused(action(), 500, &message));
            }
        }
        Ok(())
    }

    /// Events of containers, networks and volumes from now on, until the connection ends.
    pub async fn events(&self) -> Result<Pin<Box<dyn Stream<Item = Result<EventMessage>> + Send + '_>>> {
        const EVENTS: [&str; 9] =
            ["start", "die", "destroy", "rename", "pause", "unpause", "create", "disconnect", "update"];
        let list = |items: &[&str]| items.iter().map(|&item| item.to_owned()).collect::<Vec<_>>();
        let filters = [
            ("type".to_owned(), list(&["container", "network", "volume"])),
            ("event".to_owned(), list(&EVENTS)),
        ];
        let options = EventsOptions { filters: Some(filters.into()), ..EventsOptions::default() };
        let docker = self.docker().await?;
        let events = docker.events(Some(options));
        Ok(Box::pin(
            events.map(|event| event.map_err(|error| self.classify("watch events".to_owned(), error))),
        ))
    }

    /// Version, address and API version in one line.
    pub async fn version(&self) -> Result<String> {
        let version = self.docker().await?.version().await;
        let version = version.map_err(|error| self.classify("get the version".to_owned(), error))?;
        let api = version.api_version.unwrap_or_default();
        Ok(format!("{} at {}, API {api}", version.version.unwrap_or_default(), self.host))
    }

    /// The bollard client, for the calls of single commands (logs, exec).
    pub async fn client(&self) -> Result<Docker> {
        self.docker().await
    }
}

/// The reference with a tag. Without one, the Engine would pull all tags.
fn tagged(image: &str) -> String {
    let name = image.rsplit('/').next().unwrap_or(image);
    if name.contains(':') || name.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

fn one_line(message: &str) -> String {
    message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_without_tag_is_pulled_as_latest() {
        for (image, pulled) in [
            ("a", "a:latest"),
            ("a:1", "a:1"),
            ("host:5000/a", "host:5000/a:latest"),
            ("host/a@sha256:00", "host/a@sha256:00"),
        ] {
            assert_eq!(tagged(image), pulled);
        }
    }

    #[test]
    fn refusals_are_classified_by_status_and_by_enospc() {
        let refusal = |status, message| EngineError::refused("a".to_owned(), status, message).refusal();
        assert_eq!(refusal(404, "no such container"), Some(Refusal::Missing));
        assert_eq!(refusal(409, "in use"), Some(Refusal::Conflict));
        assert_eq!(refusal(500, "mkdir /x: no space left on device"), Some(Refusal::OutOfSpace));
        assert_eq!(refusal(500, "boom"), Some(Refusal::Other));
    }

    #[tokio::test]
    async fn unreachable_engine_is_reported_with_its_address() {
        let engine = Engine::new(Some("unix:///nowhere/docker.sock".to_owned()));
        let error = engine.inspect("x").await.expect_err("no Engine");
        assert!(matches!(error, EngineError::Unreachable { .. }));
        assert!(error.to_string().contains("/nowhere/docker.sock"), "{error}");
        assert!(error.to_string().contains("DOCKER_HOST"), "{error}");
    }
}
