//! One viewer's WebSocket.
//!
//! Two futures run concurrently: [`send`] writes the hub's events, [`read`] handles the viewer's messages. The session
//! ends when either ends. Browsers answer the server's pings, so a viewer that sends nothing for the pong timeout is
//! disconnected, which frees its permit. It ends as well when the token that admitted it is replaced.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use contract::clipboard::Format;
use contract::display::DisplaySize;
use encode::clock::clock_ns;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use protocol::rate::{RateLimit, TokenBucket};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::auth::{Admission, Revocation};
use super::viewer_clipboard::{self, Incoming, Outgoing};
use super::viewer_cursor::ViewerCursor;
use super::viewer_input::{Changes, InputLimit, ViewerInput, Violation};
use super::viewer_sound::ViewerSound;
use super::wire::clipboard::{Chunk, HEADER_BYTES, MAX_CHUNK};
use super::wire::{self, FromViewer, InputInfo, MAX_FROM_VIEWER, ToViewer};
use super::{Shared, streams};
use crate::hub::{Event, Protocol, Rejection, Subscription, ViewerHandle, ViewerReport};

/// Maximum number of messages from a viewer at once; also the number of replies that may be queued.
const MESSAGE_BURST: u32 = 20;
/// Limit on messages from a viewer: 10 per second.
const MESSAGE_LIMIT: RateLimit = RateLimit::new(10, MESSAGE_BURST);
/// Maximum size of any message from a viewer: a chunk of a clipboard is the largest.
const MAX_MESSAGE: usize = HEADER_BYTES + MAX_CHUNK;
/// Minimum interval between keyframe requests of one viewer.
const KEYFRAME_INTERVAL: Duration = Duration::from_secs(1);
/// Time limit for sending the close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Body of the response to a WebSocket from another site. Users see it in the browser's developer tools.
const FOREIGN_ORIGIN: &str = "403: this WebSocket was opened by a page of another site; \
    to allow it, add the site's origin to --allowed-origins\n";

/// Close code and reason. The page shows the reason to the user.
type Close = (u16, &'static str);

const TOO_MANY: Close = (close_code::POLICY, "Too many messages");

pub(super) async fn upgrade(
    State(shared): State<Arc<Shared>>,
    Extension(admission): Extension<Admission>,
    headers: HeaderMap,
    ws: WebSocketUpgrade,
) -> Response {
    if !shared.allowed_origins.allows(&headers) {
        shared.hub.metrics().rejected(Rejection::Origin).inc();
        return (StatusCode::FORBIDDEN, FOREIGN_ORIGIN).into_response();
    }
    let Some(permit) = shared.viewer_permit() else { return streams::too_many_viewers(shared.max_viewers) };
    ws.max_message_size(MAX_MESSAGE)
        .max_frame_size(MAX_MESSAGE)
        // Each unit is written to the socket at once.
        .write_buffer_size(0)
        .on_upgrade(async move |socket| {
            let _permit = permit;
            let Admission { role, revocation, .. } = admission;
            let input = shared.input.as_ref().map(|input| ViewerInput::open(input, role));
            serve(&shared, socket, revocation, input).await;
        })
}

async fn serve(shared: &Shared, socket: WebSocket, revocation: Revocation, input: Option<ViewerInput>) {
    let subscription = shared.hub.subscribe(Protocol::WebSocket);
    let viewer = subscription.handle();
    let (mut sink, source) = socket.split();
    let (replies, queued) = mpsc::channel(MESSAGE_BURST as usize);
    let (listens, sound) = ViewerSound::new(shared.sound.clone());
    let (accepts, accepted) = watch::channel(Vec::new());
    let input = input.as_ref();
    let desktop = Desktop {
        input: input.map(ViewerInput::changes),
        sound,
        clipboard: input.map(|input| input.clipboard(accepted)),
        cursor: ViewerCursor::new(shared.cursor.clone()),
    };
    let close = tokio::select! {
        close = read(source, shared, &viewer, &replies, input, &listens, &accepts) => close,
        close = send(&mut sink, subscription, queued, shared.pong_timeout, desktop) => close,
        () = revocation.wait() => Some((close_code::POLICY, "The viewer token changed")),
    };
    if let Some((code, reason)) = close {
        let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
        // Fails if the viewer already disconnected.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, sink.send(Message::Close(Some(frame)))).await;
    }
}

pub(super) fn text(message: &ToViewer) -> Message {
    // Serialization of `ToViewer` cannot fail: it has no maps.
    Message::Text(serde_json::to_string(message).unwrap_or_default().into())
}

/// State of the desktop that a viewer receives besides its pictures.
struct Desktop<'a> {
    input: Option<Changes>,
    sound: ViewerSound,
    clipboard: Option<Outgoing<'a>>,
    cursor: ViewerCursor,
}

