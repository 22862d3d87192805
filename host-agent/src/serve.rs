//! The daemon: opens all sockets, runs its tasks, and shuts down in order.
//!
//! All sockets are opened before any task starts, so that an address in use fails the start. This module
//! owns every task; if one ends unexpectedly the process exits, and its supervisor restarts it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use contract::Endpoint;
use protocol::stream::ErrorCode;
use stream_token::Verifier;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::admin::{self, Admin};
use crate::auth::Authenticator;
use crate::config::Settings;
use crate::connection::{self, Service};
use crate::connection_limiter::ConnectionLimiter;
use crate::hub::Hub;
use crate::hxfr::{self, HxfrService};
use crate::link;
use crate::listen::{Connection, ListenError, Listener, UnixSocket};
use crate::status::{self, Identity};
use crate::worker::Policy;

/// Maximum number of connections beyond the sessions: in handshake, or of a session that is being replaced.
const SPARE_CONNECTIONS: usize = 64;
/// Maximum number of connections that are being rejected with a message; more are closed without one.
const MAX_REJECTING: usize = 16;
/// Maximum time for connections to end at shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(8);
/// Delay after a failed accept, most likely for lack of file descriptors.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Reason why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An endpoint cannot be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The link's socket cannot be opened.
    #[error("cannot open the link {}: {cause}; stop the other host-agent, or choose another path with --link", path.display())]
    Link {
        /// Path of the socket.
        path: PathBuf,
        /// The reason.
        cause: std::io::Error,
    },
    /// The admin address cannot be opened.
    #[error(
        "cannot open the admin address {address}: {cause}; stop the program that uses it, or choose another with --admin"
    )]
    Admin {
        /// The address.
        address: SocketAddr,
        /// The reason.
        cause: std::io::Error,
    },
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    /// Endpoints for sidecars, with assigned ports.
    pub listeners: Vec<Endpoint>,
    /// Endpoints for the HXFR protocol, with assigned ports.
    pub hxfr: Vec<Endpoint>,
    /// Address of the admin server, with its assigned port.
    pub admin: SocketAddr,
    /// Path of the socket for taps.
    pub link: PathBuf,
    /// Sessions and taps.
    pub hub: Arc<Hub>,
    stop: watch::Sender<bool>,
    /// Every task returns its name.
    tasks: JoinSet<&'static str>,
}

/// All open sockets.
struct Sockets {
    listeners: Vec<Listener>,
    hxfr: Vec<Listener>,
    link: UnixSocket,
    admin: TcpListener,
    admin_address: SocketAddr,
}

impl Sockets {
    async fn open(settings: &Settings) -> Result<Self, ServeError> {
        let listeners = bind_all(&settings.listen).await?;
        let hxfr = bind_all(&settings.hxfr).await?;
        let link = UnixSocket::bind(&settings.link)
            .map_err(|cause| ServeError::Link { path: settings.link.clone(), cause })?;
        let admin_error = |cause| ServeError::Admin { address: settings.admin, cause };
        let admin = TcpListener::bind(settings.admin).await.map_err(admin_error)?;
        let admin_address = admin.local_addr().map_err(admin_error)?;
        Ok(Self { listeners, hxfr, link, admin, admin_address })
    }
}

async fn bind_all(endpoints: &[Endpoint]) -> Result<Vec<Listener>, ListenError> {
    let mut listeners = Vec::new();
    for endpoint in endpoints {
        listeners.push(Listener::bind(endpoint).await?);
    }
    Ok(listeners)
}

fn endpoints(listeners: &[Listener]) -> Vec<Endpoint> {
    listeners.iter().map(|listener| listener.endpoint().clone()).collect()
}

