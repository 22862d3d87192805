//! The daemon: opens everything, runs it, and ends it in order.
//!
//! Opening comes first and as a whole: an address that is taken ends the start, not a session later. Each
//! task has an owner here; if one ends before it is told to, the process ends, and whoever runs it starts
//! it anew. Wiring only: what the tasks do is in their own files.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use protocol::endpoint::Endpoint;
use protocol::stream::{ErrorCode, ServerMessage};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::admin::{self, Admin};
use crate::auth::{Gate, Verifier};
use crate::config::Settings;
use crate::connection::{self, Service};
use crate::hub::Hub;
use crate::hxfr::{self, Predecessor};
use crate::link;
use crate::listen::{Connection, ListenError, Listener, UnixSocket};
use crate::status::{EncoderStatus, Identity};
use crate::worker::Policy;

/// Connections beyond the sessions: those that shake hands, and those that are being replaced.
const SPARE_CONNECTIONS: usize = 64;
/// Connections that are being told, at once, that there is no room.
const TURNED_AWAY: usize = 16;
/// How long sessions may take to end when the process does.
const SHUTDOWN_TIME: Duration = Duration::from_secs(8);

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An endpoint for sidecars.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The link.
    #[error("can't open the link {}: {cause}; is another host-agent running? choose another with --link", path.display())]
    Link {
        /// Where.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The admin address.
    #[error(
        "can't open the admin address {address}: {cause}; is another host-agent running? choose another with --admin"
    )]
    Admin {
        /// Where.
        address: SocketAddr,
        /// Why.
        cause: std::io::Error,
    },
}

/// A running daemon.
#[derive(Debug)]
pub struct Running {
    /// Where sidecars connect, with the ports that were given.
    pub listeners: Vec<Endpoint>,
    /// Where the predecessor's elements connect.
    pub hxfr: Vec<Endpoint>,
    /// Where HTTP is.
    pub admin: SocketAddr,
    /// Where taps connect.
    pub link: PathBuf,
    /// Sessions and taps.
    pub hub: Arc<Hub>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<&'static str>,
}

/// Opens and starts everything.
pub async fn start(settings: Settings) -> Result<Running, ServeError> {
    let Settings {
        listen,
        hxfr,
        link: link_path,
        admin: admin_address,
        name,
        keys,
        encoder,
        keepalive_fps,
        max_pixels,
        max_sessions,
        max_taps,
        max_connections_per_peer,
        idle,
    } = settings;
    let gate = if let Some(keys) = keys {
        Gate::Keys(Box::new(Verifier::new(&keys, &name)))
    } else {
        tracing::warn!(
            "ANYONE ON THIS MACHINE CAN HAVE A SESSION: --insecure-no-auth is for development only"
        );
        Gate::Open
    };
    let mut listeners = Vec::new();
    for endpoint in &listen {
        listeners.push(Listener::bind(endpoint).await?);
    }
    let mut hxfr_listeners = Vec::new();
    for endpoint in &hxfr {
        hxfr_listeners.push(Listener::bind(endpoint).await?);
    }
    let link_socket =
        UnixSocket::bind(&link_path).map_err(|cause| ServeError::Link { path: link_path.clone(), cause })?;
    let admin_failed = |cause| ServeError::Admin { address: admin_address, cause };
    let admin_listener = TcpListener::bind(admin_address).await.map_err(admin_failed)?;
    let admin_address = admin_listener.local_addr().map_err(admin_failed)?;

    let (stop, stopped) = watch::channel(false);
    let hub = Arc::new(Hub::new(max_sessions, max_taps));
    let endpoints: Vec<_> = listeners.iter().map(|listener| listener.endpoint().clone()).collect();
    let identity = Arc::new(Identity {
        name,
        makes_video: encoder.makes_video(),
        started: Instant::now(),
        listeners: endpoints.clone(),
        link: link_path.display().to_string(),
        encoders: OnceLock::new(),
    });
    let predecessor =
        Arc::new(Predecessor { encoder: encoder.clone(), totals: Arc::clone(&hub.totals), max_pixels, idle });
    let service = Arc::new(Service {
        gate,
        hub: Arc::clone(&hub),
        policy: Policy { encoder, keepalive_fps },
        max_pixels,
        idle,
    });
    let doors = Doors::new(max_connections_per_peer, max_sessions + SPARE_CONNECTIONS);

    let mut tasks = JoinSet::new();
    for listener in listeners {
        tracing::info!(endpoint = %listener.endpoint(), "listening for sidecars");
        let (service, doors, stopped) = (Arc::clone(&service), doors.clone(), stopped.clone());
        tasks.spawn(async move {
            let serve = |connection| connection::serve(Arc::clone(&service), connection);
            accept(listener, doors, stopped, serve).await;
            "a listener"
        });
    }
    let hxfr: Vec<_> = hxfr_listeners.iter().map(|listener| listener.endpoint().clone()).collect();
    for listener in hxfr_listeners {
        tracing::warn!(endpoint = %listener.endpoint(), "serving HXFR: whoever connects is served");
        let (predecessor, doors, stopped) = (Arc::clone(&predecessor), doors.clone(), stopped.clone());
        tasks.spawn(async move {
            let until = stopped.clone();
            let serve = |connection| hxfr::serve(Arc::clone(&predecessor), connection, until.clone());
            accept(listener, doors, stopped, serve).await;
            "an HXFR listener"
        });
    }
    tracing::info!(path = %link_path.display(), "listening for taps");
    let (link_hub, link_stopped) = (Arc::clone(&hub), stopped.clone());
    tasks.spawn(async move {
        link::run(link_socket, link_hub, link_stopped).await;
        "the link"
    });
    tracing::info!(address = %admin_address, "serving /healthz /readyz /metrics /status");
    let admin = Admin { hub: Arc::clone(&hub), identity: Arc::clone(&identity), stop: stopped };
    tasks.spawn(async move {
        if let Err(error) = admin::run(admin_listener, admin).await {
            tracing::error!(%error, "admin HTTP ended");
        }
        "the admin server"
    });
    // Not waited for: a chip's driver may take seconds.
    tokio::task::spawn_blocking(move || {
        let found: Vec<EncoderStatus> =
            crate::encoders::available().into_iter().map(EncoderStatus::from).collect();
        let working: Vec<_> =
            found.iter().filter(|found| found.ok).map(|found| found.name.as_str()).collect();
        tracing::info!(?working, "encoders tried");
        identity.encoders.get_or_init(|| found);
    });
    Ok(Running { listeners: endpoints, hxfr, admin: admin_address, link: link_path, hub, stop, tasks })
}

