//! A sidecar, as the wire sees it.

use bytes::Bytes;
use host_agent::wire::{ReadError, read_message};
use protocol::endpoint::Endpoint;
use protocol::stream::{
    AccessUnit, ClientMessage, Codec, Config, ErrorCode, Path, Pixels, ServerMessage, VERSION,
};
use protocol::{PixelFormat, Rect};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::rig::PATIENCE;

pub struct Client {
    reader: Box<dyn AsyncRead + Send + Unpin>,
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    pub nonce: [u8; 16],
    pub session: u64,
}

pub fn config(path: Path, width: u16, height: u16) -> Config {
    Config {
        width,
        height,
        format: PixelFormat::Bgrx,
        max_fps: 60,
        bitrate_kbps: 4000,
        keyframe_ms: 0,
        codec: Codec::H264,
        path,
    }
}

/// A whole BGRx picture of one grey, with a capture time that tells whose it is.
pub fn picture(seq: u64, width: u16, height: u16, grey: u8) -> Pixels {
    let format = PixelFormat::Bgrx;
    let data = Bytes::from(vec![grey; format.bytes(width.into(), height.into())]);
    let rects = vec![Rect::full(width.into(), height.into())];
    Pixels { seq, capture_ns: seq * 1000, format, width, height, rects, data }
}

/// A picture that costs many bits.
pub fn noise(seq: u64, width: u16, height: u16) -> Pixels {
    let mut state = seq.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut data = vec![0; PixelFormat::Bgrx.bytes(width.into(), height.into())];
    for byte in &mut data {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = (state >> 32) as u8;
    }
    Pixels { data: data.into(), ..picture(seq, width, height, 0) }
}

impl Client {
    pub async fn connect(endpoint: &Endpoint) -> Self {
        let (reader, writer): (Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>) =
            match endpoint {
                Endpoint::Tcp { host, port } => {
                    let (reader, writer) =
                        TcpStream::connect((host.as_str(), *port)).await.expect("connects").into_split();
                    (Box::new(reader), Box::new(writer))
                }
                Endpoint::Unix(path) => {
                    let (reader, writer) = UnixStream::connect(path).await.expect("connects").into_split();
                    (Box::new(reader), Box::new(writer))
                }
                Endpoint::Vsock { .. } => unreachable!("no vsock loopback here"),
            };
        Self { reader, writer, nonce: [0; 16], session: 0 }
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.try_send_bytes(bytes)).await.expect("in time").expect("written");
    }

    /// Fails if the daemon hung up.
    pub async fn try_send_bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.writer.write_all(bytes).await
    }

    pub async fn send(&mut self, message: ClientMessage) {
        self.send_bytes(&message.encode().to_vec()).await;
    }

    pub fn hello_message(token: &str) -> ClientMessage {
        ClientMessage::Hello {
            min: VERSION,
            max: VERSION,
            token: token.to_owned(),
            client: "test".to_owned(),
        }
    }

    pub async fn hello(&mut self, token: &str) {
        self.send(Self::hello_message(token)).await;
        match self.next().await {
            ServerMessage::HelloAck { version, session, nonce, .. } => {
                assert_eq!(version, VERSION);
                (self.session, self.nonce) = (session, nonce);
            }
            other => panic!("no session: {other:?}"),
        }
    }

    /// The next message, or how the connection ended.
    pub async fn try_next(&mut self) -> Result<ServerMessage, ReadError> {
        let (header, payload) = read_message(&mut self.reader, PATIENCE, ServerMessage::limit).await?;
        Ok(ServerMessage::decode(header, payload).expect("decodes"))
    }

    pub async fn next(&mut self) -> ServerMessage {
        self.try_next().await.expect("a message")
    }

    /// The next message that `pick` takes; others are passed over.
    pub async fn until<T>(&mut self, what: &str, pick: impl Fn(ServerMessage) -> Option<T>) -> T {
        let wait = async {
            loop {
                if let Some(found) = pick(self.next().await) {
                    return found;
                }
            }
        };
        timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"))
    }

    pub async fn access_unit(&mut self) -> AccessUnit {
        let pick = |message| match message {
            ServerMessage::AccessUnit(unit) => Some(unit),
            ServerMessage::Error { code, message } => panic!("{code:?}: {message}"),
            _ => None,
        };
        self.until("an access unit", pick).await
    }

    pub async fn error(&mut self) -> (ErrorCode, String) {
        let pick = |message| match message {
            ServerMessage::Error { code, message } => Some((code, message)),
            _ => None,
        };
        self.until("an error", pick).await
    }

    pub async fn bound(&mut self) -> (u32, String) {
        let pick = |message| match message {
            ServerMessage::Bound { context, vm, .. } => Some((context, vm)),
            ServerMessage::Unbound { reason } => panic!("unbound: {reason}"),
            _ => None,
        };
        self.until("bound", pick).await
    }

    pub async fn unbound(&mut self) -> String {
        let pick = |message| match message {
            ServerMessage::Unbound { reason } => Some(reason),
            _ => None,
        };
        self.until("unbound", pick).await
    }

    /// Configures and waits for the encoder's name.
    pub async fn configure(&mut self, config: Config) -> String {
        self.send(ClientMessage::Configure(config)).await;
        let pick = |message| match message {
            ServerMessage::Configured { encoder } => Some(encoder),
            ServerMessage::Error { code, message } => panic!("{code:?}: {message}"),
            _ => None,
        };
        self.until("configured", pick).await
    }

    /// Reads until the peer closes; panics if it does not.
    pub async fn closed(&mut self) {
        let read = async { while self.try_next().await.is_ok() {} };
        timeout(PATIENCE, read).await.expect("closed in time");
    }
}
