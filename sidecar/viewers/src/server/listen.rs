//! Accepts connections, so many and no more, with time limits that a default server doesn't have.
//!
//! Send buffers are kept small: for a viewer on a slow link the place to lose frames is its queue in the
//! hub, where the newest keyframe wins, not the kernel's megabytes, where everything comes late.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

/// Connections besides viewers: page loads, probes, scrapes.
pub(super) const SPARE_CONNECTIONS: usize = 64;
/// Longest wait for the next request's header, also on an idle connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes that the kernel may hold for a connection (Linux doubles it): 40 Mbit/s at 50 ms.
const SEND_BUFFER: usize = 256 << 10;
/// Unacknowledged data for so long ends a connection.
const USER_TIMEOUT_MS: u32 = 15_000;
/// Pause after an accept failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until dropped. The connections notice, end their requests and go.
pub(super) async fn serve(listener: TcpListener, router: Router, connections: usize) -> ! {
    let places = Arc::new(Semaphore::new(connections));
    let (_alive, stopped) = watch::channel(());
    loop {
        // At the limit the backlog waits; the kernel refuses when that is full too.
        let place = Arc::clone(&places).acquire_owned().await;
        let stream = match listener.accept().await {
            Ok((stream, _peer)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accepting a viewer failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Err(error) = tune(&stream) {
            tracing::debug!(%error, "socket options of a viewer");
        }
        let router = router.clone();
        let mut stopped = stopped.clone();
        tokio::spawn(async move {
            let _place = place;
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .max_buf_size(32 << 10)
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
                .with_upgrades();
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = &mut connection => ended,
                _ = stopped.changed() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "viewer connection");
            }
        });
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_send_buffer_size(stream, SEND_BUFFER)?;
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_user_timeout(stream, USER_TIMEOUT_MS)?;
    Ok(())
}
