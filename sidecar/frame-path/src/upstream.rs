//! The stream connection to the host-agent: connect, say HELLO, keep it alive, come back when it breaks.
//!
//! An async task owns the socket. What arrives goes out as [`Event`]s on a channel, in order; what is to
//! be sent comes in by [`Upstream::send`], which never waits: the queue is short, and whoever sends
//! pictures limits itself to two in flight. This module does not know rungs, mailboxes or viewers.

mod socket;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use protocol::Endpoint;
use protocol::stream::{ClientMessage, ErrorCode, ServerMessage, VERSION, choose_version};
use tokio::sync::mpsc;
use tokio::time::timeout;

pub use socket::SocketError;
use socket::{Incoming, Outgoing};

/// How long a connection may take to stand, HELLO answered.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How often the host-agent is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(2);
/// Silence after which the connection counts as broken.
const SILENCE: Duration = Duration::from_secs(6);
/// First and longest pause between attempts.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Messages that may wait to be sent: two pictures and some control.
const QUEUE: usize = 16;

/// What [`connect`](Upstream::start) needs.
#[derive(Debug, Clone)]
pub struct UpstreamOptions {
    /// Where the host-agent listens.
    pub endpoint: EndpointSource,
    /// Where the token is read from, anew for every attempt: it is rotated.
    pub token: TokenSource,
    /// Who we say we are: a [`DOCTOR`](protocol::stream::DOCTOR) has a session beside the sidecar's.
    pub client: &'static str,
}

/// What a sidecar is called.
pub const SIDECAR: &str = "desktopstream sidecar";

/// Where the endpoint comes from.
#[derive(Debug, Clone)]
pub enum EndpointSource {
    /// An endpoint.
    Fixed(Endpoint),
    /// A file that names one, and another one when the stream is given another host-agent.
    File(std::path::PathBuf),
}

impl EndpointSource {
    /// The endpoint that is named now.
    pub fn read(&self) -> Result<Endpoint, UpstreamError> {
        let path = match self {
            Self::Fixed(endpoint) => return Ok(endpoint.clone()),
            Self::File(path) => path,
        };
        let unknown = |reason: String| UpstreamError::Unnamed { path: path.clone(), reason };
        let text = std::fs::read_to_string(path).map_err(|error| unknown(error.to_string()))?;
        match text.trim() {
            "" => Err(unknown("it is empty".to_owned())),
            text => text.parse().map_err(|error| unknown(format!("{error}"))),
        }
    }
}

/// Where the token comes from.
#[derive(Debug, Clone)]
pub enum TokenSource {
    /// None: the host-agent must have been told to do without.
    None,
    /// A text.
    Text(String),
    /// A file that somebody rotates.
    File(std::path::PathBuf),
}

impl TokenSource {
    /// Prefers the file; without file and text the connection carries no token.
    pub fn new(file: Option<std::path::PathBuf>, text: Option<String>) -> Self {
        match (file, text) {
            (Some(path), _) => Self::File(path),
            (None, Some(text)) => Self::Text(text),
            (None, None) => Self::None,
        }
    }

