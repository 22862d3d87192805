//! A sidecar's connection, from its first byte to its last: handshake, messages in, messages out.
//!
//! ```text
//!   accepted --Hello, token--> session --Configure, Pixels, …--> over
//!       |                         |
//!       +-- 5 s, bad token        +-- Bye, silence, nonsense, replaced, shutdown
//! ```
//!
//! Whatever ends it is said in an `Error` message first, if the peer still reads. It parses nothing itself
//! and encodes nothing: messages are `protocol`'s, pictures go to the session's worker.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use protocol::frame::{HEADER_BYTES, Header};
use protocol::stream::{self, ClientMessage, Config, ErrorCode, ServerMessage};
use frame_ring::clock::monotonic_ns;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::time::timeout;

use crate::auth::Gate;
use crate::hub::{Hub, Session};
use crate::inbox::{self, Pushed};
use crate::listen::{Connection, Reader, Writer};
use crate::meter::{Count, Meter};
use crate::outbox::Outbox;
use crate::rate::Bucket;
use crate::wire::{ReadError, read_message};
use crate::worker::{self, Policy};

/// Messages a second that a sidecar may send for long, and at once.
const MESSAGES_PER_SECOND: u32 = 1000;
/// Longest time that a peer may take to say `Hello`.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// Longest time for what waits to be written when a session ends.
const FAREWELL_TIME: Duration = Duration::from_secs(2);

/// How long and how much is read from a peer after it was told that it is over.
const LINGER_TIME: Duration = Duration::from_millis(500);
const LINGER_BYTES: u64 = 1 << 20;

/// What all connections share.
#[derive(Debug)]
pub struct Service {
    /// Who may have a session.
    pub gate: Gate,
    /// The sessions.
    pub hub: Arc<Hub>,
    /// How they are encoded.
    pub policy: Policy,
    /// Most pixels of a picture.
    pub max_pixels: u32,
    /// A sidecar that says nothing for so long is gone.
    pub idle: Duration,
}

/// Why a connection ended, for logs and for the peer.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the sidecar said goodbye")]
    Bye,
    #[error("{0}")]
    Read(#[from] ReadError),
    #[error("{message}")]
    Refused { code: ErrorCode, message: String },
    /// Said to the peer already.
    #[error("ended from here: {0:?}")]
    Told(ErrorCode),
    #[error("the sidecar stopped reading")]
    Unread,
}

impl End {
    fn refused(code: ErrorCode, message: impl std::fmt::Display) -> Self {
        Self::Refused { code, message: message.to_string() }
    }

    /// What the peer should be told.
    fn error(&self) -> Option<(ErrorCode, String)> {
        match self {
            Self::Read(ReadError::Decode(error)) => Some((ErrorCode::Protocol, error.to_string())),
            Self::Read(ReadError::Silent(time)) => Some((
                ErrorCode::Protocol,
                format!("nothing came for {time:?}; send Ping while there is nothing to say"),
            )),
            Self::Refused { code, message } => Some((*code, message.clone())),
            Self::Bye | Self::Told(_) | Self::Unread | Self::Read(_) => None,
        }
    }
}

/// Serves one connection to its end.
pub async fn serve(service: Arc<Service>, connection: Connection) {
    let Connection { reader, writer, peer, .. } = connection;
    let mut reader = BufReader::with_capacity(64 << 10, reader);
    match handshake(&service, &mut reader, &peer).await {
        Ok(begun) => run_session(&service, reader, writer, begun).await,
        Err(end) => {
            tracing::info!(peer, %end, "no session");
            if let Some((code, message)) = end.error() {
                let error = ServerMessage::Error { code, message }.encode().to_vec();
                // The peer may be gone: then there is nobody to tell.
                let _told = timeout(FAREWELL_TIME, writer.write_all(&error)).await;
                drop(writer);
                linger(&mut reader).await;
            }
        }
    }
}

/// Whether the peer gave up while we could not listen: after a sleep a queue of those stands at the door, and each would
/// take the stream from the one that waits behind them.
async fn has_left(reader: &mut BufReader<Reader>) -> bool {
    // Asked once; an elapsed time means that there is neither an end nor anything else.
    match timeout(Duration::ZERO, reader.fill_buf()).await {
        Ok(Ok(rest)) => rest.is_empty(),
        Ok(Err(_)) => true,
        Err(_) => false,
    }
}

