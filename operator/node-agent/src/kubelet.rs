//! Keeps resources registered with the kubelet.
//!
//! A plugin registers again if its registration is gone, which shows in one of three ways, checked once per second:
//! - A restarted kubelet has emptied its folder and created a new socket.
//! - The plugin's socket is gone, or another process has replaced it: a second installation on the node. While that process
//!   lives, the plugin waits, because two plugins that register in turn would serve neither.
//! - The kubelet has ended `ListAndWatch`, which it keeps open for as long as the plugin is registered.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Endpoint, Server};

use super::plugin::{Allocation, Plugin, Resource, Watchers};
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

/// Number of checks without `ListAndWatch` after which the registration counts as gone.
const UNWATCHED_CHECKS: u32 = 10;

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
    /// Another process serves the resource.
    #[error(
        "another process serves {resource} at {}; uninstall the other installation of desktopstream", path.display()
    )]
    Taken {
        /// Name of the resource.
        resource: String,
        /// Path of the socket.
        path: PathBuf,
    },
    /// The plugin's server ended.
    #[error("the plugin's server ended")]
    Ended,
}

/// Serves one resource and keeps it registered. Never returns.
pub async fn keep(folder: &Path, plugin: Plugin) {
    let mut reported = String::new();
    loop {
        let error =
            serve(folder, plugin.clone()).await.err().map(|error| error.to_string()).unwrap_or_default();
        if !error.is_empty() && error != reported {
            tracing::warn!(
                resource = plugin.resource.name(),
                error,
                "device plugin failed; registering again"
            );
        }
        reported = error;
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
    // A socket of an earlier process refuses connections.
    if UnixStream::connect(&path).await.is_ok() {
        return Err(PluginError::Taken { resource: plugin.resource.name(), path });
    }
    let _absent = std::fs::remove_file(&path);
    let listener =
        UnixListener::bind(&path).map_err(|source| PluginError::Listen { path: path.clone(), source })?;
    let (resource, watchers) = (plugin.resource, plugin.watchers.clone());
    let own = identity(&path);
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
        lost = lost(&kubelet, before, &path, own, &watchers) => {
            tracing::warn!(resource = resource.name(), reason = lost, "registration lost; registering again");
        }
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
fn identity(path: &Path) -> Option<Identity> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
}

/// Identity of a file: inode and time of change.
type Identity = (u64, i64, i64);

/// Returns the reason when the registration is gone.
async fn lost(
    kubelet: &Path,
    before: Identity,
    path: &Path,
    own: Option<Identity>,
    watchers: &Watchers,
) -> &'static str {
    let mut unwatched = 0;
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        unwatched = if watchers.is_empty() { unwatched + 1 } else { 0 };
        let now = identity(path);
        if identity(kubelet) != Some(before) {
            return "the kubelet restarted";
        } else if now.is_none() {
            return "the plugin's socket was removed";
        } else if now != own {
            return "another process replaced the plugin's socket";
        } else if unwatched >= UNWATCHED_CHECKS {
            return "the kubelet does not watch the devices";
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
                let plugin = Plugin::new(resource, gpus.clone(), allocation.clone());
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
