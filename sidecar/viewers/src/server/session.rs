//! One viewer on the WebSocket.
//!
//! Two halves run side by side: one sends what the hub has, the other reads what the viewer says. The
//! first to end ends both. The reader is also the watchdog: whoever says nothing for the pong timeout,
//! although pinged, is gone, and its place is free again.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::wire::{self, FromViewer, MAX_FROM_VIEWER, ToViewer};
use super::{Shared, streams};
use encode::clock::clock_ns;
use crate::hub::{Event, Protocol, Refusal, Reporter, Subscription, ViewerReport};

/// Texts that a viewer may send in a burst, and the time in which one more is allowed.
const BURST: u32 = 20;
const REFILL: Duration = Duration::from_millis(100);
/// Shortest time between keyframes for one viewer.
const KEYFRAME_INTERVAL: Duration = Duration::from_secs(1);
/// Longest goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

type Refused = (u16, &'static str);

pub(super) async fn upgrade(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    ws: WebSocketUpgrade,
) -> Response {
    if !shared.origins.allow(&headers) {
        shared.hub.counters().refuse(Refusal::Origin);
        let body = "403: this WebSocket was opened by another site; allow its origin in the viewer settings if it may\n";
        return (StatusCode::FORBIDDEN, body).into_response();
    }
    let Some(place) = shared.place() else { return streams::full(shared.max_viewers) };
    ws.max_message_size(MAX_FROM_VIEWER)
        .max_frame_size(MAX_FROM_VIEWER)
        // Every unit goes to the socket when it is sent.
        .write_buffer_size(0)
        .on_upgrade(async move |socket| {
            let _place = place;
            serve(&shared, socket).await;
        })
}

async fn serve(shared: &Shared, socket: WebSocket) {
    let subscription = shared.hub.subscribe(Protocol::WebSocket);
    let reporter = subscription.reporter();
    let (mut sink, source) = socket.split();
    let (answers, pending) = mpsc::channel(BURST as usize);
    let ended = tokio::select! {
        ended = read(source, shared.pong_timeout, &reporter, &answers) => ended,
        ended = send(&mut sink, subscription, pending, shared.pong_timeout) => ended,
    };
    if let Some((code, reason)) = ended {
        let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
        // A viewer that is gone can't be told so.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, sink.send(Message::Close(Some(frame)))).await;
    }
}

fn text(message: &ToViewer) -> Message {
    // These types have no maps with odd keys: their serialisation can't fail.
    Message::Text(serde_json::to_string(message).unwrap_or_default().into())
}

/// Sends until something fails; says what to tell the viewer, if it can still be told.
async fn send(
    sink: &mut (impl Sink<Message> + Unpin),
    mut subscription: Subscription,
    mut answers: mpsc::Receiver<Message>,
    timeout: Duration,
) -> Option<Refused> {
    let mut ping = tokio::time::interval(timeout / 3);
    let mut message = text(&ToViewer::Info(&subscription.description()));
    loop {
        match tokio::time::timeout(timeout, sink.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(_closed)) => return None,
            Err(_elapsed) => return Some((close_code::POLICY, "too slow: nothing was taken for too long")),
        }
        message = tokio::select! {
            biased;
            answer = answers.recv() => answer?,
            _ = ping.tick() => Message::Ping(Bytes::new()),
            event = subscription.next() => match event {
                Some(Event::Unit(unit)) => Message::Binary(wire::encode_unit(&unit, clock_ns())),
                Some(Event::Described(description)) => text(&ToViewer::Info(&description)),
                None => return Some((close_code::AWAY, "the stream ended, or this viewer was too slow")),
            },
        };
    }
}

/// Reads until the viewer goes, falls silent or misbehaves.
async fn read(
    mut source: impl Stream<Item = Result<Message, axum::Error>> + Unpin,
    timeout: Duration,
    reporter: &Reporter,
    answers: &mpsc::Sender<Message>,
) -> Option<Refused> {
    let mut allowance = Allowance::new(Instant::now());
    let mut last_keyframe: Option<Instant> = None;
    loop {
        let message = tokio::time::timeout(timeout, source.next()).await.ok()??.ok()?;
        let now = Instant::now();
        if !allowance.take(now) {
            return Some((close_code::POLICY, "too many messages"));
        }
        let text = match message {
            Message::Text(text) => text,
            Message::Binary(_) => {
                return Some((close_code::UNSUPPORTED, "this stream takes no binary messages"));
            }
            Message::Ping(_) | Message::Pong(_) => continue,
            Message::Close(_) => return None,
        };
        match serde_json::from_str(&text) {
            Ok(FromViewer::Keyframe) => {
                if last_keyframe.is_none_or(|last| now - last >= KEYFRAME_INTERVAL) {
                    last_keyframe = Some(now);
                    reporter.want_keyframe();
                }
            }
            Ok(FromViewer::Time { t0 }) => {
                // A full channel means that the viewer asks faster than it reads: it can do without.
                let _ = answers.try_send(self::text(&ToViewer::Time { t0, server_us: clock_ns() / 1000 }));
            }
            Ok(FromViewer::Stats { fps, latency_ms, dropped }) => {
                if fps.is_finite() && latency_ms.is_finite() {
                    reporter.report(ViewerReport { fps, latency_ms, dropped });
                }
            }
            Err(_) => return Some((close_code::UNSUPPORTED, "unknown message")),
        }
    }
}

/// How many messages a viewer may still send: a bucket that refills slowly.
struct Allowance {
    left: u32,
    refilled: Instant,
}

impl Allowance {
    fn new(now: Instant) -> Self {
        Self { left: BURST, refilled: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let refills = ((now - self.refilled).as_nanos() / REFILL.as_nanos()) as u32;
        if refills > 0 {
            self.left = self.left.saturating_add(refills).min(BURST);
            self.refilled += REFILL * refills;
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_one_per_refill() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        assert_eq!((0..100).filter(|_| allowance.take(start)).count(), BURST as usize);
        let later = start + REFILL * 2;
        assert_eq!((0..100).filter(|_| allowance.take(later)).count(), 2);
        let much_later = start + Duration::from_hours(1);
        assert_eq!((0..100).filter(|_| allowance.take(much_later)).count(), BURST as usize);
    }
}
