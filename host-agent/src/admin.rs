//! The admin HTTP server: `/healthz`, `/readyz`, `/metrics` and `/status`. Read-only.
//!
//! `/status` names all tenants, so the server is a Unix socket of this user by default. A TCP address is a
//! choice of the configuration: every process and every VM that reaches it can read all of it. A connection has
//! one request and a maximum time, and the oldest is closed when there are too many.

pub mod client;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use contract::Endpoint;
use contract::host_agent_status::EncoderStatus;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::accept::{Accept, accept_until, end_within};
use crate::hub::Hub;
use crate::listen::{ListenError, UnixSocket, bind_tcp, check_peer, origin};
use crate::metrics;
use crate::pending::{PendingConnections, PendingPlace};
use crate::status::{self, Identity};

/// Maximum number of connections, and of those from one address.
const MAX_CONNECTIONS: usize = 32;
const MAX_CONNECTIONS_PER_ORIGIN: usize = 8;
/// Maximum time until the request's header is complete.
const HEADER_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum time from accept to the end of the answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of a request's header in bytes: the least that hyper allows.
const MAX_HEADER: usize = 8 << 10;
/// Maximum time for answers in progress at shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// State that all requests share.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Sessions and taps.
    pub hub: Arc<Hub>,
    /// Facts about the process.
    pub identity: Arc<Identity>,
    /// True when the process shuts down.
    pub stop: watch::Receiver<bool>,
}

/// A listener for HTTP clients.
#[derive(Debug)]
pub enum AdminListener {
    /// TCP endpoint, which every user and guest that reaches it can read.
    Tcp(TcpListener),
    /// Unix socket, for processes of this user and root.
    Unix(UnixSocket),
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl AdminListener {
    /// Listens on an endpoint and returns it with the assigned port.
    ///
    /// # Errors
    /// The address is in use, or the operating system refuses it.
    pub async fn bind(endpoint: &Endpoint) -> Result<(Self, Endpoint), ListenError> {
        let failed = |cause| ListenError::new(endpoint, cause);
        match endpoint {
            Endpoint::Tcp { host, port } => {
                let (listener, port) = bind_tcp(host, *port).await.map_err(failed)?;
                Ok((Self::Tcp(listener), Endpoint::Tcp { host: host.clone(), port }))
            }
            Endpoint::Unix(path) => Ok((Self::Unix(UnixSocket::bind(path)?), endpoint.clone())),
            Endpoint::Tls { .. } | Endpoint::Vsock { .. } => Err(failed(io::ErrorKind::Unsupported.into())),
        }
    }
}

impl Accept for AdminListener {
    /// A connection and its origin.
    type Connection = (Box<dyn Stream>, String);

    async fn accept(&self) -> io::Result<Self::Connection> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok((Box::new(stream), origin(address.ip())))
            }
            Self::Unix(socket) => loop {
                let stream = socket.accept().await?;
                match check_peer(&stream)? {
                    Ok(()) => return Ok((Box::new(stream), "unix".to_owned())),
                    Err(error) => tracing::warn!(%error, "admin connection rejected"),
                }
            },
        }
    }
}

/// Answers requests until the process shuts down.
pub async fn run(listener: AdminListener, admin: Admin) {
    let mut stop = admin.stop.clone();
    let pending = PendingConnections::new(MAX_CONNECTIONS_PER_ORIGIN, MAX_CONNECTIONS);
    let serve =
        |(stream, origin): (Box<dyn Stream>, String)| serve(stream, pending.enter(&origin), admin.clone());
    let connections = accept_until(&listener, "admin", &mut stop, serve).await;
    drop(listener);
    end_within(connections, SHUTDOWN_TIMEOUT).await;
}

async fn serve(stream: Box<dyn Stream>, place: PendingPlace, admin: Admin) {
    let service = service_fn(|request| {
        let answer = answer(&admin, &request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        ended = timeout(CONNECTION_TIMEOUT, connection) => if !matches!(ended, Ok(Ok(()))) {
            tracing::debug!(?ended, "admin connection failed");
        },
        () = place.evicted() => tracing::debug!("admin connection closed for another one"),
    }
}

fn answer<B>(admin: &Admin, request: &Request<B>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "the admin server answers GET and HEAD\n");
    }
    match request.uri().path() {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => readyz(admin),
        "/metrics" => {
            page(StatusCode::OK, "text/plain; version=0.0.4", metrics::render(&admin.hub).into_bytes())
        }
        "/status" => match serde_json::to_vec(&status::status(&admin.identity, &admin.hub)) {
            Ok(json) => page(StatusCode::OK, "application/json", json),
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the status has no JSON form\n"),
        },
        _ => text(StatusCode::NOT_FOUND, "the pages are /healthz, /readyz, /metrics and /status\n"),
    }
}

fn readyz(admin: &Admin) -> Response<Full<Bytes>> {
    if *admin.stop.borrow() {
        return text(StatusCode::SERVICE_UNAVAILABLE, "shutting down\n");
    }
    // Ready while the encoders are being tested: a session tests the encoder that it opens.
    let none_works = |found: &Vec<EncoderStatus>| !found.iter().any(|encoder| encoder.ok);
    if admin.identity.makes_video && admin.identity.encoders.get().is_some_and(none_works) {
        return text(StatusCode::SERVICE_UNAVAILABLE, "no encoder works; run `host-agent doctor`\n");
    }
    text(StatusCode::OK, "ok\n")
}

fn text(code: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    page(code, "text/plain; charset=utf-8", body.as_bytes().to_vec())
}

fn page(code: StatusCode, media_type: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut page = Response::new(Full::new(body.into()));
    *page.status_mut() = code;
    page.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    page
}
