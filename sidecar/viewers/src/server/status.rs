//! Snapshot, status, metrics and probes.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::prometheus_text;
use serde_json::json;

use super::Shared;
use crate::snapshot::SnapshotError;

pub(super) async fn snapshot(State(shared): State<Arc<Shared>>) -> Response {
    match shared.snapshots.take().await {
        Ok(png) => ([(CONTENT_TYPE, "image/png")], png).into_response(),
        Err(error) => {
            let status = match error {
                SnapshotError::NoPicture | SnapshotError::Timeout => StatusCode::SERVICE_UNAVAILABLE,
                SnapshotError::NoDecoder => StatusCode::NOT_IMPLEMENTED,
                SnapshotError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            (status, format!("{error}\n")).into_response()
        }
    }
}

pub(super) async fn status(State(shared): State<Arc<Shared>>) -> Response {
    let body = match &shared.hooks.status {
        Some(status) => status(),
        None => json!({
            "stream": *shared.hub.description(),
            "viewers": shared.hub.viewer_reports(),
            "last_unit_ms": shared.hub.idle().map(|idle| idle.as_millis() as u64),
        }),
    };
    Json(body).into_response()
}

pub(super) async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let mut body = String::with_capacity(8192);
    match prometheus_text::encode(&mut body, &shared.registry) {
        Ok(()) => ([(CONTENT_TYPE, prometheus_text::CONTENT_TYPE)], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics: {error}\n")).into_response(),
    }
}

/// Liveness: the server responds.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Readiness: viewers would see a picture.
pub(super) async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let ready = match &shared.hooks.ready {
        Some(ready) => ready(),
        None => match shared.hub.idle() {
            Some(idle) if idle <= shared.ready_within => Ok(()),
            Some(idle) => Err(format!("the last access unit is {} s old", idle.as_secs())),
            None => Err("no access unit yet".to_owned()),
        },
    };
    match ready {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response(),
    }
}
