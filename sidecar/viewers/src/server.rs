//! HTTP server for viewers.
//!
//! | path                     | listener       | response                                           | token required |
//! |--------------------------|----------------|----------------------------------------------------|----------------|
//! | `/`                      | viewers        | the page, with its scripts and style sheet         | yes            |
//! | `/ws`                    | viewers        | WebSocket with access units, sound and messages, see [`wire`] | yes |
//! | `/stream.h264`           | viewers        | live Annex B from the last IDR                     | yes            |
//! | `/stream.mp4`            | viewers        | live fragmented MP4                                | yes            |
//! | `/snapshot.png`          | viewers        | the newest picture                                 | yes            |
//! | `/status`                | viewers, admin | JSON                                               | yes            |
//! | `/metrics`               | admin          | Prometheus text, version 0.0.4                     | yes            |
//! | `/healthz`, `/readyz`    | admin          | probes                                             | no             |
//! | `POST /session`          | viewers        | exchanges the token for a session cookie           | in the body    |
//! | `/login.css`, `/login.js`, `/token.js` | viewers | of the page that asks for the token         | no             |
//!
//! On the admin listener, the token of an observer is accepted too: see [`Server::with_observer`].
//!
//! The listeners share no limit: clients that exhaust the viewers' connections do not affect probes.
//!
//! Viewers are untrusted before and after authentication: the number of connections and viewers, message sizes, message
//! rates and response times are limited.

pub mod auth;
mod connections;
mod listen;
mod login;
mod middleware;
mod page;
mod session;
mod status;
mod streams;
mod viewer_clipboard;
mod viewer_cursor;
mod viewer_input;
mod viewer_sound;
pub mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{any, get, post};
use contract::display::DisplaySize;
use input::Input;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use self::auth::origin::AllowedOrigins;
use self::auth::token::ViewerToken;
use self::auth::{AuthError, Authenticator};
use self::listen::Endpoint;
use crate::cursor::Cursor;
use crate::hub::{Hub, Rejection};
use crate::snapshot::Snapshots;
use crate::sound::SoundHub;

/// Settings of a server.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Name of the stream, which its sessions are bound to.
    pub stream: String,
    /// Token that viewers must present. A new token ends sessions and connections that the former one admitted. `None` is
    /// accepted only on loopback, or with `insecure_no_auth`.
    pub viewer_token: Option<watch::Receiver<ViewerToken>>,
    /// Token of viewers that may not control the desktop, `None` while there is none. Needs `viewer_token`; if both are equal,
    /// no viewer may control the desktop.
    pub view_only_token: Option<watch::Receiver<Option<ViewerToken>>>,
    /// Serve all clients without a token.
    pub insecure_no_auth: bool,
    /// Origins besides the server's own that may embed the page and open the WebSocket, as `scheme://host[:port]`.
    pub allowed_origins: Vec<String>,
    /// Maximum number of viewers, over all protocols.
    pub max_viewers: usize,
    /// Time after which a viewer that does not answer pings is disconnected.
    pub pong_timeout: Duration,
    /// Time limit for the header of a connection's next request.
    pub header_timeout: Duration,
    /// `/readyz` fails if the last access unit is older than this. Unused with [`Server::with_ready`].
    pub ready_within: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            stream: String::new(),
            viewer_token: None,
            view_only_token: None,
            insecure_no_auth: false,
            allowed_origins: Vec::new(),
            max_viewers: 16,
            pong_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(5),
            ready_within: Duration::from_secs(5),
        }
    }
}

type Status = Box<dyn Fn() -> serde_json::Value + Send + Sync>;
type Ready = Box<dyn Fn() -> Result<(), String> + Send + Sync>;
type Observer = Box<dyn Fn(&str) -> bool + Send + Sync>;
type Resize = Box<dyn Fn(DisplaySize) + Send + Sync>;

/// Functions that replace the server's own status and readiness, recognise observers, and change the desktop's size.
#[derive(Default)]
struct Hooks {
    status: Option<Status>,
    ready: Option<Ready>,
    observer: Option<Observer>,
    resize: Option<Resize>,
}