/// Sends descriptions, units, sound, cursor, replies and pings. Returns the close frame, or `None` if the connection is lost.
async fn send(
    sink: &mut (impl Sink<Message> + Unpin),
    mut subscription: Subscription,
    mut replies: mpsc::Receiver<Message>,
    timeout: Duration,
    desktop: Desktop<'_>,
) -> Option<Close> {
    let Desktop { mut input, mut sound, mut clipboard, mut cursor } = desktop;
    let mut ping = tokio::time::interval(timeout / 3);
    let mut message = text(&ToViewer::Info(&subscription.description()));
    loop {
        match tokio::time::timeout(timeout, sink.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(_closed)) => return None,
            Err(_elapsed) => return Some((close_code::POLICY, "This viewer is too slow")),
        }
        message = tokio::select! {
            biased;
            reply = replies.recv() => reply?,
            _ = ping.tick() => Message::Ping(Bytes::new()),
            Some(info) = next_change(&mut input) => text(&ToViewer::Input(&info)),
            message = sound.next() => message,
            message = cursor.next() => message,
            media = next_media(&mut subscription, clipboard.as_mut()) => match media {
                Some(message) => message,
                None => {
                    return Some((close_code::AWAY, "The stream ended, or this viewer was too slow"));
                }
            },
        };
    }
}

/// The next message of the stream or the clipboard, in turns if there are both; `None` at the end of the stream. Cancel safe.
async fn next_media(
    subscription: &mut Subscription,
    clipboard: Option<&mut Outgoing<'_>>,
) -> Option<Message> {
    let clipboard = async {
        match clipboard {
            Some(clipboard) => clipboard.next().await,
            None => std::future::pending().await,
        }
    };
    // In random order, so that neither waits for the end of the other.
    let message = tokio::select! {
        event = subscription.next() => match event? {
            Event::Unit(unit) => Message::Binary(wire::encode_unit(&unit, clock_ns())),
            Event::Described(description) => text(&ToViewer::Info(&description)),
        },
        message = clipboard => match message {
            viewer_clipboard::Message::Info(info) => text(&ToViewer::Clipboard(&info)),
            viewer_clipboard::Message::Announcement(announcement) => text(&ToViewer::Selection(&announcement)),
            viewer_clipboard::Message::Chunk(chunk) => Message::Binary(chunk.encode()),
        },
    };
    Some(message)
}

/// The next change of the viewer's access to the input; never without an input.
async fn next_change(changes: &mut Option<Changes>) -> Option<InputInfo> {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}

