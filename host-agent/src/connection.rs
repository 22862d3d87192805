//! One sidecar's connection: handshake, incoming messages, outgoing messages, orderly end.
//!
//! ```text
//!   accepted --TLS, Hello with token--> session --Configure, Pixels, …--> ended
//!       |                                  |
//!       +-- timeout, bad token,            +-- Bye, timeout, protocol error, expired token, replaced, shutdown
//!           evicted
//! ```
//!
//! Until its token is verified, a connection has a place among the [pending](crate::pending) ones.
//! The peer receives an `Error` message with the reason before the connection closes, if it still reads.

use std::io::{ErrorKind, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use frame_ring::clock::monotonic_ns;
use protocol::frame::HEADER_BYTES;
use protocol::rate::{RateLimit, TokenBucket};
use protocol::stream::{self, ClientMessage, Config, ErrorCode, ServerMessage};
use stream_token::TokenError;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout, timeout_at};

use crate::auth::{self, Authenticator, Grant};
use crate::connection_limiter::{ConnectionLimiter, ConnectionPermit};
use crate::framing::{FramedReader, ReadError};
use crate::hub::{Hub, Session, SessionInfo};
use crate::inbox::{self, PushedPixels};
use crate::lease::{Lease, unix_now};
use crate::listen::{Channel, Connection, Opened, Reader, Writer};
use crate::meter::{Count, Meter};
use crate::outbox::Outbox;
use crate::pending::PendingPlace;
use crate::worker::{self, Policy};

/// Sustained rate of messages from one sidecar, and the largest burst.
const MESSAGES_PER_SECOND: u32 = 1000;
/// Rate of warnings to a sidecar that exceeds the message rate.
const RATE_WARNINGS: RateLimit = RateLimit::new(1, 1);
/// Maximum time between accept and `Hello`, TLS handshake included.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum time to write queued messages after a session ended.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum time, and number of bytes, to read from a peer after its last message was sent.
const LINGER_TIMEOUT: Duration = Duration::from_millis(500);
const LINGER_BYTES: u64 = 1 << 20;

/// State that all connections share.
#[derive(Debug)]
pub struct Service {
    /// Authenticates sidecars.
    pub authenticator: Authenticator,
    /// Limits connections with a verified token, by stream and in total.
    pub limiter: ConnectionLimiter,
    /// Sessions and taps.
    pub hub: Arc<Hub>,
    /// Encoding policy of all sessions.
    pub policy: Policy,
    /// Maximum size of a frame in pixels.
    pub max_pixels: u32,
    /// Time without a message after which a session ends.
    pub idle_timeout: Duration,
}

/// Reason why a connection ended.
#[derive(Debug, thiserror::Error)]
enum EndReason {
    #[error("Bye received")]
    Bye,
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("{message}")]
    Rejected { code: ErrorCode, message: String },
    /// The peer was already sent this error.
    #[error("session ended: {0:?}")]
    SessionEnded(ErrorCode),
    #[error("the peer does not read")]
    WriteFailed,
    #[error("closed for a newer connection")]
    Evicted,
}

impl EndReason {
    fn rejected(code: ErrorCode, message: impl std::fmt::Display) -> Self {
        Self::Rejected { code, message: message.to_string() }
    }

    /// The error to send to the peer, if any.
    fn error(&self) -> Option<(ErrorCode, String)> {
        match self {
            Self::Read(error @ (ReadError::Decode(_) | ReadError::Incomplete)) => {
                Some((ErrorCode::Protocol, error.to_string()))
            }
            Self::Read(error @ ReadError::Idle(_)) => {
                Some((ErrorCode::Protocol, format!("{error}; send Ping while there is nothing else to send")))
            }
            Self::Rejected { code, message } => Some((*code, message.clone())),
            Self::Evicted => Some((
                ErrorCode::Capacity,
                "too many connections from this address wait for their token; send Hello at once, or raise \
                 --max-pending-per-peer"
                    .to_owned(),
            )),
            Self::Bye
            | Self::SessionEnded(_)
            | Self::WriteFailed
            | Self::Read(ReadError::Closed | ReadError::Io(_)) => None,
        }
    }
}

