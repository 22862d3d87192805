//! A Docker Engine: the few calls that we make, counted, with errors that say what to do about them.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerSummary, EndpointSettings, EventMessage, Network,
    NetworkConnectRequest, NetworkCreateRequest, Volume, VolumeCreateRequest,
};
use bollard::query_parameters::{
    CreateContainerOptions, CreateImageOptions, EventsOptions, InspectContainerOptions,
    ListContainersOptions, ListNetworksOptions, ListVolumesOptions, RemoveContainerOptions,
    RemoveVolumeOptions, RenameContainerOptions, StartContainerOptions, StopContainerOptions,
    UploadToContainerOptions,
};
use bollard::{Docker, body_full};
use futures_util::{Stream, StreamExt};

use operator_plan::status::NO_ROOM;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Nobody answers.
    #[error(
        "no Docker Engine at {host} ({why}); start it, see that this user may use it, or say where it is by DOCKER_HOST"
    )]
    Gone {
        /// Where.
        host: String,
        /// In the library's words.
        why: String,
    },
    /// It says no.
    #[error("can't {what}: {message}")]
    Refused {
        /// What was tried.
        what: String,
        /// HTTP status.
        status: u16,
        /// Its words.
        message: String,
    },
}

impl EngineError {
    /// It isn't there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// Its disk is full.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Refused { message, .. } if message.contains(NO_ROOM))
    }

    /// The name is taken, or it is in use.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { status: 409, .. })
    }
}

type Result<T> = std::result::Result<T, EngineError>;

/// A connection that is made anew when the Engine was gone.
#[derive(Debug)]
pub struct Engine {
    host: String,
    docker: Mutex<Option<Docker>>,
    calls: AtomicU64,
}

/// What is there of a project, in three calls.
#[derive(Debug, Default, Clone)]
pub struct Listing {
    /// Containers, running or not.
    pub containers: Vec<ContainerSummary>,
    /// Networks.
    pub networks: Vec<Network>,
    /// Volumes.
    pub volumes: Vec<Volume>,
}

