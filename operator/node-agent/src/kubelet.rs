//! Keeps our resources registered with the kubelet.
//!
//! The kubelet forgets all plugins when it restarts: it empties its folder and makes a new socket. Whoever
//! doesn't notice has no devices from then on. So we look once a second whether its socket is another one, or
//! ours is gone, and begin anew.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Endpoint, Server};

use super::plugin::{Dealing, Plugin, Resource};
use super::wire::device_plugin::device_plugin_server::DevicePluginServer;
use super::wire::registration::registration_client::RegistrationClient;
use super::wire::{DevicePluginOptions, RegisterRequest, VERSION};
use operator_discovery::gpus::Found;

/// Where kubelets have it, whatever their root folder.
pub const FOLDER: &str = "/var/lib/kubelet/device-plugins";
const KUBELET: &str = "kubelet.sock";
/// How often sockets are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long the kubelet may take to answer; it calls us back meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a registration failed.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// No socket can be made.
    #[error("can't listen on {}: {source}; mount the kubelet's device-plugins folder", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The kubelet's socket can't be reached.
    #[error("can't reach the kubelet at {}: {source}", path.display())]
    Connect {
        /// Where.
        path: PathBuf,
        /// Why.
        source: tonic::transport::Error,
    },
    /// The kubelet says no.
    #[error("the kubelet refuses {resource}: {}", status.message())]
    Refused {
        /// What.
        resource: String,
        /// Its words.
        status: tonic::Status,
    },
    /// Our server ended.
    #[error("the plugin's server ended")]
    Ended,
}

/// Serves one resource, registered with whatever kubelet is there; never returns.
pub async fn keep(folder: &Path, plugin: Plugin) {
    loop {
        if let Err(error) = serve(folder, plugin.clone()).await {
            tracing::warn!(resource = plugin.resource.name(), %error, "will register again");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Serves and registers once; returns when it has to be done again.
async fn serve(folder: &Path, plugin: Plugin) -> Result<(), PluginError> {
    let (kubelet, path) = (folder.join(KUBELET), folder.join(plugin.resource.socket()));
    let Some(before) = identity(&kubelet) else {
        tracing::debug!("no kubelet yet");
        return Ok(());
    };
    // Left over from our last life.
    let _absent = std::fs::remove_file(&path);
    let listener =
        UnixListener::bind(&path).map_err(|source| PluginError::Listen { path: path.clone(), source })?;
    let resource = plugin.resource;
    let serving = Server::builder()
        .add_service(DevicePluginServer::new(plugin))
        .serve_with_incoming(UnixListenerStream::new(listener));
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        registered = register(&kubelet, resource) => registered?,
        _ = &mut serving => return Err(PluginError::Ended),
    }
    tracing::info!(resource = resource.name(), "registered with the kubelet");
    tokio::select! {
        () = changed(&kubelet, before, &path) => tracing::info!(resource = resource.name(), "the kubelet is another one"),
        _ = &mut serving => return Err(PluginError::Ended),
    }
    Ok(())
}

async fn register(kubelet: &Path, resource: Resource) -> Result<(), PluginError> {
    let connect = |source| PluginError::Connect { path: kubelet.to_owned(), source };
    let endpoint = Endpoint::from_shared(format!("unix://{}", kubelet.display())).map_err(connect)?;
    let channel = endpoint.timeout(PATIENCE).connect_timeout(PATIENCE).connect().await.map_err(connect)?;
    let request = RegisterRequest {
        version: VERSION.to_owned(),
        endpoint: resource.socket(),
        resource_name: resource.name(),
        options: Some(DevicePluginOptions {
            pre_start_required: false,
            get_preferred_allocation_available: true,
        }),
    };
    let refused = |status| PluginError::Refused { resource: resource.name(), status };
    RegistrationClient::new(channel).register(request).await.map(|_| ()).map_err(refused)
}

/// Which socket this is: a new one has another inode or another birth.
fn identity(path: &Path) -> Option<(u64, i64, i64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
}

async fn changed(kubelet: &Path, before: (u64, i64, i64), own: &Path) {
    loop {
        tokio::time::sleep(LOOK).await;
        if identity(kubelet) != Some(before) || !own.exists() {
            return;
        }
    }
}

/// Serves all resources that the node's GPUs make, as they come; never returns.
pub async fn keep_all(folder: PathBuf, mut gpus: watch::Receiver<Vec<Found>>, dealing: Dealing) {
    let mut tasks = tokio::task::JoinSet::new();
    let mut served = std::collections::BTreeSet::new();
    loop {
        let now = Resource::of(&gpus.borrow_and_update());
        for resource in now {
            if served.insert(resource) {
                let plugin = Plugin { resource, gpus: gpus.clone(), dealing: dealing.clone() };
                let folder = folder.clone();
                tasks.spawn(async move { keep(&folder, plugin).await });
            }
        }
        // A resource whose last GPU went away stays registered, with none to give.
        if gpus.changed().await.is_err() {
            return;
        }
    }
}
