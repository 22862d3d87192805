//! Accepts connections within limits and serves them with timeouts.
//!
//! Socket send buffers are small: frames for a viewer on a slow link should be dropped in its queue in the hub, up to the
//! newest keyframe, rather than accumulate in the kernel.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::connections::{Connection, ConnectionLimits, Connections};

/// Viewers' listener: connections in addition to those of viewers, for page loads.
const SPARE_CONNECTIONS: usize = 64;
/// Limits of the admin listener, whose clients are probes, the operator and a scraper.
const ADMIN_LIMITS: ConnectionLimits = ConnectionLimits { total: 64, unauthenticated_per_source: 16 };
/// Send buffer size in bytes, which Linux doubles: suffices for 40 Mbit/s at a round trip of 50 ms.
const SEND_BUFFER: usize = 256 << 10;
/// Time after which unacknowledged data ends a connection, in milliseconds.
const USER_TIMEOUT_MS: u32 = 15_000;
/// Pause after a failed accept, e.g. for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Limits of the viewers' listener.
fn viewer_limits(max_viewers: usize) -> ConnectionLimits {
    ConnectionLimits {
        total: max_viewers.saturating_add(SPARE_CONNECTIONS),
        unauthenticated_per_source: SPARE_CONNECTIONS / 2,
    }
}

/// A listener, what it serves, and its limits.
#[derive(Debug)]
pub(super) struct Endpoint {
    listener: TcpListener,
    router: Router,
    connections: Connections,
    /// Time limit for the next request's header, also on an idle connection.
    header_timeout: Duration,
}

impl Endpoint {
    /// Serves viewers.
    pub(super) fn viewers(
        listener: TcpListener,
        router: Router,
        max: usize,
        header_timeout: Duration,
    ) -> Self {
        Self { listener, router, connections: Connections::new(viewer_limits(max)), header_timeout }
    }

    /// Serves probes, status and metrics.
    pub(super) fn admin(listener: TcpListener, router: Router, header_timeout: Duration) -> Self {
        Self { listener, router, connections: Connections::new(ADMIN_LIMITS), header_timeout }
    }

    /// Serves until dropped. Then each connection completes its request and closes.
    pub(super) async fn serve(self) -> ! {
        let (_running, stopped) = watch::channel(());
        loop {
            let (stream, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(connection) = self.connections.admit(peer.ip()) else {
                tracing::debug!(%peer, "connection refused: all connections are in use");
                continue;
            };
            if let Err(error) = set_options(&stream) {
                tracing::debug!(%error, "setting socket options failed");
            }
            let router = self.router.clone();
            tokio::spawn(serve(stream, router, self.header_timeout, Arc::new(connection), stopped.clone()));
        }
    }
}

/// Serves one connection until it closes or is evicted.
async fn serve(
    stream: TcpStream,
    router: Router,
    header_timeout: Duration,
    connection: Arc<Connection>,
    mut stopped: watch::Receiver<()>,
) {
    let router = TowerToHyperService::new(router);
    let current = Arc::clone(&connection);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Arc::clone(&current));
        router.call(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(32 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut served = std::pin::pin!(served);
    let result = tokio::select! {
        result = &mut served => result,
        () = connection.evicted() => {
            tracing::debug!("unauthenticated connection evicted");
            return;
        }
        _ = stopped.changed() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection failed");
    }
}

fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_send_buffer_size(stream, SEND_BUFFER)?;
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_user_timeout(stream, USER_TIMEOUT_MS)?;
    Ok(())
}
