//! Stream connection to the host-agent: handshake, keep-alive, reconnection.
//!
//! An async task owns the socket. Received messages and changes of the connection are delivered as [`Event`]s, in
//! order. [`Upstream::send`] queues a message and never blocks; the queue is bounded, and senders of pictures limit
//! themselves to two in flight.

mod error;
mod socket;
mod source;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use contract::Endpoint;
use protocol::stream::{ClientMessage, ErrorCode, ServerMessage, VERSION, choose_version};
use tokio::sync::mpsc;
use tokio::time::timeout;

pub use error::UpstreamError;
pub use socket::SocketError;
use socket::{Incoming, Outgoing};
pub use source::{EndpointSource, TokenSource};

/// Timeout of connecting, and of the answer to HELLO.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval of PING messages; the files of endpoint and token are read at the same interval.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// Time without a received message after which the connection is closed.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(6);
/// Initial and maximum delay between connection attempts.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Maximum number of queued messages: two pictures and control messages.
const QUEUE: usize = 16;

/// Client name that a sidecar sends in HELLO.
pub const SIDECAR: &str = "desktopstream sidecar";

/// Options of [`Upstream::start`].
#[derive(Debug, Clone)]
pub struct UpstreamOptions {
    /// Endpoint of the host-agent.
    pub endpoint: EndpointSource,
    /// Token, read for each attempt. A file's newer token is presented on the running connection: the host-agent ends a
    /// session at the expiry of its token.
    pub token: TokenSource,
    /// File with the private key that the token is bound to, presented to TLS endpoints; may be missing.
    pub tls_key: Option<PathBuf>,
    /// Client name in HELLO: [`SIDECAR`], or [`DOCTOR`](protocol::stream::DOCTOR), whose session does not replace the
    /// sidecar's.
    pub client: &'static str,
}

/// Established session.
#[derive(Debug, Clone)]
pub struct Session {
    /// Endpoint of the host-agent.
    pub endpoint: Endpoint,
    /// Session number, for logs.
    pub session: u64,
    /// Nonce to bind the session to a virgl context, through the mailbox.
    pub nonce: [u8; 16],
    /// Number of taps connected to the host-agent.
    pub taps: u16,
    /// Maximum number of pixels per picture.
    pub max_pixels: u32,
    /// Program and version of the host-agent.
    pub server: String,
}

/// Event of the connection.
#[derive(Debug)]
pub enum Event {
    /// A session was established; the host-agent has no configuration of earlier sessions.
    Connected(Session),
    /// The session ended, or an attempt failed; another attempt follows.
    Disconnected(UpstreamError),
    /// A message of the session.
    Message(ServerMessage),
}

/// Bytes transferred on the connection since start, headers included.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Bytes sent to the host-agent.
    pub sent: AtomicU64,
    /// Bytes of messages received from the host-agent.
    pub received: AtomicU64,
}

/// Sending half of the connection. Clones share it.
#[derive(Debug, Clone)]
pub struct Upstream {
    queue: mpsc::Sender<ClientMessage>,
    traffic: Arc<Traffic>,
}

impl Upstream {
    /// Starts the connection's task on the current Tokio runtime. It ends when `on_event` returns false.
    pub fn start(options: UpstreamOptions, on_event: impl Fn(Event) -> bool + Send + Sync + 'static) -> Self {
        let (queue, queued) = mpsc::channel(QUEUE);
        let traffic = Arc::new(Traffic::default());
        tokio::spawn(run(options, queued, Arc::clone(&traffic), on_event));
        Self { queue, traffic }
    }

    /// Queues a message. Returns false, and discards it, if the queue is full or the task has ended.
    pub fn send(&self, message: ClientMessage) -> bool {
        self.queue.try_send(message).is_ok()
    }

    /// Byte counters.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }
}