impl Hooks {
    /// Asks the desktop for a size, if it follows the viewer.
    fn resize(&self, size: DisplaySize) {
        if let Some(resize) = &self.resize {
            resize(size);
        }
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("status", &self.status.is_some())
            .field("ready", &self.ready.is_some())
            .field("observer", &self.observer.is_some())
            .field("resize", &self.resize.is_some())
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
    admin: Option<TcpListener>,
    input: Option<Input>,
    sound: Option<SoundHub>,
    cursor: Option<watch::Receiver<Cursor>>,
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
    input: Option<Input>,
    sound: Option<SoundHub>,
    cursor: Option<watch::Receiver<Cursor>>,
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
        Self {
            hub,
            options,
            hooks: Hooks::default(),
            registry: Registry::default(),
            admin: None,
            input: None,
            sound: None,
            cursor: None,
        }
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

    /// Lets observers read status and metrics on the admin listener: programs whose bearer token `accepts`. They get
    /// nothing else, and no session.
    pub fn with_observer(mut self, accepts: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.hooks.observer = Some(Box::new(accepts));
        self
    }

    /// Injects the events of viewers into `input`.
    pub fn with_input(mut self, input: Input) -> Self {
        self.input = Some(input);
        self
    }

    /// Passes the size of the controlling viewer's window to `resize`, which must not block.
    pub fn with_resize(mut self, resize: impl Fn(DisplaySize) + Send + Sync + 'static) -> Self {
        self.hooks.resize = Some(Box::new(resize));
        self
    }

    /// Sends the sound of `sound` to viewers that ask for it.
    pub fn with_sound(mut self, sound: SoundHub) -> Self {
        self.sound = Some(sound);
        self
    }

    /// Sends the desktop's cursor to viewers, which draw it.
    pub fn with_cursor(mut self, cursor: watch::Receiver<Cursor>) -> Self {
        self.cursor = Some(cursor);
        self
    }

    /// Serves probes, status and metrics on `listener`. Without it there are no probes and no metrics.
    pub fn with_admin(mut self, listener: TcpListener) -> Self {
        self.admin = Some(listener);
        self
    }

    /// Serves viewers on `listener` until dropped. Requests in progress then still complete; viewers are disconnected when the
    /// hub closes.
    ///
    /// # Errors
    /// [`ServerError`] if a setting is invalid or the listener has no address.
    pub async fn serve(self, listener: TcpListener) -> Result<(), ServerError> {
        let Self { hub, options, hooks, mut registry, admin, input, sound, cursor } = self;
        let ServerOptions {
            stream,
            viewer_token,
            view_only_token,
            insecure_no_auth,
            allowed_origins,
            max_viewers,
            pong_timeout,
            header_timeout,
            ready_within,
        } = options;
        let mut addresses = vec![listener.local_addr()?];
        if let Some(admin) = &admin {
            addresses.push(admin.local_addr()?);
        }
        hub.register(&mut registry);
        if let Some(sound) = &sound {
            sound.register(&mut registry);
        }
        let shared = Shared {
            authenticator: Authenticator::new(
                stream,
                viewer_token,
                view_only_token,
                insecure_no_auth,
                &addresses,
            )?,
            allowed_origins: AllowedOrigins::new(allowed_origins)?,
            viewer_permits: Arc::new(Semaphore::new(max_viewers)),
            max_viewers,
            pong_timeout,
            ready_within,
            hooks,
            registry,
            snapshots: Snapshots::new(hub.clone()),
            input,
            sound,
            cursor,
            hub,
        };
        let shared = Arc::new(shared);
        let viewers = Self::viewer_routes(Arc::clone(&shared));
        let viewers = Endpoint::viewers(listener, viewers, max_viewers, header_timeout).serve();
        let Some(admin) = admin else { viewers.await };
        let admin = Endpoint::admin(admin, Self::admin_routes(shared), header_timeout).serve();
        tokio::select! {
            never = viewers => never,
            never = admin => never,
        }
    }

    fn viewer_routes(shared: Arc<Shared>) -> Router {
        let authenticated = page::routes()
            .route("/ws", any(session::upgrade))
            .route("/stream.h264", get(streams::annexb))
            .route("/stream.mp4", get(streams::mp4))
            .route("/snapshot.png", get(status::snapshot))
            .route("/status", get(status::status))
            .route_layer(from_fn_with_state(Arc::clone(&shared), middleware::authenticate));
        let public = page::login_routes().route("/session", post(login::create_session));
        Self::finish(authenticated.merge(public), shared)
    }

    fn admin_routes(shared: Arc<Shared>) -> Router {
        let routes = Router::new()
            .route("/status", get(status::status))
            .route("/metrics", get(status::metrics))
            .route_layer(from_fn_with_state(Arc::clone(&shared), middleware::authenticate_or_observe))
            .route("/healthz", get(status::healthz))
            .route("/readyz", get(status::readyz));
        Self::finish(routes, shared)
    }

    fn finish(routes: Router<Arc<Shared>>, shared: Arc<Shared>) -> Router {
        routes
            .layer(from_fn_with_state(Arc::clone(&shared), middleware::add_security_headers))
            .with_state(shared)
    }
}