impl Running {
    /// Waits for a task that ends without being told to, and names it.
    pub async fn failed(&mut self) -> &'static str {
        match self.tasks.join_next().await {
            Some(Ok(task)) => task,
            Some(Err(_)) => "a task that panicked",
            None => "everything",
        }
    }

    /// Tells every sidecar, waits for their connections to end, and closes everything.
    pub async fn shut_down(mut self) {
        self.stop.send_replace(true);
        self.hub.end_all(ErrorCode::ShuttingDown, "host-agent is stopping; connect again when it is back");
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(SHUTDOWN_TIME, ended).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
    }
}

/// Counts connections: in all, and by where they come from.
#[derive(Debug, Clone)]
struct Doors {
    open: Arc<Mutex<HashMap<String, usize>>>,
    per_peer: usize,
    in_all: usize,
}

/// A counted connection; dropping it makes room.
struct Pass {
    doors: Doors,
    origin: String,
}

impl Doors {
    fn new(per_peer: usize, in_all: usize) -> Self {
        Self { open: Arc::default(), per_peer, in_all }
    }

    fn enter(&self, origin: &str) -> Option<Pass> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.values().sum::<usize>() >= self.in_all {
            return None;
        }
        let count = open.entry(origin.to_owned()).or_default();
        if *count >= self.per_peer {
            return None;
        }
        *count += 1;
        Some(Pass { doors: self.clone(), origin: origin.to_owned() })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut open = self.doors.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.origin) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.origin);
            }
        }
    }
}

/// Returns when `stop` says so, or nobody can say so any more.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // The guard that `wait_for` gives is dropped here: it must not be held over an await.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: Listener,
    doors: Doors,
    mut stop: watch::Receiver<bool>,
    serve: impl Fn(Connection) -> F,
) {
    let mut connections = JoinSet::new();
    let told = Arc::new(Semaphore::new(TURNED_AWAY));
    loop {
        tokio::select! {
            () = crate::serve::stopped(&mut stop) => break,
            // Reaps those that ended.
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok(connection) => if let Some(pass) = doors.enter(&connection.origin) {
                    let served = serve(connection);
                    connections.spawn(async move {
                        served.await;
                        drop(pass);
                    });
                } else {
                    tracing::warn!(peer = connection.peer, "too many connections");
                    // Beyond these few, a flood is not worth an answer.
                    if let Ok(permit) = Arc::clone(&told).try_acquire_owned() {
                        connections.spawn(async move {
                            turn_away(connection).await;
                            drop(permit);
                        });
                    }
                },
                Err(error) => {
                    // Out of descriptors, most likely: those that are open must end first.
                    tracing::error!(%error, endpoint = %listener.endpoint(), "can't take a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
    // Those that still shake hands have no session that could be told.
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(SHUTDOWN_TIME / 2, ended).await.is_err() {
        connections.shutdown().await;
    }
}

/// Says why.
async fn turn_away(connection: Connection) {
    let Connection { mut reader, writer, .. } = connection;
    let message = "too many connections from this address or in all; raise --max-connections-per-peer or --max-sessions";
    let error = ServerMessage::Error { code: ErrorCode::Capacity, message: message.to_owned() };
    // The peer may be gone: then there is nobody to tell.
    let _told = timeout(Duration::from_secs(1), writer.write_all(&error.encode().to_vec())).await;
    drop(writer);
    connection::linger(&mut reader).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doors_count_by_origin_and_in_all() {
        let doors = Doors::new(2, 3);
        let first = doors.enter("a").expect("room");
        let _second = doors.enter("a").expect("room");
        assert!(doors.enter("a").is_none(), "two from one address");
        let _third = doors.enter("b").expect("room");
        assert!(doors.enter("c").is_none(), "three in all");
        drop(first);
        assert!(doors.enter("c").is_some());
        assert_eq!(doors.open.lock().expect("not poisoned").len(), 2, "nothing is kept of those that left");
    }
}