async fn run(
    options: UpstreamOptions,
    mut queued: mpsc::Receiver<ClientMessage>,
    traffic: Arc<Traffic>,
    on_event: impl Fn(Event) -> bool + Send + Sync,
) {
    let mut delay = BACK_OFF.0;
    loop {
        let error = match connect(&options, &traffic).await {
            Ok(Connected { incoming, outgoing, session, credentials }) => {
                let endpoint = session.endpoint.clone();
                tracing::info!(%endpoint, session = session.session, "connected to host-agent");
                delay = BACK_OFF.0;
                // Messages queued for the previous session do not apply to this one.
                while queued.try_recv().is_ok() {}
                if !on_event(Event::Connected(session)) {
                    return;
                }
                let ended = tokio::select! {
                    ended = receive(incoming, &endpoint, &on_event) => ended,
                    ended = transmit(outgoing, &mut queued, &options, &endpoint, credentials) => ended,
                };
                match ended {
                    Some(error) => error,
                    None => return,
                }
            }
            Err(error) => error,
        };
        if !on_event(Event::Disconnected(error)) {
            return;
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(BACK_OFF.1);
    }
}

/// An established session, its socket, and its credentials.
struct Connected {
    incoming: Incoming,
    outgoing: Outgoing,
    session: Session,
    credentials: Credentials,
}

/// The token of a session, and the key that it is bound to.
struct Credentials {
    token: String,
    key: Option<source::Key>,
}

async fn connect(options: &UpstreamOptions, traffic: &Arc<Traffic>) -> Result<Connected, UpstreamError> {
    let endpoint = options.endpoint.read()?;
    let token = options.token.read()?;
    let timed_out = |step| UpstreamError::Timeout { endpoint: endpoint.clone(), step };
    let key = source::Key::read(options.tls_key.as_deref())?;
    let identity = match (&endpoint, &key) {
        (Endpoint::Tls { .. }, Some(key)) => Some(key.identity()?),
        _ => None,
    };
    let connected = timeout(HANDSHAKE_TIMEOUT, socket::connect(&endpoint, identity.as_ref(), traffic));
    let (mut incoming, mut outgoing) =
        connected.await.map_err(|_| timed_out("connect"))?.map_err(|source| {
            let endpoint = endpoint.clone();
            if stream_tls::is_other_key(&source) {
                UpstreamError::OtherKey { endpoint }
            } else {
                UpstreamError::Connect { endpoint, source }
            }
        })?;
    let client = format!("{} {}", options.client, env!("CARGO_PKG_VERSION"));
    let hello = ClientMessage::Hello { min: VERSION, max: VERSION, token: token.clone(), client };
    outgoing.send(&hello).await?;
    let answer = timeout(HANDSHAKE_TIMEOUT, incoming.next()).await.map_err(|_| timed_out("HELLO"))??;
    match answer {
        Some(ServerMessage::HelloAck { version, session, nonce, taps, max_pixels, server }) => {
            choose_version(version, version).map_err(SocketError::from)?;
            let session = Session { endpoint, session, nonce, taps, max_pixels, server };
            Ok(Connected { incoming, outgoing, session, credentials: Credentials { token, key } })
        }
        Some(ServerMessage::Error { code, message }) => Err(UpstreamError::Refused { code, message }),
        Some(_) => Err(timed_out("HELLO")),
        None => Err(UpstreamError::Closed),
    }
}

/// Delivers messages until the connection breaks; `None` when `on_event` returned false.
async fn receive(
    mut incoming: Incoming,
    endpoint: &Endpoint,
    on_event: &(impl Fn(Event) -> bool + Send + Sync),
) -> Option<UpstreamError> {
    loop {
        match timeout(SILENCE_TIMEOUT, incoming.next()).await {
            Ok(Ok(Some(ServerMessage::Error { code, message }))) if ends_session(code) => {
                return Some(UpstreamError::Refused { code, message });
            }
            Ok(Ok(Some(message))) => {
                if !on_event(Event::Message(message)) {
                    return None;
                }
            }
            Ok(Ok(None)) => return Some(UpstreamError::Closed),
            Ok(Err(error)) => return Some(error.into()),
            Err(_) => return Some(UpstreamError::Timeout { endpoint: endpoint.clone(), step: "PING" }),
        }
    }
}

/// Sends queued messages, PINGs and newer tokens until the connection breaks, moves, or has another key than the present
/// token; `None` when all senders are dropped. `credentials` are those of the session.
async fn transmit(
    mut outgoing: Outgoing,
    queued: &mut mpsc::Receiver<ClientMessage>,
    options: &UpstreamOptions,
    endpoint: &Endpoint,
    mut credentials: Credentials,
) -> Option<UpstreamError> {
    let mut ping = tokio::time::interval(PING_INTERVAL);
    loop {
        let message = tokio::select! {
            message = queued.recv() => message?,
            _ = ping.tick() => {
                // A file that cannot be read leaves the session as it is.
                if options.endpoint.read().is_ok_and(|current| current != *endpoint) {
                    return Some(UpstreamError::Moved { from: endpoint.clone() });
                }
                let key = source::Key::read(options.tls_key.as_deref());
                if key.is_ok_and(|current| current.is_some() && current != credentials.key) {
                    return Some(UpstreamError::KeyChanged);
                }
                match options.token.read() {
                    Ok(current) if current != credentials.token && !current.is_empty() => {
                        tracing::debug!("presenting a newer token");
                        credentials.token.clone_from(&current);
                        ClientMessage::Renew { token: current }
                    }
                    _ => ClientMessage::Ping(0),
                }
            }
        };
        if let Err(error) = outgoing.send(&message).await {
            return Some(error.into());
        }
    }
}

/// True if the host-agent closes the connection after an error with this code.
fn ends_session(code: ErrorCode) -> bool {
    !matches!(code, ErrorCode::Encoder | ErrorCode::RateLimited)
}