/// Serves one connection until it ends. It keeps its place until it has a session.
pub async fn serve(service: Arc<Service>, connection: Connection, place: PendingPlace) {
    let peer = connection.peer.clone();
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    let opened = tokio::select! {
        biased;
        opened = timeout_at(deadline, connection.open()) => opened,
        () = place.evicted() => {
            tracing::debug!(peer, "connection closed for a newer one in the TLS handshake");
            return;
        }
    };
    let Opened { reader, writer, channel } = match opened {
        Ok(Ok(opened)) => opened,
        // Reachability probes connect and disconnect.
        Ok(Err(error)) if error.kind() == ErrorKind::UnexpectedEof => {
            tracing::debug!(peer, "connection closed in the TLS handshake");
            return;
        }
        Ok(Err(error)) => {
            tracing::info!(peer, %error, "TLS handshake failed");
            return;
        }
        Err(_) => {
            tracing::info!(peer, timeout = ?HANDSHAKE_TIMEOUT, "no TLS handshake in time");
            return;
        }
    };
    let mut reader = FramedReader::new(reader);
    let established = tokio::select! {
        biased;
        established = handshake(&service, &mut reader, Peer { name: &peer, channel }, deadline) => established,
        () = place.evicted() => Err(EndReason::Evicted),
    };
    let reason = match established {
        Ok(established) => {
            drop(place);
            return run_session(&service, reader, writer, established).await;
        }
        Err(reason) => reason,
    };
    // Reachability probes connect and disconnect, every few seconds on each node; evictions are as frequent as
    // a peer connects.
    if matches!(reason, EndReason::Read(ReadError::Closed) | EndReason::Evicted) {
        tracing::debug!(peer, %reason, "connection closed before Hello");
    } else {
        tracing::info!(peer, %reason, "connection rejected");
    }
    let Some((code, message)) = reason.error() else { return };
    if matches!(reason, EndReason::Evicted) {
        // Without waiting: the place is taken. A plain socket's buffer is empty, so the message fits; TLS closes without one.
        let error = ServerMessage::Error { code, message }.encode().to_vec();
        let _sent = writer.try_write(&[IoSlice::new(&error)]);
        return;
    }
    tokio::select! {
        () = reject(reader.into_inner(), writer, code, message) => {}
        () = place.evicted() => {}
    }
}

/// Sends an error to a peer without a session and closes the connection.
async fn reject(mut reader: Reader, writer: Writer, code: ErrorCode, message: String) {
    let error = ServerMessage::Error { code, message }.encode().to_vec();
    // Fails if the peer disconnected.
    let send = async {
        writer.write_all(&error).await?;
        writer.shutdown().await
    };
    let _sent = timeout(FLUSH_TIMEOUT, send).await;
    drop(writer);
    linger(&mut reader).await;
}

/// Discards incoming data for a short time before the connection closes. Closing a TCP socket with unread
/// data resets the connection, and the peer then loses the last message sent to it (RFC 1122, 4.2.2.13).
async fn linger(reader: &mut (impl AsyncRead + Unpin)) {
    let mut rest = reader.take(LINGER_BYTES);
    let _elapsed = timeout(LINGER_TIMEOUT, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
}

/// The other end of a connection.
#[derive(Clone, Copy)]
struct Peer<'p> {
    /// Its address, for logs.
    name: &'p str,
    channel: Channel,
}

/// A session's permission, and the connection that a renewed token is checked against.
#[derive(Clone, Copy)]
struct Permission<'l> {
    lease: &'l Lease,
    channel: Channel,
}

/// A session whose handshake succeeded, and its encoder thread.
struct Established {
    session: Arc<Session>,
    lease: Lease,
    channel: Channel,
    worker: std::thread::JoinHandle<()>,
    permit: ConnectionPermit,
}

