//! For operators and machines: snapshot, status, metrics, health.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::Shared;
use crate::snapshot::SnapshotError;

pub(super) async fn snapshot(State(shared): State<Arc<Shared>>) -> Response {
    match shared.snapshot.snapshot().await {
        Ok(png) => ([(CONTENT_TYPE, "image/png")], png).into_response(),
        Err(error) => {
            let status = match error {
                SnapshotError::NoPicture | SnapshotError::Slow => StatusCode::SERVICE_UNAVAILABLE,
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
    let mut body = shared.hooks.metrics.as_ref().map(|metrics| metrics()).unwrap_or_default();
    if !body.is_empty() && !body.ends_with('\n') {
        body.push('\n');
    }
    body.push_str(&shared.hub.metrics());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], body).into_response()
}

/// The server answers.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// There is something to watch.
pub(super) async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let ready = match &shared.hooks.ready {
        Some(ready) => ready(),
        None => match shared.hub.idle() {
            Some(idle) if idle <= shared.ready_within => Ok(()),
            Some(idle) => Err(format!("the last frame is {} s old", idle.as_secs())),
            None => Err("no frame yet".to_owned()),
        },
    };
    match ready {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}
