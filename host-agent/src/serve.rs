//! The daemon: opens all sockets, runs its tasks, and shuts down in order.
//!
//! All sockets are opened before any task starts, so that an address in use fails the start. This module
//! owns every task; if one ends unexpectedly the process exits, and its supervisor restarts it.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use contract::Endpoint;
use protocol::stream::ErrorCode;
use stream_tls::Acceptor;
use stream_token::Verifier;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::accept::{accept_until, end_within};
use crate::admin::{self, Admin, AdminListener};
use crate::auth::Authenticator;
use crate::config::Settings;
use crate::connection::{self, Service};
use crate::connection_limiter::ConnectionLimiter;
use crate::hub::Hub;
use crate::hxfr::{self, HxfrService};
use crate::link;
use crate::listen::{self, Connection, ListenError, Listener, Reach, UnixSocket};
use crate::pending::PendingConnections;
use crate::status::{self, Identity};
use crate::tls_key::{self, TlsKeyError};
use crate::worker::Policy;

/// Maximum number of connections with a verified token beyond the sessions: of sessions that end.
const SPARE_CONNECTIONS: usize = 64;
/// Maximum number of connections with a verified token of one stream: its session, and replaced ones that end.
const MAX_CONNECTIONS_PER_STREAM: usize = 4;
/// Maximum number of connections without a verified token, as a multiple of that of one peer.
const PENDING_PEERS: usize = 8;
/// Maximum number of HXFR connections, and of those from one address. Each can have an encoder.
const MAX_HXFR: usize = 64;
const MAX_HXFR_PER_ORIGIN: usize = 16;
/// Maximum time for connections to end at shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(8);

/// Reason why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An endpoint cannot be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// There is no key for TLS listeners.
    #[error(transparent)]
    TlsKey(#[from] TlsKeyError),
    /// The link's socket cannot be opened.
    #[error("cannot open the link (--link): {0}")]
    Link(ListenError),
    /// The admin server's socket cannot be opened.
    #[error("cannot open the admin server (--admin): {0}")]
    Admin(ListenError),
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    /// Endpoints for sidecars, with assigned ports.
    pub listeners: Vec<Endpoint>,
    /// Endpoints for the HXFR protocol, with assigned ports.
    pub hxfr: Vec<Endpoint>,
    /// Endpoint of the admin server, with its assigned port.
    pub admin: Endpoint,
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
    admin: AdminListener,
    admin_endpoint: Endpoint,
}

impl Sockets {
    async fn open(settings: &Settings) -> Result<Self, ServeError> {
        let tls = acceptor(settings)?;
        let listeners = bind_all(&settings.listen, tls.as_ref()).await?;
        let hxfr = bind_all(&settings.hxfr, tls.as_ref()).await?;
        let link = UnixSocket::bind(&settings.link).map_err(ServeError::Link)?;
        let (admin, admin_endpoint) =
            AdminListener::bind(&settings.admin).await.map_err(ServeError::Admin)?;
        Ok(Self { listeners, hxfr, link, admin, admin_endpoint })
    }
}

/// The end of TLS connections, with the key in its file; `None` without TLS listeners.
fn acceptor(settings: &Settings) -> Result<Option<Acceptor>, TlsKeyError> {
    let is_tls = |endpoint: &Endpoint| matches!(endpoint, Endpoint::Tls { .. });
    if !settings.listen.iter().chain(&settings.hxfr).any(is_tls) {
        return Ok(None);
    }
    let identity = tls_key::load_or_create(&settings.tls_key)?;
    Ok(Some(Acceptor::new(&identity)?))
}

async fn bind_all(endpoints: &[Endpoint], tls: Option<&Acceptor>) -> Result<Vec<Listener>, ListenError> {
    let mut listeners = Vec::new();
    for endpoint in endpoints {
        listeners.push(Listener::bind(endpoint, tls).await?);
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
        tls_key: _,
        link: link_path,
        admin: _,
        name,
        keys,
        encoder,
        keepalive_fps,
        max_pixels,
        max_sessions,
        max_taps,
        max_pending_per_peer,
        idle_timeout,
    } = settings;
    let Sockets { listeners, hxfr, link, admin, admin_endpoint } = sockets;
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
    let service = Arc::new(Service {
        authenticator,
        limiter: ConnectionLimiter::new(MAX_CONNECTIONS_PER_STREAM, max_sessions + SPARE_CONNECTIONS),
        hub: Arc::clone(&hub),
        policy,
        max_pixels,
        idle_timeout,
    });
    let pending = PendingConnections::new(max_pending_per_peer, PENDING_PEERS * max_pending_per_peer);
    let hxfr_limiter = ConnectionLimiter::new(MAX_HXFR_PER_ORIGIN, MAX_HXFR);

    let mut tasks = JoinSet::new();
    for listener in listeners {
        tracing::info!(endpoint = %listener.endpoint(), "listening for sidecars");
        if listener.endpoint().is_exposed_plaintext() {
            tracing::warn!(endpoint = %listener.endpoint(), "PLAINTEXT: everything on the way reads video and tokens");
        }
        let (service, pending, stopping) = (Arc::clone(&service), pending.clone(), stopping.clone());
        tasks.spawn(async move {
            let serve = |connection: Connection| {
                let place = pending.enter(&connection.origin);
                connection::serve(Arc::clone(&service), connection, place)
            };
            accept(listener, stopping, serve).await;
            "listener"
        });
    }
    for listener in hxfr {
        tracing::warn!(endpoint = %listener.endpoint(), "listening for HXFR, which has no authentication");
        let (service, limiter) = (Arc::clone(&hxfr_service), hxfr_limiter.clone());
        let stopping = stopping.clone();
        tasks.spawn(async move {
            let stop = stopping.clone();
            let serve = |connection: Connection| {
                let permit = limiter.try_acquire(&connection.origin);
                let (service, stop) = (Arc::clone(&service), stop.clone());
                async move {
                    if permit.is_some() {
                        hxfr::serve(service, connection, stop).await;
                    } else {
                        tracing::debug!(peer = connection.peer, "HXFR connection closed: too many");
                    }
                    drop(permit);
                }
            };
            accept(listener, stopping, serve).await;
            "HXFR listener"
        });
    }
    tracing::info!(path = %link_path.display(), "listening for taps");
    let (link_hub, link_stopping) = (Arc::clone(&hub), stopping.clone());
    tasks.spawn(async move {
        link::run(link, link_hub, link_stopping).await;
        "link"
    });
    tracing::info!(admin = %admin_endpoint, "serving /healthz, /readyz, /metrics and /status");
    if listen::reach(&admin_endpoint) != Reach::ThisUser {
        tracing::warn!("the admin server names all streams and VMs to every peer that reaches it");
    }
    let state = Admin { hub: Arc::clone(&hub), identity: Arc::clone(&identity), stop: stopping };
    tasks.spawn(async move {
        admin::run(admin, state).await;
        "admin server"
    });
    // Detached: a hardware driver may take seconds.
    tokio::task::spawn_blocking(move || test_encoders(&identity));
    Ok(Daemon {
        listeners: listener_endpoints,
        hxfr: hxfr_endpoints,
        admin: admin_endpoint,
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

/// Accepts connections until `stop`, then gives them time to end.
async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: Listener,
    mut stop: watch::Receiver<bool>,
    serve: impl Fn(Connection) -> F,
) {
    let connections = accept_until(&listener, listener.endpoint(), &mut stop, serve).await;
    // Sessions were ended by the hub; connections in handshake have no session.
    end_within(connections, SHUTDOWN_TIMEOUT / 2).await;
}