async fn handshake(
    service: &Service,
    reader: &mut FramedReader<Reader>,
    Peer { name: peer, channel }: Peer<'_>,
    deadline: Instant,
) -> Result<Established, EndReason> {
    let only_hello = |kind| if kind == 0x01 { ClientMessage::limit(kind) } else { None };
    let hello = timeout_at(deadline, reader.read(HANDSHAKE_TIMEOUT, only_hello));
    let (header, payload) = hello.await.map_err(|_| ReadError::Idle(HANDSHAKE_TIMEOUT))??;
    let bytes_in = (HEADER_BYTES + payload.len()) as u64;
    let message = ClientMessage::decode(header, payload).map_err(ReadError::from)?;
    let ClientMessage::Hello { min, max, token, client } = message else {
        return Err(EndReason::rejected(ErrorCode::Protocol, "the first message is not Hello"));
    };
    let version =
        stream::choose_version(min, max).map_err(|error| EndReason::rejected(ErrorCode::Version, error))?;
    let grant = authenticate(service, &token, channel)?;
    let no_resources = |error: &dyn std::fmt::Display| EndReason::rejected(ErrorCode::Capacity, error);
    let stream = grant.stream.clone();
    // A session without a name has no other connection.
    let permit = service.limiter.try_acquire(stream.as_deref().unwrap_or(peer)).ok_or_else(|| {
        no_resources(
            &"too many connections of this stream or in total; connect again later, or raise --max-sessions",
        )
    })?;
    if let Some(stream) = &stream {
        // At most as many wait as have a permit.
        tokio::time::sleep(service.hub.session_delay(stream)).await;
    }
    // True if the peer already disconnected. After the host wakes, the backlog holds stale connections;
    // admitting one would evict the live session.
    if reader.is_disconnected().await {
        return Err(ReadError::Closed.into());
    }
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(|error| no_resources(&error))?;
    let meter = Meter::new(Arc::clone(&service.hub.totals));
    meter.add(Count::BytesIn, bytes_in);
    let (inbox, inbox_reader) = inbox::inbox().map_err(|error| no_resources(&error))?;
    let waker = inbox.waker();
    let outbox = Arc::new(Outbox::new(Arc::clone(&waker), meter.clone()));
    let taps = u16::try_from(service.hub.taps()).unwrap_or(u16::MAX);
    let make = |id| {
        let stream = stream.unwrap_or_else(|| format!("anonymous/session-{id}"));
        let info = SessionInfo { id, stream, peer: peer.to_owned(), client, nonce };
        let session = Session::new(info, inbox, outbox, meter);
        // Queued first: once the session is in the hub, other threads queue messages.
        session.outbox.push(&ServerMessage::HelloAck {
            version,
            session: id,
            nonce,
            taps,
            max_pixels: service.max_pixels,
            server: concat!("host-agent ", env!("CARGO_PKG_VERSION")).to_owned(),
        });
        Arc::new(session)
    };
    let session = service.hub.add_session(make).map_err(|error| no_resources(&error))?;
    let limits = service.hub.limits(&session.info.stream);
    let worker = worker::spawn(&session, limits, service.policy.clone(), inbox_reader, waker);
    let worker = worker.map_err(|error| {
        service.hub.remove_session(session.info.id);
        no_resources(&format_args!("cannot start the encoder thread: {error}"))
    })?;
    tracing::info!(
        session = session.info.id,
        stream = session.info.stream,
        peer,
        client = session.info.client,
        "session started"
    );
    Ok(Established { session, lease: Lease::new(grant), channel, worker, permit })
}

fn authenticate(service: &Service, token: &str, channel: Channel) -> Result<Grant, EndReason> {
    let granted = service.authenticator.authenticate(token, channel);
    granted.map_err(|error| EndReason::rejected(auth::error_code(&error), error))
}

async fn run_session(
    service: &Service,
    mut reader: FramedReader<Reader>,
    writer: Writer,
    established: Established,
) {
    let Established { session, lease, channel, worker, permit } = established;
    let permission = Permission { lease: &lease, channel };
    let outbox = Arc::clone(&session.outbox);
    let mut writing = tokio::spawn(async move { outbox.run(writer).await });
    let reason = tokio::select! {
        reason = read_messages(service, &session, permission, &mut reader) => reason,
        () = lease.ended(unix_now) => EndReason::rejected(ErrorCode::ExpiredToken, TokenError::Expired),
        code = session.ended() => EndReason::SessionEnded(code),
        _ = &mut writing => EndReason::WriteFailed,
    };
    service.hub.remove_session(session.info.id);
    tracing::info!(session = session.info.id, stream = session.info.stream, %reason, "session ended");
    let error = reason.error();
    let must_linger = error.is_some();
    if let Some((code, message)) = error {
        session.outbox.push_error(code, message);
    }
    session.inbox.stop();
    session.outbox.close();
    if !writing.is_finished() && timeout(FLUSH_TIMEOUT, &mut writing).await.is_err() {
        writing.abort();
    }
    if must_linger {
        linger(&mut reader.into_inner()).await;
    }
    // The thread ends after the frame that it is encoding.
    let joined = tokio::task::spawn_blocking(move || worker.join());
    if matches!(joined.await, Ok(Err(_)) | Err(_)) {
        tracing::error!(session = session.info.id, "encoder thread panicked");
    }
    drop(permit);
}

/// Reads and executes messages until the session ends.
async fn read_messages(
    service: &Service,
    session: &Session,
    permission: Permission<'_>,
    reader: &mut FramedReader<Reader>,
) -> EndReason {
    let mut messages = TokenBucket::new(RateLimit::new(MESSAGES_PER_SECOND, MESSAGES_PER_SECOND));
    let mut warnings = TokenBucket::new(RATE_WARNINGS);
    let mut config: Option<Config> = None;
    loop {
        let now_ns = monotonic_ns();
        let delay = messages.take(now_ns);
        if !delay.is_zero() {
            // Delaying costs the sender time; closing the connection would only make it reconnect.
            if warnings.try_take(now_ns) {
                let message =
                    format!("more than {MESSAGES_PER_SECOND} messages per second; messages are delayed");
                session.outbox.push_error(ErrorCode::RateLimited, message);
            }
            tokio::time::sleep(delay).await;
        }
        let message = match reader.read(service.idle_timeout, |kind| payload_limit(kind, config)).await {
            Ok((header, payload)) => {
                session.meter.add(Count::BytesIn, (HEADER_BYTES + payload.len()) as u64);
                ClientMessage::decode(header, payload)
            }
            Err(error) => return error.into(),
        };
        let outcome = match message {
            Ok(message) => handle_message(service, session, permission, &mut config, message).await,
            Err(error) => Err(ReadError::from(error).into()),
        };
        if let Err(reason) = outcome {
            return reason;
        }
    }
}