/// Handles messages until the viewer disconnects, is silent for the pong timeout, or violates the protocol. Returns the close
/// frame, or `None` if the connection is lost.
async fn read(
    mut source: impl Stream<Item = Result<Message, axum::Error>> + Unpin,
    shared: &Shared,
    viewer: &ViewerHandle,
    replies: &mpsc::Sender<Message>,
    input: Option<&ViewerInput>,
    listens: &watch::Sender<bool>,
    accepts: &watch::Sender<Vec<Format>>,
) -> Option<Close> {
    let timeout = shared.pong_timeout;
    let mut limit = TokenBucket::new(MESSAGE_LIMIT);
    let mut input_limit = InputLimit::default();
    let mut clipboard = Incoming::default();
    // A full queue means that the viewer asks faster than it reads; the reply is dropped.
    let reply = |message: &ToViewer| drop(replies.try_send(text(message)));
    let mut last_keyframe: Option<Instant> = None;
    loop {
        let message = tokio::select! {
            message = tokio::time::timeout(timeout, source.next()) => message.ok()??.ok()?,
            stored = clipboard.expired() => {
                reply(&ToViewer::Stored(&stored));
                continue;
            }
        };
        let parsed = match message {
            Message::Text(text) if text.len() > MAX_FROM_VIEWER => {
                return Some((close_code::SIZE, "The message is too long"));
            }
            Message::Text(text) => serde_json::from_str(&text),
            Message::Binary(message) => {
                let Some(chunk) = Chunk::decode(&message) else {
                    return Some((close_code::UNSUPPORTED, "Unexpected binary message"));
                };
                match clipboard.chunk(&chunk, clock_ns()) {
                    Ok(None) => {}
                    Ok(Some(received)) => {
                        // The desktop may take its time, in which input goes on.
                        let replies = replies.clone();
                        tokio::spawn(async move {
                            let _ = replies.try_send(text(&ToViewer::Stored(&received.store().await)));
                        });
                    }
                    Err(violation) => return Some((close_code::POLICY, violation)),
                }
                continue;
            }
            Message::Ping(_) | Message::Pong(_) if limit.try_take(clock_ns()) => continue,
            Message::Ping(_) | Message::Pong(_) => return Some(TOO_MANY),
            Message::Close(_) => return None,
        };
        let is_input = matches!(parsed, Ok(FromViewer::Input { .. }));
        if !is_input && !limit.try_take(clock_ns()) {
            return Some(TOO_MANY);
        }
        match parsed {
            Ok(FromViewer::Input { events }) => {
                if !input_limit.admits(&events, clock_ns()) {
                    return Some((close_code::POLICY, "Too many input events"));
                }
                // Without an input, or without control, the events are of no effect; the page may not know yet.
                if let Some(Err(Violation::TooFast)) = input.map(|input| input.inject(&events)) {
                    return Some((close_code::POLICY, "The desktop does not accept input this fast"));
                }
            }
            Ok(FromViewer::Control { action, to }) => {
                if let Some(input) = input {
                    input.control(action, to);
                }
            }
            Ok(FromViewer::Keyframe) => {
                let now = Instant::now();
                if last_keyframe.is_none_or(|last| now - last >= KEYFRAME_INTERVAL) {
                    last_keyframe = Some(now);
                    viewer.request_keyframe();
                }
            }
            Ok(FromViewer::Size { width, height, scale }) => {
                if let Some(size) = DisplaySize::fit(width, height, scale)
                    && input.is_some_and(ViewerInput::may_resize)
                {
                    shared.hooks.resize(size);
                }
            }
            // Without sound, the wish has no effect.
            Ok(FromViewer::Sound { on }) => drop(listens.send_replace(on)),
            Ok(FromViewer::Selection(announced)) => {
                let session = input.map(ViewerInput::session);
                if let Some(stored) = clipboard.announce(announced, session, clock_ns()) {
                    reply(&ToViewer::Stored(&stored));
                }
            }
            Ok(FromViewer::Accepts { formats }) => {
                accepts.send_replace(formats);
            }
            Ok(FromViewer::Time { t0 }) => reply(&ToViewer::Time { t0, server_us: clock_ns() / 1000 }),
            Ok(FromViewer::Stats { fps, latency_ms, dropped }) => {
                if fps.is_finite() && latency_ms.is_finite() {
                    viewer.report(ViewerReport { fps, latency_ms, dropped });
                }
            }
            Err(_) => return Some((close_code::UNSUPPORTED, "Unknown message")),
        }
    }
}
