//! Live streams for players: an HTTP body that doesn't end.
//!
//! A player that stops reading fills its connection, then its queue; the hub gives it up after a while,
//! which ends the body.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::OwnedSemaphorePermit;

use super::Shared;
use encode::clock::clock_ns;
use crate::hub::{Protocol, Subscription};
use crate::mp4::Muxer;

/// How often a stream without units looks whether its pending sample must go.
const IDLE_CHECK: Duration = Duration::from_millis(250);

/// A viewer's place and its queue; both are given back when the body is dropped.
struct Viewer {
    subscription: Subscription,
    _place: OwnedSemaphorePermit,
}

fn join(shared: &Shared, protocol: Protocol) -> Option<Viewer> {
    let place = shared.place()?;
    Some(Viewer { subscription: shared.hub.subscribe(protocol), _place: place })
}

pub(super) fn full(max: usize) -> Response {
    let body = format!("503: all {max} places for viewers are taken; close one, or raise spec.viewers.max\n");
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

pub(super) async fn annexb(State(shared): State<Arc<Shared>>) -> Response {
    let Some(viewer) = join(&shared, Protocol::AnnexB) else { return full(shared.max_viewers) };
    let body = stream::unfold(viewer, async |mut viewer| {
        let unit = viewer.subscription.unit().await?;
        Some((Ok::<Bytes, Infallible>(unit.au.data), viewer))
    });
    ([(CONTENT_TYPE, "video/h264")], Body::from_stream(body)).into_response()
}

pub(super) async fn mp4(State(shared): State<Arc<Shared>>) -> Response {
    let Some(viewer) = join(&shared, Protocol::Mp4) else { return full(shared.max_viewers) };
    let body = stream::unfold((viewer, Muxer::new()), async |(mut viewer, mut muxer)| {
        loop {
            let muxed = match tokio::time::timeout(IDLE_CHECK, viewer.subscription.unit()).await {
                Ok(Some(unit)) => muxer.push(&unit),
                Ok(None) => return None,
                Err(_elapsed) => muxer.idle(clock_ns()),
            };
            match muxed {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Some((Ok(bytes), (viewer, muxer))),
                Err(error) => {
                    tracing::warn!(%error, "MP4 stream ended");
                    return Some((Err(error), (viewer, muxer)));
                }
            }
        }
    });
    ([(CONTENT_TYPE, "video/mp4")], Body::from_stream(body)).into_response()
}
