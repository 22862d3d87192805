//! A sidecar's end of a stream connection.

use bytes::Bytes;
use contract::Endpoint;
use host_agent::framing::{FramedReader, ReadError};
use protocol::stream::{
    AccessUnit, ClientMessage, Codec, Config, ErrorCode, Path, Pixels, ServerMessage, VERSION,
};
use protocol::{PixelFormat, Rect};
use stream_tls::Identity;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::rig::TIMEOUT;

type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;

pub struct Client {
    reader: FramedReader<Reader>,
    writer: Writer,
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

/// A whole grey frame; its capture time is `seq * 1000`.
pub fn grey_frame(seq: u64, width: u16, height: u16, grey: u8) -> Pixels {
    let format = PixelFormat::Bgrx;
    let data = Bytes::from(vec![grey; format.bytes(width.into(), height.into())]);
    let rects = vec![Rect::full(width.into(), height.into())];
    Pixels { seq, capture_ns: seq * 1000, format, width, height, rects, data }
}

/// A whole frame of noise, which encodes to many bits.
pub fn noise_frame(seq: u64, width: u16, height: u16) -> Pixels {
    let mut state = seq.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut data = vec![0; PixelFormat::Bgrx.bytes(width.into(), height.into())];
    for byte in &mut data {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = (state >> 32) as u8;
    }
    Pixels { data: data.into(), ..grey_frame(seq, width, height, 0) }
}

impl Client {
    pub async fn connect(endpoint: &Endpoint) -> Self {
        let (reader, writer): (Reader, Writer) = match endpoint {
            Endpoint::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.expect("connected");
                let (reader, writer) = stream.into_split();
                (Box::new(reader), Box::new(writer))
            }
            Endpoint::Unix(path) => {
                let (reader, writer) = UnixStream::connect(path).await.expect("connected").into_split();
                (Box::new(reader), Box::new(writer))
            }
            Endpoint::Tls { .. } => {
                return Self::connect_tls(endpoint, None).await.expect("a TLS connection");
            }
            Endpoint::Vsock { .. } => unreachable!("test machines have no vsock loopback"),
        };
        Self { reader: FramedReader::new(reader), writer, nonce: [0; 16], session: 0 }
    }

    /// Connects to a TLS endpoint, with a key.
    pub async fn connect_tls(endpoint: &Endpoint, key: Option<&Identity>) -> std::io::Result<Self> {
        let Endpoint::Tls { host, port, fingerprint: Some(fingerprint) } = endpoint else {
            panic!("{endpoint} has no fingerprint")
        };
        let stream = TcpStream::connect((host.as_str(), *port)).await.expect("connected");
        let connect = stream_tls::connect(stream, *fingerprint, key);
        let (reader, writer) = tokio::io::split(timeout(TIMEOUT, connect).await.expect("in time")?);
        let reader: Reader = Box::new(reader);
        Ok(Self { reader: FramedReader::new(reader), writer: Box::new(writer), nonce: [0; 16], session: 0 })
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        timeout(TIMEOUT, self.try_send_bytes(bytes)).await.expect("in time").expect("written");
    }

    /// Fails if the daemon closed the connection.
    pub async fn try_send_bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.writer.write_all(bytes).await?;
        self.writer.flush().await
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

    /// Opens a session.
    pub async fn hello(&mut self, token: &str) {
        self.send(Self::hello_message(token)).await;
        match self.next().await {
            ServerMessage::HelloAck { version, session, nonce, .. } => {
                assert_eq!(version, VERSION);
                (self.session, self.nonce) = (session, nonce);
            }
            other => panic!("unexpected answer to Hello: {other:?}"),
        }
    }

    pub async fn try_next(&mut self) -> Result<ServerMessage, ReadError> {
        let (header, payload) = self.reader.read(TIMEOUT, ServerMessage::limit).await?;
        Ok(ServerMessage::decode(header, payload).expect("decoded"))
    }

    pub async fn next(&mut self) -> ServerMessage {
        self.try_next().await.expect("a message")
    }

    /// The next message that `select` accepts; others are skipped.
    pub async fn until<T>(&mut self, description: &str, select: impl Fn(ServerMessage) -> Option<T>) -> T {
        let wait = async {
            loop {
                if let Some(selected) = select(self.next().await) {
                    return selected;
                }
            }
        };
        timeout(TIMEOUT, wait).await.unwrap_or_else(|_| panic!("timeout: {description}"))
    }

    pub async fn access_unit(&mut self) -> AccessUnit {
        let select = |message| match message {
            ServerMessage::AccessUnit(unit) => Some(unit),
            ServerMessage::Error { code, message } => panic!("{code:?}: {message}"),
            _ => None,
        };
        self.until("an access unit", select).await
    }

    /// The next access unit of a frame that was not encoded before.
    pub async fn new_access_unit(&mut self) -> AccessUnit {
        loop {
            let unit = self.access_unit().await;
            if !unit.repeat {
                return unit;
            }
        }
    }

    pub async fn dropped(&mut self) -> u64 {
        let select = |message| match message {
            ServerMessage::Dropped { seq } => Some(seq),
            _ => None,
        };
        self.until("a dropped frame", select).await
    }

    pub async fn error(&mut self) -> (ErrorCode, String) {
        let select = |message| match message {
            ServerMessage::Error { code, message } => Some((code, message)),
            _ => None,
        };
        self.until("an error", select).await
    }

    /// Context and VM of the next `Bound`.
    pub async fn bound(&mut self) -> (u32, String) {
        let select = |message| match message {
            ServerMessage::Bound { context, vm, .. } => Some((context, vm)),
            ServerMessage::Unbound { reason } => panic!("unbound: {reason}"),
            _ => None,
        };
        self.until("bound", select).await
    }

    /// Reason of the next `Unbound`.
    pub async fn unbound(&mut self) -> String {
        let select = |message| match message {
            ServerMessage::Unbound { reason } => Some(reason),
            _ => None,
        };
        self.until("unbound", select).await
    }

    /// Configures the session and returns the encoder's name.
    pub async fn configure(&mut self, config: Config) -> String {
        self.send(ClientMessage::Configure(config)).await;
        let select = |message| match message {
            ServerMessage::Configured { encoder } => Some(encoder),
            ServerMessage::Error { code, message } => panic!("{code:?}: {message}"),
            _ => None,
        };
        self.until("configured", select).await
    }

    /// Reads until the daemon closes the connection.
    pub async fn closed(&mut self) {
        let read = async { while self.try_next().await.is_ok() {} };
        timeout(TIMEOUT, read).await.expect("closed in time");
    }
}