/// Maximum payload of a message type. Pixels are limited to one frame of the configured size, and to
/// nothing before `Configure`.
fn payload_limit(kind: u8, config: Option<Config>) -> Option<u32> {
    const PIXELS: u8 = 0x03;
    /// Space for the fields before the pixels.
    const FIELDS_BYTES: usize = 256;
    let limit = ClientMessage::limit(kind)?;
    if kind != PIXELS {
        return Some(limit);
    }
    let bytes = config
        .map_or(0, |config| config.format.bytes(config.width.into(), config.height.into()) + FIELDS_BYTES);
    Some(limit.min(u32::try_from(bytes).unwrap_or(u32::MAX)))
}

async fn handle_message(
    service: &Service,
    session: &Session,
    permission: Permission<'_>,
    config: &mut Option<Config>,
    message: ClientMessage,
) -> Result<(), EndReason> {
    match message {
        ClientMessage::Hello { .. } => {
            return Err(EndReason::rejected(ErrorCode::Protocol, "Hello was already received"));
        }
        ClientMessage::Configure(requested) => {
            let pixels = u32::from(requested.width) * u32::from(requested.height);
            if pixels > service.max_pixels {
                let max = service.max_pixels;
                let message = format!(
                    "{pixels} pixels exceed the limit of {max}; request a smaller size, or raise --max-pixels"
                );
                session.outbox.push_error(ErrorCode::Encoder, message);
            } else {
                *config = Some(requested);
                service.hub.configure(session.info.id, requested);
            }
        }
        ClientMessage::Pixels(pixels) => {
            let pushed = PushedPixels { pixels, read_at_ns: monotonic_ns() };
            if !session.inbox.push(pushed).await {
                return Err(EndReason::rejected(ErrorCode::Encoder, "the encoder thread ended"));
            }
        }
        ClientMessage::RequestKeyframe => {
            session.meter.add(Count::KeyframeRequest, 1);
            session.inbox.request_keyframe();
        }
        ClientMessage::Renew { token } => {
            let Permission { lease, channel } = permission;
            let renewed = service.authenticator.authenticate(&token, channel).map_err(anyhow::Error::from);
            match renewed.and_then(|grant| Ok(lease.renew(grant)?)) {
                Ok(()) => tracing::debug!(session = session.info.id, "token renewed"),
                // The session's own token is still valid.
                Err(error) => {
                    tracing::warn!(session = session.info.id, %error, "renewed token refused; the session ends with its token");
                }
            }
        }
        ClientMessage::Ping(token) => {
            if !session.outbox.push(&ServerMessage::Pong(token)) {
                return Err(EndReason::WriteFailed);
            }
        }
        ClientMessage::Bye => return Err(EndReason::Bye),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use protocol::PixelFormat;
    use protocol::stream::{Codec, Path};

    use super::*;

    #[test]
    fn pixels_are_limited_to_the_configured_frame() {
        let (codec, path, format) = (Codec::H264, Path::Pixels, PixelFormat::Nv12);
        let config = Config {
            width: 64,
            height: 64,
            format,
            max_fps: 1,
            bitrate_kbps: 1,
            keyframe_ms: 0,
            codec,
            path,
        };
        assert_eq!(payload_limit(0x03, None), Some(0));
        assert_eq!(payload_limit(0x03, Some(config)), Some(64 * 64 * 3 / 2 + 256));
        assert_eq!(payload_limit(0x81, Some(config)), None);
        assert_eq!(payload_limit(0x02, None), ClientMessage::limit(0x02));
    }

    #[test]
    fn disconnected_peer_is_sent_no_error() {
        for reason in [EndReason::Bye, EndReason::WriteFailed, EndReason::Read(ReadError::Closed)] {
            assert!(reason.error().is_none(), "{reason}");
        }
        let idle = EndReason::Read(ReadError::Idle(HANDSHAKE_TIMEOUT)).error();
        assert!(idle.is_some_and(|(code, text)| code == ErrorCode::Protocol && text.contains("send Ping")));
    }
}
