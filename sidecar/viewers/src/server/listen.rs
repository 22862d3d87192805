//! Accepts connections up to a limit and serves them with timeouts.
//!
//! Socket send buffers are small: frames for a viewer on a slow link should be dropped in its queue in the hub, up to the
//! newest keyframe, rather than accumulate in the kernel.

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

/// Connections in addition to those of viewers: page loads, probes, scrapes.
pub(super) const SPARE_CONNECTIONS: usize = 64;
/// Time limit for the next request's header, also on an idle connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// Send buffer size in bytes, which Linux doubles: suffices for 40 Mbit/s at a round trip of 50 ms.
const SEND_BUFFER: usize = 256 << 10;
/// Time after which unacknowledged data ends a connection, in milliseconds.
const USER_TIMEOUT_MS: u32 = 15_000;
/// Pause after a failed accept, e.g. for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until dropped. Then each connection completes its request and closes.
pub(super) async fn serve(listener: TcpListener, router: Router, max_connections: usize) -> ! {
    let permits = Arc::new(Semaphore::new(max_connections));
    let (_running, stopped) = watch::channel(());
    loop {
        // At the limit, connections wait in the listen backlog; the kernel refuses more when it is full.
        let permit = Arc::clone(&permits).acquire_owned().await;
        let stream = match listener.accept().await {
            Ok((stream, _peer)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Err(error) = set_options(&stream) {
            tracing::debug!(%error, "setting socket options failed");
        }
        let router = router.clone();
        let mut stopped = stopped.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .max_buf_size(32 << 10)
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
                .with_upgrades();
            let mut connection = std::pin::pin!(connection);
            let result = tokio::select! {
                result = &mut connection => result,
                _ = stopped.changed() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = result {
                tracing::debug!(%error, "connection failed");
            }
        });
    }
}

fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_send_buffer_size(stream, SEND_BUFFER)?;
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_user_timeout(stream, USER_TIMEOUT_MS)?;
    Ok(())
}