/// Opens all sockets and starts all tasks.
///
/// # Errors
/// A socket cannot be opened.
pub async fn start(settings: Settings) -> Result<Daemon, ServeError> {
    let sockets = Sockets::open(&settings).await?;
    let Settings {
        listen: _,
        hxfr: _,
        link: link_path,
        admin: _,
        name,
        keys,
        encoder,
        keepalive_fps,
        max_pixels,
        max_sessions,
        max_taps,
        max_connections_per_peer,
        idle_timeout,
    } = settings;
    let Sockets { listeners, hxfr, link, admin, admin_address } = sockets;
    let authenticator = if let Some(keys) = keys {
        Authenticator::Tokens(Box::new(Verifier::new(&keys, &name)))
    } else {
        tracing::warn!("AUTHENTICATION IS DISABLED: --insecure-no-auth is for development only");
        Authenticator::Insecure
    };
    let (stop, stopping) = watch::channel(false);
    let hub = Arc::new(Hub::new(max_sessions, max_taps));
    let (listener_endpoints, hxfr_endpoints) = (endpoints(&listeners), endpoints(&hxfr));
    let identity = Arc::new(Identity {
        name,
        makes_video: encoder.makes_video(),
        started: Instant::now(),
        listeners: listener_endpoints.clone(),
        link: link_path.display().to_string(),
        encoders: OnceLock::new(),
    });
    let hxfr_service = Arc::new(HxfrService {
        encoder: encoder.clone(),
        totals: Arc::clone(&hub.totals),
        max_pixels,
        idle_timeout,
    });
    let policy = Policy { encoder, keepalive_fps };
    let service =
        Arc::new(Service { authenticator, hub: Arc::clone(&hub), policy, max_pixels, idle_timeout });
    let limiter = ConnectionLimiter::new(max_connections_per_peer, max_sessions + SPARE_CONNECTIONS);

    let mut tasks = JoinSet::new();
    for listener in listeners {
        tracing::info!(endpoint = %listener.endpoint(), "listening for sidecars");
        let (service, limiter, stopping) = (Arc::clone(&service), limiter.clone(), stopping.clone());
        tasks.spawn(async move {
            let serve = |connection| connection::serve(Arc::clone(&service), connection);
            accept(listener, limiter, stopping, serve).await;
            "listener"
        });
    }
    for listener in hxfr {
        tracing::warn!(endpoint = %listener.endpoint(), "listening for HXFR, which has no authentication");
        let (service, limiter, stopping) = (Arc::clone(&hxfr_service), limiter.clone(), stopping.clone());
        tasks.spawn(async move {
            let stop = stopping.clone();
            let serve = |connection| hxfr::serve(Arc::clone(&service), connection, stop.clone());
            accept(listener, limiter, stopping, serve).await;
            "HXFR listener"
        });
    }
    tracing::info!(path = %link_path.display(), "listening for taps");
    let (link_hub, link_stopping) = (Arc::clone(&hub), stopping.clone());
    tasks.spawn(async move {
        link::run(link, link_hub, link_stopping).await;
        "link"
    });
    tracing::info!(address = %admin_address, "serving /healthz, /readyz, /metrics and /status");
    let state = Admin { hub: Arc::clone(&hub), identity: Arc::clone(&identity), stop: stopping };
    tasks.spawn(async move {
        if let Err(error) = admin::run(admin, state).await {
            tracing::error!(%error, "admin server failed");
        }
        "admin server"
    });
    // Detached: a hardware driver may take seconds.
    tokio::task::spawn_blocking(move || test_encoders(&identity));
    Ok(Daemon {
        listeners: listener_endpoints,
        hxfr: hxfr_endpoints,
        admin: admin_address,
        link: link_path,
        hub,
        stop,
        tasks,
    })
}

fn test_encoders(identity: &Identity) {
    let found: Vec<_> = crate::encoders::available().into_iter().map(status::encoder_status).collect();
    let working: Vec<_> = found.iter().filter(|found| found.ok).map(|found| found.name.as_str()).collect();
    tracing::info!(?working, "encoders tested");
    identity.encoders.get_or_init(|| found);
}

impl Daemon {
    /// Waits until a task ends before [`Daemon::shut_down`], and returns its name.
    pub async fn task_ended(&mut self) -> &'static str {
        match self.tasks.join_next().await {
            Some(Ok(task)) => task,
            Some(Err(_)) => "panicked task",
            None => "all tasks",
        }
    }

    /// Ends all sessions with an error to their sidecars, and closes all sockets.
    pub async fn shut_down(mut self) {
        self.stop.send_replace(true);
        self.hub.end_all(ErrorCode::ShuttingDown, "host-agent is shutting down; reconnect later");
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(SHUTDOWN_TIMEOUT, ended).await.is_err() {
            tracing::warn!(timeout = ?SHUTDOWN_TIMEOUT, "connections did not end in time");
        }
    }
}

/// Returns when `stop` becomes true, or its sender is dropped.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // The guard that `wait_for` returns is dropped here: it must not be held across an await.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Accepts connections until `stop`, then gives them time to end.
async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: Listener,
    limiter: ConnectionLimiter,
    mut stop: watch::Receiver<bool>,
    serve: impl Fn(Connection) -> F,
) {
    let mut connections = JoinSet::new();
    let rejecting = Arc::new(Semaphore::new(MAX_REJECTING));
    loop {
        tokio::select! {
            () = stopped(&mut stop) => break,
            // Removes finished tasks from the set.
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok(connection) => if let Some(permit) = limiter.try_acquire(&connection.origin) {
                    let served = serve(connection);
                    connections.spawn(async move {
                        served.await;
                        drop(permit);
                    });
                } else {
                    tracing::warn!(peer = connection.peer, "connection rejected: too many connections");
                    if let Ok(permit) = Arc::clone(&rejecting).try_acquire_owned() {
                        connections.spawn(async move {
                            reject(connection).await;
                            drop(permit);
                        });
                    }
                },
                Err(error) => {
                    tracing::error!(%error, endpoint = %listener.endpoint(), "cannot accept connection");
                    tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await;
                }
            }
        }
    }
    // Sessions were ended by the hub; connections in handshake have no session.
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(SHUTDOWN_TIMEOUT / 2, ended).await.is_err() {
        connections.shutdown().await;
    }
}

/// Rejects a connection over a limit.
async fn reject(connection: Connection) {
    let Connection { reader, writer, .. } = connection;
    let message = "too many connections from this address or in total; close some, or raise \
                   --max-connections-per-peer or --max-sessions";
    connection::reject(reader, writer, ErrorCode::Capacity, message.to_owned()).await;
}
