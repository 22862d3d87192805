//! Keeps resources registered with the kubelet.
//!
//! A kubelet that restarts drops all plugins: it empties its folder and creates a new socket. So once per second the sockets
//! are checked, and the plugin registers again if the kubelet's is another one or its own is gone.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Endpoint, Server};

use super::plugin::{Allocation, Plugin, Resource};
use super::wire::device_plugin::device_plugin_server::DevicePluginServer;
use super::wire::registration::registration_client::RegistrationClient;
use super::wire::{DevicePluginOptions, RegisterRequest, VERSION};
use operator_discovery::gpus::Found;

/// The kubelet's folder for device plugins. It does not depend on the kubelet's root folder.
pub const FOLDER: &str = "/var/lib/kubelet/device-plugins";
/// Name of the kubelet's socket.
const KUBELET: &str = "kubelet.sock";
/// Interval at which the sockets are checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Time that the kubelet may take to answer a registration, during which it calls the plugin.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);

/// Error of a registration.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The plugin's socket cannot be created.
    #[error("cannot listen on {}: {source}; mount the kubelet's device-plugins folder", path.display())]
    Listen {
        /// Path of the socket.
        path: PathBuf,
        /// Error of the operation.
        source: std::io::Error,
    },
    /// The kubelet does not accept a connection.
    #[error("cannot connect to the kubelet at {}: {source}; check that it runs", path.display())]
    Connect {
        /// Path of the socket.
        path: PathBuf,
        /// Error of the operation.
        source: tonic::transport::Error,
    },
    /// The kubelet refuses the registration.
    #[error("the kubelet refuses {resource}: {}", status.message())]
    Refused {
        /// Name of the resource.
        resource: String,
        /// Answer of the kubelet.
        status: tonic::Status,
    },
    /// The plugin's server ended.
    #[error("the plugin's server ended")]
    Ended,
}

/// Serves one resource and keeps it registered. Never returns.
pub async fn keep(folder: &Path, plugin: Plugin) {
    loop {
        if let Err(error) = serve(folder, plugin.clone()).await {
            tracing::warn!(resource = plugin.resource.name(), %error, "device plugin failed; registering again");
        }
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}

/// Serves and registers once. Returns when it must be done again.
async fn serve(folder: &Path, plugin: Plugin) -> Result<(), PluginError> {
    let (kubelet, path) = (folder.join(KUBELET), folder.join(plugin.resource.socket()));
    let Some(before) = identity(&kubelet) else {
        tracing::debug!("kubelet socket missing");
        return Ok(());
    };
    // A socket of an earlier process.
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
        () = changed(&kubelet, before, &path) => tracing::info!(resource = resource.name(), "kubelet restarted"),
        _ = &mut serving => return Err(PluginError::Ended),
    }
    Ok(())
}

async fn register(kubelet: &Path, resource: Resource) -> Result<(), PluginError> {
    let connect = |source| PluginError::Connect { path: kubelet.to_owned(), source };
    let endpoint = Endpoint::from_shared(format!("unix://{}", kubelet.display())).map_err(connect)?;
    let channel = endpoint
        .timeout(REGISTER_TIMEOUT)
        .connect_timeout(REGISTER_TIMEOUT)
        .connect()
        .await
        .map_err(connect)?;
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

/// Identity of a socket: inode and time of change.
fn identity(path: &Path) -> Option<(u64, i64, i64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
}

async fn changed(kubelet: &Path, before: (u64, i64, i64), own: &Path) {
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        if identity(kubelet) != Some(before) || !own.exists() {
            return;
        }
    }
}

/// Serves every resource that the node's GPUs provide, also those that appear later. Returns when `gpus` is closed.
pub async fn keep_all(folder: PathBuf, mut gpus: watch::Receiver<Vec<Found>>, allocation: Allocation) {
    let mut tasks = tokio::task::JoinSet::new();
    let mut served = std::collections::BTreeSet::new();
    loop {
        let now = Resource::of(&gpus.borrow_and_update());
        for resource in now {
            if served.insert(resource) {
                let plugin = Plugin { resource, gpus: gpus.clone(), allocation: allocation.clone() };
                let folder = folder.clone();
                tasks.spawn(async move { keep(&folder, plugin).await });
            }
        }
        // A resource whose last GPU was removed stays registered, with no devices.
        if gpus.changed().await.is_err() {
            return;
        }
    }
}