impl Engine {
    /// At `host`, or where DOCKER_HOST says. Connects when first asked.
    pub fn new(host: Option<String>) -> Self {
        let usual = || std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
        let host = host.or_else(usual).unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned());
        Self { host, docker: Mutex::new(None), calls: AtomicU64::new(0) }
    }

    /// Calls until now.
    pub fn calls(&self) -> u64 {
        self.calls.load(Relaxed)
    }

    fn gone(&self, error: &dyn std::error::Error) -> EngineError {
        let mut inner = error;
        while let Some(source) = inner.source() {
            inner = source;
        }
        EngineError::Gone { host: self.host.clone(), why: inner.to_string() }
    }

    /// Speaks the newest API that both know: 20.10's is 1.41.
    async fn docker(&self) -> Result<Docker> {
        let known = self.lock().clone();
        if let Some(docker) = known {
            self.calls.fetch_add(1, Relaxed);
            return Ok(docker);
        }
        self.calls.fetch_add(2, Relaxed);
        let docker = Docker::connect_with_host(&self.host).map_err(|error| self.gone(&error))?;
        let docker = docker.negotiate_version().await.map_err(|error| self.gone(&error))?;
        *self.lock() = Some(docker.clone());
        Ok(docker)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Docker>> {
        // Whoever panicked left a whole value.
        self.docker.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn judge(&self, what: String, error: bollard::errors::Error) -> EngineError {
        use bollard::errors::Error;
        match error {
            Error::DockerResponseServerError { status_code, message } => {
                EngineError::Refused { what, status: status_code, message: brief(&message) }
            }
            Error::DockerStreamError { error } => {
                EngineError::Refused { what, status: 500, message: brief(&error) }
            }
            Error::JsonDataError { message, .. } => EngineError::Refused { what, status: 500, message },
            other => {
                // It may come back as another version.
                *self.lock() = None;
                self.gone(&other)
            }
        }
    }

    /// All of a project.
    pub async fn list(&self, label: &str) -> Result<Listing> {
        let filters: HashMap<_, _> = [("label".to_owned(), vec![label.to_owned()])].into();
        let networks = ListNetworksOptions { filters: Some(filters.clone()) };
        let volumes = ListVolumesOptions { filters: Some(filters) };
        let docker = self.docker().await?;
        let say = |what: &str| format!("list {what}");
        let networks = docker.list_networks(Some(networks)).await;
        let volumes = self.docker().await?.list_volumes(Some(volumes)).await;
        Ok(Listing {
            containers: self.containers(label).await?,
            networks: networks.map_err(|error| self.judge(say("networks"), error))?,
            volumes: volumes.map_err(|error| self.judge(say("volumes"), error))?.volumes.unwrap_or_default(),
        })
    }

    /// Containers with a label, running or not.
    pub async fn containers(&self, label: &str) -> Result<Vec<ContainerSummary>> {
        let filters = [("label".to_owned(), vec![label.to_owned()])].into();
        let options = ListContainersOptions { all: true, filters: Some(filters), ..Default::default() };
        let list = self.docker().await?.list_containers(Some(options)).await;
        list.map_err(|error| self.judge("list containers".to_owned(), error))
    }

    /// All of one container.
    pub async fn inspect(&self, name: &str) -> Result<ContainerInspectResponse> {
        let found = self.docker().await?.inspect_container(name, None::<InspectContainerOptions>).await;
        found.map_err(|error| self.judge(format!("inspect container {name}"), error))
    }

    /// Makes one, which doesn't run yet.
    pub async fn create(&self, name: &str, body: ContainerCreateBody) -> Result<()> {
        let options = CreateContainerOptions { name: Some(name.to_owned()), platform: String::new() };
        let made = self.docker().await?.create_container(Some(options), body).await;
        made.map(|_| ()).map_err(|error| self.judge(format!("make container {name}"), error))
    }

    /// Starts one; one that runs is left alone.
    pub async fn start(&self, name: &str) -> Result<()> {
        let started = self.docker().await?.start_container(name, None::<StartContainerOptions>).await;
        started.map_err(|error| self.judge(format!("start container {name}"), error))
    }

    /// Lets one go on.
    pub async fn unpause(&self, name: &str) -> Result<()> {
        let done = self.docker().await?.unpause_container(name).await;
        done.map_err(|error| self.judge(format!("unpause container {name}"), error))
    }

    /// Stops one, `seconds` after asking it to end at the latest.
    pub async fn stop(&self, name: &str, seconds: i32) -> Result<()> {
        let options = StopContainerOptions { t: Some(seconds), signal: None };
        let done = self.docker().await?.stop_container(name, Some(options)).await;
        done.map_err(|error| self.judge(format!("stop container {name}"), error))
    }

    /// Gives one another name.
    pub async fn rename(&self, name: &str, to: &str) -> Result<()> {
        let options = RenameContainerOptions { name: to.to_owned() };
        let done = self.docker().await?.rename_container(name, options).await;
        done.map_err(|error| self.judge(format!("rename container {name} to {to}"), error))
    }

    /// Removes one, with its nameless volumes if `volumes`. One that isn't there is removed already.
    pub async fn remove(&self, name: &str, volumes: bool) -> Result<()> {
        let options = RemoveContainerOptions { v: volumes, force: true, link: false };
        let done = self.docker().await?.remove_container(name, Some(options)).await;
        self.gone_already(format!("remove container {name}"), done)
    }

    fn gone_already(
        &self,
        what: String,
        done: std::result::Result<(), bollard::errors::Error>,
    ) -> Result<()> {
        match done.map_err(|error| self.judge(what, error)) {
            Err(error) if error.is_missing() => Ok(()),
            // Somebody else's removal is under way.
            Err(EngineError::Refused { status: 409, message, .. })
                if message.contains("already in progress") =>
            {
                Ok(())
            }
            other => other,
        }
    }

    /// Makes a network.
    pub async fn create_network(&self, request: NetworkCreateRequest) -> Result<()> {
        let what = format!("make network {}", request.name);
        let made = self.docker().await?.create_network(request).await;
        made.map(|_| ()).map_err(|error| self.judge(what, error))
    }

    /// The machine's address in a network.
    pub async fn gateway(&self, name: &str) -> Result<Option<String>> {
        let found = self.docker().await?.inspect_network(name, None).await;
        let found = found.map_err(|error| self.judge(format!("inspect network {name}"), error))?;
        let configs = found.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
        Ok(configs.into_iter().find_map(|config| config.gateway))
    }

    /// Puts a container into a network.
    pub async fn connect(&self, network: &str, container: &str, endpoint: EndpointSettings) -> Result<()> {
        let request =
            NetworkConnectRequest { container: container.to_owned(), endpoint_config: Some(endpoint) };
        let done = self.docker().await?.connect_network(network, request).await;
        done.map_err(|error| self.judge(format!("connect {container} to network {network}"), error))
    }

    /// Removes a network, if it is there.
    pub async fn remove_network(&self, name: &str) -> Result<()> {
        let done = self.docker().await?.remove_network(name).await;
        self.gone_already(format!("remove network {name}"), done)
    }

    /// Makes a volume; one that is there is left alone.
    pub async fn create_volume(&self, request: VolumeCreateRequest) -> Result<()> {
        let what = format!("make volume {}", request.name.as_deref().unwrap_or_default());
        let made = self.docker().await?.create_volume(request).await;
        made.map(|_| ()).map_err(|error| self.judge(what, error))
    }

    /// Removes a volume, if it is there.
    pub async fn remove_volume(&self, name: &str) -> Result<()> {
        let done = self.docker().await?.remove_volume(name, None::<RemoveVolumeOptions>).await;
        self.gone_already(format!("remove volume {name}"), done)
    }

    /// Unpacks a tar archive in a container.
    pub async fn upload(&self, name: &str, path: &str, archive: Vec<u8>) -> Result<()> {
        let options = UploadToContainerOptions { path: path.to_owned(), ..Default::default() };
        let done =
            self.docker().await?.upload_to_container(name, Some(options), body_full(archive.into())).await;
        done.map_err(|error| self.judge(format!("write into container {name}"), error))
    }

    /// Whether an image is there.
    pub async fn has_image(&self, image: &str) -> Result<bool> {
        match self.docker().await?.inspect_image(image).await {
            Ok(_) => Ok(true),
            Err(error) => match self.judge(format!("inspect image {image}"), error) {
                error if error.is_missing() => Ok(false),
                error => Err(error),
            },
        }
    }

    /// Pulls an image.
    pub async fn pull(&self, image: &str) -> Result<()> {
        let options = CreateImageOptions { from_image: Some(tagged(image)), ..CreateImageOptions::default() };
        let docker = self.docker().await?;
        let mut lines = std::pin::pin!(docker.create_image(Some(options), None, None));
        let what = || format!("pull image {image}");
        while let Some(line) = lines.next().await {
            let line = line.map_err(|error| self.judge(what(), error))?;
            if let Some(message) = line.error_detail.and_then(|detail| detail.message) {
                return Err(EngineError::Refused { what: what(), status: 500, message: brief(&message) });
            }
        }
        Ok(())
    }

    /// What happens to containers, networks and volumes from now on, until the connection ends.
    pub async fn events(&self) -> Result<Pin<Box<dyn Stream<Item = Result<EventMessage>> + Send + '_>>> {
        const WORTH: [&str; 9] =
            ["start", "die", "destroy", "rename", "pause", "unpause", "create", "disconnect", "update"];
        let list = |items: &[&str]| items.iter().map(|&item| item.to_owned()).collect::<Vec<_>>();
        let filters = [
            ("type".to_owned(), list(&["container", "network", "volume"])),
            ("event".to_owned(), list(&WORTH)),
        ];
        let options = EventsOptions { filters: Some(filters.into()), ..EventsOptions::default() };
        let docker = self.docker().await?;
        let events = docker.events(Some(options));
        Ok(Box::pin(events.map(|event| event.map_err(|error| self.judge("watch events".to_owned(), error)))))
    }

    /// What it is, in words.
    pub async fn version(&self) -> Result<String> {
        let said = self.docker().await?.version().await;
        let said = said.map_err(|error| self.judge("ask its version".to_owned(), error))?;
        let api = said.api_version.unwrap_or_default();
        Ok(format!("{} at {}, API {api}", said.version.unwrap_or_default(), self.host))
    }

    /// The library itself, for what only one command needs.
    pub async fn library(&self) -> Result<Docker> {
        self.docker().await
    }
}

/// A reference with its tag: without one, the Engine would pull all there are.
fn tagged(image: &str) -> String {
    let name = image.rsplit('/').next().unwrap_or(image);
    if name.contains(':') || name.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

/// One line of the Engine's words.
fn brief(message: &str) -> String {
    message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_without_a_tag_are_the_latest() {
        for (image, pulled) in [
            ("a", "a:latest"),
            ("a:1", "a:1"),
            ("host:5000/a", "host:5000/a:latest"),
            ("host/a@sha256:00", "host/a@sha256:00"),
        ] {
            assert_eq!(tagged(image), pulled);
        }
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_said_to_be() {
        let engine = Engine::new(Some("unix:///nowhere/docker.sock".to_owned()));
        let error = engine.inspect("x").await.expect_err("nobody");
        assert!(matches!(error, EngineError::Gone { .. }));
        assert!(error.to_string().contains("/nowhere/docker.sock"), "{error}");
        assert!(error.to_string().contains("DOCKER_HOST"), "{error}");
    }
}
