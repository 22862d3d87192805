//! HTTP server for viewers.
//!
//! | path                    | response                                             | token required |
//! |-------------------------|------------------------------------------------------|----------------|
//! | `/`                     | the page, with its scripts and style sheet           | yes            |
//! | `/ws`                   | WebSocket with access units and messages, see [`wire`] | yes          |
//! | `/stream.h264`          | live Annex B from the last IDR                       | yes            |
//! | `/stream.mp4`           | live fragmented MP4                                  | yes            |
//! | `/snapshot.png`         | the newest picture                                   | yes            |
//! | `/status`               | JSON                                                 | yes            |
//! | `/metrics`              | Prometheus text, version 0.0.4                       | yes            |
//! | `/healthz`, `/readyz`   | probes                                               | no             |
//! | `/login.css`            | style of the page that asks for the token            | no             |
//!
//! Viewers are untrusted before and after authentication: the number of connections and viewers, message sizes, message
//! rates and response times are limited.

pub mod auth;
mod listen;
mod middleware;
mod page;
mod session;
mod status;
mod streams;
pub mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{any, get};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::auth::{AllowedOrigins, AuthError, Authenticator};
use crate::hub::{Hub, Rejection};
use crate::snapshot::Snapshots;

/// Settings of a server.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Token that viewers must present. `None` is accepted only on loopback, or with `insecure_no_auth`.
    pub viewer_token: Option<String>,
    /// Serve all clients without a token.
    pub insecure_no_auth: bool,
    /// Origins besides the server's own that may embed the page and open the WebSocket, as `scheme://host[:port]`.
    pub allowed_origins: Vec<String>,
    /// Maximum number of viewers, over all protocols.
    pub max_viewers: usize,
    /// Time after which a viewer that does not answer pings is disconnected.
    pub pong_timeout: Duration,
    /// `/readyz` fails if the last access unit is older than this. Unused with [`Server::with_ready`].
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
type Ready = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Functions that replace the server's own status and readiness.
#[derive(Default)]
struct Hooks {
    status: Option<Status>,
    ready: Option<Ready>,
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("status", &self.status.is_some())
            .field("ready", &self.ready.is_some())
            .finish()
    }
}

/// Error of [`Server::serve`].
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A viewer authentication setting is missing or invalid.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The listener failed.
    #[error("viewer listener: {0}")]
    Listener(#[from] std::io::Error),
}

/// A server that is not listening yet.
#[derive(Debug)]
pub struct Server {
    hub: Hub,
    options: ServerOptions,
    hooks: Hooks,
    registry: Registry,
}

/// State of all handlers.
#[derive(Debug)]
struct Shared {
    hub: Hub,
    authenticator: Authenticator,
    allowed_origins: AllowedOrigins,
    viewer_permits: Arc<Semaphore>,
    max_viewers: usize,
    pong_timeout: Duration,
    ready_within: Duration,
    hooks: Hooks,
    registry: Registry,
    snapshots: Snapshots,
}

impl Shared {
    /// A permit for one more viewer; `None` if the maximum is connected.
    fn viewer_permit(&self) -> Option<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.viewer_permits).try_acquire_owned().ok();
        if permit.is_none() {
            self.hub.metrics().rejected(Rejection::Full).inc();
        }
        permit
    }
}

impl Server {
    /// A server for the stream of `hub`.
    pub fn new(hub: Hub, options: ServerOptions) -> Self {
        Self { hub, options, hooks: Hooks::default(), registry: Registry::default() }
    }

    /// Sets the body of `/status`.
    pub fn with_status(mut self, status: impl Fn() -> serde_json::Value + Send + Sync + 'static) -> Self {
        self.hooks.status = Some(Box::new(status));
        self
    }

    /// Sets the registry that `/metrics` exports. The server adds the hub's metrics to it.
    pub fn with_registry(mut self, registry: Registry) -> Self {
        self.registry = registry;
        self
    }

    /// Sets the readiness check; its error is the body of a failed `/readyz`. Without it, readiness requires a recent
    /// access unit.
    pub fn with_ready(mut self, ready: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.hooks.ready = Some(Box::new(ready));
        self
    }

    /// Serves until dropped. Dropping the future lets requests complete; viewers are disconnected when the hub closes.
    ///
    /// # Errors
    /// [`ServerError`] if a setting is invalid or the listener has no address.
    pub async fn serve(self, listener: TcpListener) -> Result<(), ServerError> {
        let Self { hub, options, hooks, mut registry } = self;
        let ServerOptions {
            viewer_token,
            insecure_no_auth,
            allowed_origins,
            max_viewers,
            pong_timeout,
            ready_within,
        } = options;
        hub.register(&mut registry);
        let shared = Shared {
            authenticator: Authenticator::new(viewer_token, insecure_no_auth, listener.local_addr()?)?,
            allowed_origins: AllowedOrigins::new(allowed_origins)?,
            viewer_permits: Arc::new(Semaphore::new(max_viewers)),
            max_viewers,
            pong_timeout,
            ready_within,
            hooks,
            registry,
            snapshots: Snapshots::new(hub.clone()),
            hub,
        };
        let connections = max_viewers.saturating_add(listen::SPARE_CONNECTIONS);
        listen::serve(listener, Self::router(Arc::new(shared)), connections).await
    }

    fn router(shared: Arc<Shared>) -> Router {
        let authenticated = page::routes()
            .route("/ws", any(session::upgrade))
            .route("/stream.h264", get(streams::annexb))
            .route("/stream.mp4", get(streams::mp4))
            .route("/snapshot.png", get(status::snapshot))
            .route("/status", get(status::status))
            .route("/metrics", get(status::metrics))
            .route_layer(from_fn_with_state(Arc::clone(&shared), middleware::authenticate));
        Router::new()
            .merge(authenticated)
            .route("/healthz", get(status::healthz))
            .route("/readyz", get(status::readyz))
            .route("/login.css", get(page::login_style))
            .layer(from_fn_with_state(Arc::clone(&shared), middleware::add_security_headers))
            .with_state(shared)
    }
}
