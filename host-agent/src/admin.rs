//! HTTP for people and machines that watch: `/healthz`, `/readyz`, `/metrics`, `/status`. Answers only, so
//! that nothing can be changed from here; on loopback unless told otherwise.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::hub::Hub;
use crate::metrics;
use crate::status::{self, EncoderStatus, Identity};

/// What the pages show.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Sessions and taps.
    pub hub: Arc<Hub>,
    /// Who we are.
    pub identity: Arc<Identity>,
    /// True once it is time to stop.
    pub stop: watch::Receiver<bool>,
}

/// Serves until it is time to stop.
pub async fn run(listener: TcpListener, admin: Admin) -> std::io::Result<()> {
    let mut stop = admin.stop.clone();
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(show_metrics))
        .route("/status", get(show_status))
        .with_state(admin);
    let stopped = async move {
        // An error means that the sender is gone: then it is time, too.
        let _stopped = stop.wait_for(|stop| *stop).await;
    };
    axum::serve(listener, router).with_graceful_shutdown(stopped).await
}

async fn ready(State(admin): State<Admin>) -> impl IntoResponse {
    if *admin.stop.borrow() {
        return (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n");
    }
    // While the encoders are being tried it is ready: who connects first waits for his own no longer.
    let none_works = |found: &Vec<EncoderStatus>| !found.iter().any(|encoder| encoder.ok);
    if admin.identity.makes_video && admin.identity.encoders.get().is_some_and(none_works) {
        return (StatusCode::SERVICE_UNAVAILABLE, "no encoder works; run `host-agent doctor`\n");
    }
    (StatusCode::OK, "ok\n")
}

async fn show_metrics(State(admin): State<Admin>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics::render(&admin.hub))
}

async fn show_status(State(admin): State<Admin>) -> impl IntoResponse {
    Json(status::status(&admin.identity, &admin.hub))
}