/// A session and the ends of it that only its connection has.
struct Begun {
    session: Arc<Session>,
    worker: std::thread::JoinHandle<()>,
}

async fn handshake(service: &Service, reader: &mut BufReader<Reader>, peer: &str) -> Result<Begun, End> {
    let only_hello = |kind| if kind == 0x01 { ClientMessage::limit(kind) } else { None };
    let hello = timeout(HANDSHAKE_TIME, read_message(reader, HANDSHAKE_TIME, only_hello));
    let (header, payload) = hello.await.map_err(|_| ReadError::Silent(HANDSHAKE_TIME))??;
    let bytes_in = (HEADER_BYTES + payload.len()) as u64;
    let message = ClientMessage::decode(header, payload).map_err(ReadError::from)?;
    let ClientMessage::Hello { min, max, token, client } = message else {
        return Err(End::refused(ErrorCode::Protocol, "the first message is not Hello"));
    };
    let version =
        stream::choose_version(min, max).map_err(|error| End::refused(ErrorCode::Version, error))?;
    let stream = service.gate.admit(&token).map_err(|error| End::refused(error.code(), error))?;
    if has_left(reader).await {
        return Err(ReadError::Closed.into());
    }

    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(|error| End::refused(ErrorCode::Capacity, error))?;
    let meter = Meter::new(Arc::clone(&service.hub.totals));
    meter.add(Count::BytesIn, bytes_in);
    let (inbox, inbox_reader) = inbox::inbox().map_err(|error| End::refused(ErrorCode::Capacity, error))?;
    let waker = inbox.waker();
    let outbox = Arc::new(Outbox::new(waker.clone(), meter.clone()));
    let taps = u16::try_from(service.hub.taps()).unwrap_or(u16::MAX);
    let make = |id| {
        let stream = stream.unwrap_or_else(|| format!("anonymous/session-{id}"));
        let session = Session::new(id, (stream, peer.to_owned(), client), nonce, inbox, outbox, meter);
        // Before anything else can be queued: once it is in the hub, others may speak to it.
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
    let session = service.hub.add_session(make).map_err(|error| End::refused(ErrorCode::Capacity, error))?;
    let worker = worker::spawn(
        &format!("encode-{}", session.id),
        service.policy.clone(),
        inbox_reader,
        Arc::clone(&session.outbox),
        session.meter.clone(),
        Arc::clone(&session.encoder),
        waker,
    );
    let worker = worker.map_err(|error| {
        service.hub.remove_session(session.id);
        End::refused(ErrorCode::Capacity, format!("no thread for the encoder: {error}"))
    })?;
    tracing::info!(
        session = session.id,
        stream = session.stream,
        peer,
        client = session.client,
        "session began"
    );
    Ok(Begun { session, worker })
}

async fn run_session(service: &Service, mut reader: BufReader<Reader>, writer: Writer, begun: Begun) {
    let Begun { session, worker } = begun;
    let outbox = Arc::clone(&session.outbox);
    let mut writing = tokio::spawn(async move { outbox.run(writer).await });
    let end = tokio::select! {
        end = read_messages(service, &session, &mut reader) => end,
        code = session.ended() => End::Told(code),
        _ = &mut writing => End::Unread,
    };
    service.hub.remove_session(session.id);
    tracing::info!(session = session.id, stream = session.stream, %end, "session ended");
    if let Some((code, message)) = end.error() {
        session.outbox.push_error(code, message);
    }
    session.inbox.stop();
    session.outbox.close();
    if !writing.is_finished() && timeout(FAREWELL_TIME, &mut writing).await.is_err() {
        writing.abort();
    }
    if end.error().is_some() {
        linger(&mut reader).await;
    }
    // The thread ends after the picture that it is at.
    let joined = tokio::task::spawn_blocking(move || worker.join());
    if matches!(joined.await, Ok(Err(_)) | Err(_)) {
        tracing::error!(session = session.id, "the session's worker panicked");
    }
}

/// Reads on for a moment without listening. A socket that is closed with bytes unread takes back what was
/// said last, and that is why it is closed (RFC 1122, 4.2.2.13).
pub async fn linger(reader: &mut (impl AsyncRead + Unpin)) {
    let mut sink = tokio::io::sink();
    let mut rest = reader.take(LINGER_BYTES);
    let _gone = timeout(LINGER_TIME, tokio::io::copy(&mut rest, &mut sink)).await;
}

async fn read_messages(service: &Service, session: &Session, reader: &mut BufReader<Reader>) -> End {
    let mut bucket = Bucket::new(MESSAGES_PER_SECOND);
    let mut config: Option<Config> = None;
    loop {
        if let Some(wait) = bucket.take() {
            // Held up instead of cut off: a flood then costs its sender time and us nothing.
            if bucket.should_warn() {
                let message =
                    format!("more than {MESSAGES_PER_SECOND} messages a second; they are being slowed down");
                session.outbox.push_error(ErrorCode::RateLimited, message);
            }
            tokio::time::sleep(wait).await;
        }
        let message = match read_message(reader, service.idle, |kind| limit(kind, config)).await {
            Ok((header, payload)) => {
                session.meter.add(Count::BytesIn, (HEADER_BYTES + payload.len()) as u64);
                decode(header, payload)
            }
            Err(error) => return error.into(),
        };
        let outcome = match message {
            Ok(message) => obey(service, session, &mut config, message).await,
            Err(error) => Err(ReadError::from(error).into()),
        };
        if let Err(end) = outcome {
            return end;
        }
    }
}

fn decode(header: Header, payload: Bytes) -> Result<ClientMessage, protocol::DecodeError> {
    ClientMessage::decode(header, payload)
}

/// Pixels are at most one picture of the configured size, and none before there is one.
fn limit(kind: u8, config: Option<Config>) -> Option<u32> {
    const PIXELS: u8 = 0x03;
    /// Room for the fields before the pixels.
    const FIELDS: usize = 256;
    let most = ClientMessage::limit(kind)?;
    if kind != PIXELS {
        return Some(most);
    }
    let bytes =
        config.map_or(0, |config| config.format.bytes(config.width.into(), config.height.into()) + FIELDS);
    Some(most.min(u32::try_from(bytes).unwrap_or(u32::MAX)))
}

async fn obey(
    service: &Service,
    session: &Session,
    config: &mut Option<Config>,
    message: ClientMessage,
) -> Result<(), End> {
    match message {
        ClientMessage::Hello { .. } => {
            return Err(End::refused(ErrorCode::Protocol, "a second Hello"));
        }
        ClientMessage::Configure(wanted) => {
            let pixels = u32::from(wanted.width) * u32::from(wanted.height);
            if pixels > service.max_pixels {
                let most = service.max_pixels;
                let message =
                    format!("{pixels} pixels are more than {most}; ask for less, or raise --max-pixels");
                session.outbox.push_error(ErrorCode::Encoder, message);
            } else {
                *config = Some(wanted);
                service.hub.configure(session.id, wanted);
            }
        }
        ClientMessage::Pixels(pixels) => {
            let pushed = Pushed { pixels, read_at_ns: monotonic_ns() };
            if !session.inbox.push(pushed).await {
                return Err(End::refused(ErrorCode::Encoder, "the session's worker ended"));
            }
        }
        ClientMessage::RequestKeyframe => {
            session.meter.add(Count::KeyframeRequest, 1);
            session.inbox.request_keyframe();
        }
        ClientMessage::SetRate { bitrate_kbps, max_fps } => session.inbox.set_rate(bitrate_kbps, max_fps),
        ClientMessage::Ping(token) => {
            if !session.outbox.push(&ServerMessage::Pong(token)) {
                return Err(End::Unread);
            }
        }
        ClientMessage::Bye => return Err(End::Bye),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use protocol::PixelFormat;
    use protocol::stream::{Codec, Path};

    use super::*;

    #[test]
    fn pixels_are_bounded_by_the_configured_picture() {
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
        assert_eq!(limit(0x03, None), Some(0));
        assert_eq!(limit(0x03, Some(config)), Some(64 * 64 * 3 / 2 + 256));
        assert_eq!(limit(0x81, Some(config)), None);
        assert_eq!(limit(0x02, None), ClientMessage::limit(0x02));
    }
}
