//! Bounded HTTPS server. Only the apiserver has business with it, but every pod may reach it: an anonymous client can neither
//! exhaust its memory nor keep the apiserver out.
//!
//! HTTP/1 only: a connection has one request at a time, so the limits on connections bound the requests too.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower::ServiceExt as _;

use super::connections::{Bounds, Connections, Slot};
use super::tls::Tls;

/// Limits of the server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Maximum size of a review, bytes. Reviews of reasonable objects have some 10 KiB.
    pub review: usize,
    /// Maximum number of JSON values in a review. A parsed value takes 32 bytes or more, for 2 bytes of text.
    pub values: usize,
    /// Open connections.
    pub connections: Bounds,
    /// Maximum number of connections that wait for a place; more are closed at once.
    pub backlog: usize,
    /// Maximum number of reviews that are answered at a time.
    pub reviews: usize,
    /// Maximum time for a TLS handshake, and for the head of a request or the next request.
    pub head: Duration,
    /// Maximum time for the body of a request, and for a place among the reviews or connections.
    pub body: Duration,
    /// Time at the end in which requests are still accepted, because Services route to the server for some more time.
    pub drain: Duration,
    /// Maximum time for the requests that are open then.
    pub finish: Duration,
}

impl Default for Limits {
    /// 64 bodies and 8 parsed reviews stay well below 128 MiB.
    fn default() -> Self {
        Self {
            review: 1 << 20,
            values: 1 << 14,
            connections: Bounds { total: 64, per_peer: 32 },
            backlog: 128,
            reviews: 8,
            head: Duration::from_secs(10),
            body: Duration::from_secs(3),
            drain: Duration::from_secs(3),
            finish: Duration::from_secs(5),
        }
    }
}

/// Size of the buffer for the head of a request, bytes.
const HEAD_BUFFER: usize = 64 << 10;
/// Pause after a failed accept, such as for a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// State that all connections share.
struct Shared {
    limits: Limits,
    router: Router,
    tls: Tls,
    connections: Arc<Connections>,
    reviews: Semaphore,
}

/// Serves until `shutdown` completes, and finishes the open requests.
pub async fn serve(
    listener: TcpListener,
    tls: Tls,
    router: Router,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
    let shared = Arc::new(Shared {
        limits,
        router,
        tls,
        connections: Connections::new(limits.connections),
        reviews: Semaphore::new(limits.reviews),
    });
    let backlog = Arc::new(Semaphore::new(limits.backlog));
    let (finish, finishing) = watch::channel(false);
    let mut open = JoinSet::new();
    let end = async {
        shutdown.await;
        tracing::info!("webhook drains");
        tokio::time::sleep(limits.drain).await;
    };
    let mut end = std::pin::pin!(end);
    loop {
        let accepted = tokio::select! {
            () = &mut end => break,
            Some(_) = open.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&backlog).try_acquire_owned() else { continue };
        let (shared, finishing) = (Arc::clone(&shared), finishing.clone());
        open.spawn(async move {
            let Ok(slot) = timeout(shared.limits.body, shared.connections.admit(peer.ip())).await else {
                return;
            };
            drop(place);
            tokio::select! {
                () = slot.evicted() => tracing::debug!(%peer, "connection evicted"),
                () = connection(stream, peer, &slot, &shared, finishing) => {}
            }
        });
    }
    drop(listener);
    finish.send_replace(true);
    let finished = timeout(limits.finish, async { while open.join_next().await.is_some() {} }).await;
    if finished.is_err() {
        tracing::warn!(connections = open.len(), "requests not finished in time");
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    slot: &Slot,
    shared: &Shared,
    mut finishing: watch::Receiver<bool>,
) {
    let stream = match timeout(shared.limits.head, shared.tls.acceptor().accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%peer, "TLS handshake took too long"),
    };
    let service = service_fn(|request| async {
        Ok::<_, std::convert::Infallible>(answer(request, slot, shared).await)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(shared.limits.head).max_buf_size(HEAD_BUFFER);
    let mut serving = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        served = &mut serving => return log(peer, served),
        _ = finishing.wait_for(|finishing| *finishing) => serving.as_mut().graceful_shutdown(),
    }
    log(peer, serving.await);
}

fn log(peer: SocketAddr, served: Result<(), hyper::Error>) {
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "connection failed");
    }
}

async fn answer(request: Request<Incoming>, slot: &Slot, shared: &Shared) -> Response<Body> {
    let limits = shared.limits;
    let (head, body) = request.into_parts();
    let body = match timeout(limits.body, Limited::new(body, limits.review).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return refusal(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the review is larger than 1 MiB: make the object smaller",
            );
        }
        Ok(Err(_)) => return refusal(StatusCode::BAD_REQUEST, "the body cannot be read"),
        Err(_) => return refusal(StatusCode::REQUEST_TIMEOUT, "the body took too long"),
    };
    if values(&body) > limits.values {
        return refusal(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the review has more than 16384 values: make the object smaller",
        );
    }
    let _answering = slot.answering();
    let Ok(Ok(_review)) = timeout(limits.body, shared.reviews.acquire()).await else {
        return refusal(StatusCode::TOO_MANY_REQUESTS, "too many reviews at a time: try again");
    };
    let answered = shared.router.clone().oneshot(Request::from_parts(head, Body::from(body))).await;
    answered.unwrap_or_else(|impossible| match impossible {})
}

/// Upper bound of the number of values in a JSON text: all but the first one follow one of these bytes.
fn values(json: &[u8]) -> usize {
    1 + json.iter().filter(|byte| b",:[".contains(byte)).count()
}

/// An answer that closes the connection.
fn refusal(status: StatusCode, message: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(message));
    *response.status_mut() = status;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests;
