//! The viewers' HTTP server.
//!
//! | path            | gives                                                        | token |
//! |-----------------|--------------------------------------------------------------|-------|
//! | `/`             | the page, with `viewer.js` and `viewer.css`                  | yes   |
//! | `/ws`           | WebSocket: access units and what goes with them, see [`wire`] | yes   |
//! | `/stream.h264`  | live Annex B from the last IDR                               | yes   |
//! | `/stream.mp4`   | live fragmented MP4                                          | yes   |
//! | `/snapshot.png` | the current picture                                          | yes   |
//! | `/status`       | JSON                                                         | yes   |
//! | `/metrics`      | Prometheus text                                              | yes   |
//! | `/healthz`, `/readyz` | for probes                                             | no    |
//! | `/login.css`    | style of the page that asks for the token                    | no    |
//!
//! Every viewer is hostile until it has shown the token, and limited afterwards: places, message size and
//! rate, time to answer. What status, readiness and extra metrics say is given to it: the server knows
//! the hub and nothing of capture, resolve or upstream.

pub mod auth;
mod guard;
mod listen;
mod ops;
mod page;
mod session;
mod streams;
pub mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware;
use axum::routing::{any, get};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::auth::{Access, AuthError, Origins};
use super::hub::{Hub, Refusal};
use super::snapshot::{GopSnapshot, SnapshotSource};

/// How the server behaves.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// What viewers must show; `None` only on loopback or with `insecure_no_auth`.
    pub viewer_token: Option<String>,
    /// Serve everyone who can connect.
    pub insecure_no_auth: bool,
    /// Origins besides the server's own, e.g. `https://desktops.example.com`, that may embed the page and
    /// open the WebSocket.
    pub allowed_origins: Vec<String>,
    /// Most viewers at once, over all protocols.
    pub max_viewers: usize,
    /// A viewer that has not answered for so long is gone.
    pub pong_timeout: Duration,
    /// `/readyz` says no when the last access unit is older than this.
    pub ready_within: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            viewer_token: None,
            insecure_no_auth: false,
            allowed_origins: Vec::new(),
            max_viewers: 16,
            pong_timeout: Duration::from_secs(10),
            ready_within: Duration::from_secs(5),
        }
    }
}

type Status = Box<dyn Fn() -> serde_json::Value + Send + Sync>;
type Metrics = Box<dyn Fn() -> String + Send + Sync>;
type Ready = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What main knows and the server shows. Without them it shows what the hub knows.
#[derive(Default)]
struct Hooks {
    status: Option<Status>,
    metrics: Option<Metrics>,
    ready: Option<Ready>,
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("status", &self.status.is_some())
            .field("metrics", &self.metrics.is_some())
            .field("ready", &self.ready.is_some())
            .finish()
    }
}

/// Why the server can't start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The way of authentication is missing or bad.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The listener is broken.
    #[error("viewer listener: {0}")]
    Listener(#[from] std::io::Error),
}

/// A server that has not begun to listen.
#[derive(Debug)]
pub struct Server {
    hub: Hub,
    options: ServerOptions,
    hooks: Hooks,
    snapshot: Box<dyn SnapshotSource>,
}

/// What every handler sees.
#[derive(Debug)]
struct Shared {
    hub: Hub,
    access: Access,
    origins: Origins,
    places: Arc<Semaphore>,
    max_viewers: usize,
    pong_timeout: Duration,
    ready_within: Duration,
    hooks: Hooks,
    snapshot: Box<dyn SnapshotSource>,
}

impl Shared {
    /// A place for one more viewer, or `None` when all are taken.
    fn place(&self) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        if place.is_none() {
            self.hub.counters().refuse(Refusal::Full);
        }
        place
    }
}

impl Server {
    /// Serves what `hub` publishes.
    pub fn new(hub: Hub, options: ServerOptions) -> Self {
        let snapshot = Box::new(GopSnapshot::new(hub.clone()));
        Self { hub, options, hooks: Hooks::default(), snapshot }
    }

    /// The body of `/status`.
    pub fn with_status(mut self, status: impl Fn() -> serde_json::Value + Send + Sync + 'static) -> Self {
        self.hooks.status = Some(Box::new(status));
        self
    }

    /// Prometheus text that goes before the hub's own.
    pub fn with_metrics(mut self, metrics: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.hooks.metrics = Some(Box::new(metrics));
        self
    }

    /// Readiness; the error says why not. Without it, a recent access unit is what counts.
    pub fn with_ready(mut self, ready: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.hooks.ready = Some(Box::new(ready));
        self
    }

    /// Pictures; without it the hub's cached GOP is decoded.
    pub fn with_snapshot(mut self, snapshot: impl SnapshotSource + 'static) -> Self {
        self.snapshot = Box::new(snapshot);
        self
    }

    /// Serves until dropped. Dropping it lets requests end; viewers end when the hub is closed.
    pub async fn serve(self, listener: TcpListener) -> Result<(), ServerError> {
        let Self { hub, options, hooks, snapshot } = self;
        let ServerOptions {
            viewer_token,
            insecure_no_auth,
            allowed_origins,
            max_viewers,
            pong_timeout,
            ready_within,
        } = options;
        let access = Access::new(viewer_token, insecure_no_auth, listener.local_addr()?)?;
        let origins = Origins::new(allowed_origins)?;
        let places = Arc::new(Semaphore::new(max_viewers));
        let shared =
            Shared { hub, access, origins, places, max_viewers, pong_timeout, ready_within, hooks, snapshot };
        let connections = max_viewers.saturating_add(listen::SPARE_CONNECTIONS);
        listen::serve(listener, Self::router(Arc::new(shared)), connections).await
    }

    fn router(shared: Arc<Shared>) -> Router {
        let guarded = Router::new()
            .route("/", get(page::index))
            .route("/viewer.js", get(page::script))
            .route("/viewer.css", get(page::style))
            .route("/ws", any(session::upgrade))
            .route("/stream.h264", get(streams::annexb))
            .route("/stream.mp4", get(streams::mp4))
            .route("/snapshot.png", get(ops::snapshot))
            .route("/status", get(ops::status))
            .route("/metrics", get(ops::metrics))
            .route_layer(middleware::from_fn_with_state(Arc::clone(&shared), guard::check));
        Router::new()
            .merge(guarded)
            .route("/healthz", get(ops::healthz))
            .route("/readyz", get(ops::readyz))
            .route("/login.css", get(page::login_style))
            .layer(middleware::from_fn_with_state(Arc::clone(&shared), guard::harden))
            .with_state(shared)
    }
}
