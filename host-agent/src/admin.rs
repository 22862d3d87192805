//! The admin HTTP server: `/healthz`, `/readyz`, `/metrics` and `/status`. Read-only.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use contract::host_agent_status::EncoderStatus;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::hub::Hub;
use crate::metrics;
use crate::status::{self, Identity};

/// State that the handlers share.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Sessions and taps.
    pub hub: Arc<Hub>,
    /// Facts about the process.
    pub identity: Arc<Identity>,
    /// True when the process shuts down.
    pub stop: watch::Receiver<bool>,
}

/// Serves requests until the process shuts down.
///
/// # Errors
/// The listener failed.
pub async fn run(listener: TcpListener, admin: Admin) -> std::io::Result<()> {
    let mut stop = admin.stop.clone();
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .route("/status", get(status_json))
        .with_state(admin);
    let stopped = async move { crate::serve::stopped(&mut stop).await };
    axum::serve(listener, router).with_graceful_shutdown(stopped).await
}

async fn readyz(State(admin): State<Admin>) -> impl IntoResponse {
    if *admin.stop.borrow() {
        return (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n");
    }
    // Ready while the encoders are being tested: a session tests the encoder that it opens.
    let none_works = |found: &Vec<EncoderStatus>| !found.iter().any(|encoder| encoder.ok);
    if admin.identity.makes_video && admin.identity.encoders.get().is_some_and(none_works) {
        return (StatusCode::SERVICE_UNAVAILABLE, "no encoder works; run `host-agent doctor`\n");
    }
    (StatusCode::OK, "ok\n")
}

async fn metrics_text(State(admin): State<Admin>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics::render(&admin.hub))
}

async fn status_json(State(admin): State<Admin>) -> impl IntoResponse {
    Json(status::status(&admin.identity, &admin.hub))
}