    fn read(&self) -> Result<String, UpstreamError> {
        match self {
            Self::None => Ok(String::new()),
            Self::Text(text) => Ok(text.clone()),
            Self::File(path) => std::fs::read_to_string(path)
                .map(|text| text.trim().to_owned())
                .map_err(|source| UpstreamError::Token { path: path.clone(), source }),
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The token file can't be read.
    #[error("cannot read the token file {path}: {source}; mount the token or set --token-file")]
    Token {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No endpoint in the file.
    #[error("no host-agent yet: {path} names none ({reason}); it is looked at again")]
    Unnamed {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        reason: String,
    },
    /// The file names another host-agent now.
    #[error("the stream moves from the host-agent at {from} to another")]
    Moved {
        /// The one that was left.
        from: Endpoint,
    },
    /// Nobody answers.
    #[error("cannot reach the host-agent at {endpoint}: {source}; is it running, and listening there?")]
    Connect {
        /// Where.
        endpoint: Endpoint,
        /// Why.
        source: std::io::Error,
    },
    /// The handshake or a read timed out.
    #[error("the host-agent at {endpoint} does not answer ({what})")]
    Silent {
        /// Where.
        endpoint: Endpoint,
        /// What was waited for.
        what: &'static str,
    },
    /// The host-agent said no.
    #[error("the host-agent refuses: {message}")]
    Refused {
        /// What kind.
        code: ErrorCode,
        /// Its words.
        message: String,
    },
    /// Bytes that make no sense, or a broken socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The other side closed.
    #[error("the host-agent closed the connection")]
    Closed,
}

/// What a new connection brought.
#[derive(Debug, Clone)]
pub struct Session {
    /// Whom it is with.
    pub endpoint: Endpoint,
    /// For logs.
    pub session: u64,
    /// To be rung in the mailbox.
    pub nonce: [u8; 16],
    /// Taps that the host-agent sees.
    pub taps: u16,
    /// Most pixels per picture.
    pub max_pixels: u32,
    /// Program and version.
    pub server: String,
}

/// What happens on the connection.
#[derive(Debug)]
pub enum Event {
    /// A session stands; everything configured before is forgotten there.
    Connected(Session),
    /// It is gone, or an attempt failed; another follows by itself.
    Disconnected(UpstreamError),
    /// A message of the session.
    Message(ServerMessage),
}

/// Bytes counted on the connection, headers included.
#[derive(Debug, Default)]
pub struct Traffic {
    /// To the host-agent.
    pub sent: AtomicU64,
    /// From the host-agent.
    pub received: AtomicU64,
}

/// The sending half. Clones share the connection.
#[derive(Debug, Clone)]
pub struct Upstream {
    queue: mpsc::Sender<ClientMessage>,
    traffic: Arc<Traffic>,
}

impl Upstream {
    /// Starts the task on the current Tokio runtime; it ends when `on_event` says false.
    pub fn start(options: UpstreamOptions, on_event: impl Fn(Event) -> bool + Send + Sync + 'static) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let traffic = Arc::new(Traffic::default());
        tokio::spawn(run(options, waiting, Arc::clone(&traffic), on_event));
        Self { queue, traffic }
    }

    /// Queues a message; false if the queue is full or the task has ended, and the message is lost.
    pub fn send(&self, message: ClientMessage) -> bool {
        self.queue.try_send(message).is_ok()
    }

    /// The connection's counters.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }
}

async fn run(
    options: UpstreamOptions,
    mut waiting: mpsc::Receiver<ClientMessage>,
    traffic: Arc<Traffic>,
    on_event: impl Fn(Event) -> bool + Send + Sync,
) {
    let mut pause = BACK_OFF.0;
    loop {
        let error = match connect(&options, &traffic).await {
            Ok((endpoint, incoming, outgoing, session)) => {
                tracing::info!(%endpoint, session = session.session, "connected to host-agent");
                pause = BACK_OFF.0;
                // What was queued for the session before means nothing to this one.
                while waiting.try_recv().is_ok() {}
                if !on_event(Event::Connected(session)) {
                    return;
                }
                let place = (&options.endpoint, &endpoint);
                match serve(incoming, outgoing, &mut waiting, place, &on_event).await {
                    Some(error) => error,
                    None => return,
                }
            }
            Err(error) => error,
        };
        if !on_event(Event::Disconnected(error)) {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACK_OFF.1);
    }
}

async fn connect(
    options: &UpstreamOptions,
    traffic: &Arc<Traffic>,
) -> Result<(Endpoint, Incoming, Outgoing, Session), UpstreamError> {
    let endpoint = options.endpoint.read()?;
    let token = options.token.read()?;
    let silent = |what| UpstreamError::Silent { endpoint: endpoint.clone(), what };
    let (mut incoming, mut outgoing) = timeout(HANDSHAKE, socket::connect(&endpoint, traffic))
        .await
        .map_err(|_| silent("connect"))?
        .map_err(|source| UpstreamError::Connect { endpoint: endpoint.clone(), source })?;
    let client = format!("{} {}", options.client, env!("CARGO_PKG_VERSION"));
    outgoing.send(&ClientMessage::Hello { min: VERSION, max: VERSION, token, client }).await?;
    let answer = timeout(HANDSHAKE, incoming.next()).await.map_err(|_| silent("HELLO"))??;
    match answer {
        Some(ServerMessage::HelloAck { version, session, nonce, taps, max_pixels, server }) => {
            choose_version(version, version).map_err(SocketError::from)?;
            let session = Session { endpoint: endpoint.clone(), session, nonce, taps, max_pixels, server };
            Ok((endpoint, incoming, outgoing, session))
        }
        Some(ServerMessage::Error { code, message }) => Err(UpstreamError::Refused { code, message }),
        Some(_) => Err(UpstreamError::Silent { endpoint: endpoint.clone(), what: "HELLO" }),
        None => Err(UpstreamError::Closed),
    }
}

/// Carries messages both ways at once until the connection breaks; `None` when nobody listens to events
/// or sends any more.
async fn serve(
    mut incoming: Incoming,
    mut outgoing: Outgoing,
    waiting: &mut mpsc::Receiver<ClientMessage>,
    (source, endpoint): (&EndpointSource, &Endpoint),
    on_event: &(impl Fn(Event) -> bool + Send + Sync),
) -> Option<UpstreamError> {
    let read = async {
        loop {
            match timeout(SILENCE, incoming.next()).await {
                Ok(Ok(Some(ServerMessage::Error { code, message }))) if ends(code) => {
                    return Some(UpstreamError::Refused { code, message });
                }
                Ok(Ok(Some(message))) => {
                    if !on_event(Event::Message(message)) {
                        return None;
                    }
                }
                Ok(Ok(None)) => return Some(UpstreamError::Closed),
                Ok(Err(error)) => return Some(error.into()),
                Err(_) => return Some(UpstreamError::Silent { endpoint: endpoint.clone(), what: "PING" }),
            }
        }
    };
    let write = async {
        let mut ping = tokio::time::interval(PING_EVERY);
        loop {
            let message = tokio::select! {
                message = waiting.recv() => message?,
                // A file that can't be read for a moment moves nobody.
                _ = ping.tick() => match source.read() {
                    Ok(named) if named != *endpoint => {
                        return Some(UpstreamError::Moved { from: endpoint.clone() });
                    }
                    _ => ClientMessage::Ping(0),
                },
            };
            if let Err(error) = outgoing.send(&message).await {
                return Some(error.into());
            }
        }
    };
    tokio::select! {
        ended = read => ended,
        ended = write => ended,
    }
}

/// Whether the connection is over after this error.
fn ends(code: ErrorCode) -> bool {
    !matches!(code, ErrorCode::Encoder | ErrorCode::RateLimited)
}
