//! Live streams for players, as endless HTTP bodies.
//!
//! A player that stops reading first fills its connection, then its queue. After the stall timeout the hub disconnects
//! it, which ends the body. So does a new token.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use encode::clock::clock_ns;
use futures_util::{StreamExt as _, stream};
use tokio::sync::OwnedSemaphorePermit;

use super::Shared;
use super::auth::Admission;
use crate::hub::{Protocol, Subscription};
use crate::mp4::Muxer;

/// Interval between checks for a pending MP4 sample while no unit arrives.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// A subscription and its permit; dropped with the body.
struct Viewer {
    subscription: Subscription,
    _permit: OwnedSemaphorePermit,
}

fn subscribe(shared: &Shared, protocol: Protocol) -> Option<Viewer> {
    let permit = shared.viewer_permit()?;
    Some(Viewer { subscription: shared.hub.subscribe(protocol), _permit: permit })
}

pub(super) fn too_many_viewers(max: usize) -> Response {
    let body =
        format!("503: the maximum of {max} viewers is connected; close one, or raise spec.viewers.max\n");
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

pub(super) async fn annexb(
    State(shared): State<Arc<Shared>>,
    Extension(admission): Extension<Admission>,
) -> Response {
    let Some(viewer) = subscribe(&shared, Protocol::AnnexB) else {
        return too_many_viewers(shared.max_viewers);
    };
    let body = stream::unfold(viewer, async |mut viewer| {
        let unit = viewer.subscription.unit().await?;
        Some((Ok::<Bytes, Infallible>(unit.au.data), viewer))
    });
    let body = Body::from_stream(body.take_until(admission.revocation.wait()));
    ([(CONTENT_TYPE, "video/h264")], body).into_response()
}

pub(super) async fn mp4(
    State(shared): State<Arc<Shared>>,
    Extension(admission): Extension<Admission>,
) -> Response {
    let Some(viewer) = subscribe(&shared, Protocol::Mp4) else {
        return too_many_viewers(shared.max_viewers);
    };
    let body = stream::unfold((viewer, Muxer::new()), async |(mut viewer, mut muxer)| {
        loop {
            let muxed = match tokio::time::timeout(IDLE_CHECK_INTERVAL, viewer.subscription.unit()).await {
                Ok(Some(unit)) => muxer.push(&unit),
                Ok(None) => return None,
                Err(_elapsed) => muxer.flush_idle(clock_ns()),
            };
            match muxed {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Some((Ok(bytes), (viewer, muxer))),
                Err(error) => {
                    tracing::warn!(%error, "MP4 stream failed");
                    return Some((Err(error), (viewer, muxer)));
                }
            }
        }
    });
    let body = Body::from_stream(body.take_until(admission.revocation.wait()));
    ([(CONTENT_TYPE, "video/mp4")], body).into_response()
}
