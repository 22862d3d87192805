//! A stream connection spoken by hand: the right way, and wrong ways.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use protocol::frame::{HEADER_BYTES, Header};
use protocol::stream::{ClientMessage, Codec, Config, Path, ServerMessage, VERSION};
use protocol::{Endpoint, PixelFormat};

/// An open session.
pub struct Session {
    socket: TcpStream,
    nonce: [u8; 16],
}

impl Session {
    /// Says HELLO with a good token.
    pub fn open(endpoint: &Endpoint, token: &str) -> Result<Self> {
        let mut socket = connect(endpoint)?;
        hello(&mut socket, token)?;
        match receive(&mut socket)? {
            ServerMessage::HelloAck { nonce, .. } => Ok(Self { socket, nonce }),
            other => bail!("no session: {other:?}"),
        }
    }

    /// What the mailbox has to be rung with.
    pub fn nonce(&self) -> [u8; 16] {
        self.nonce
    }

    /// Says what will come.
    pub fn configure(&mut self, width: u16, height: u16) -> Result<()> {
        send(
            &mut self.socket,
            &ClientMessage::Configure(Config {
                width,
                height,
                format: PixelFormat::Bgrx,
                max_fps: 60,
                bitrate_kbps: 2000,
                keyframe_ms: 0,
                codec: Codec::H264,
                path: Path::ResourceId,
            }),
        )
    }

    /// Whether the host-agent says that the session is bound.
    pub fn wait_bound(&mut self, limit: Duration) -> bool {
        let begin = Instant::now();
        while begin.elapsed() < limit {
            match receive(&mut self.socket) {
                Ok(ServerMessage::Bound { .. }) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
        false
    }

    /// Access units that came: pictures of what, only a decoder could say; there is one buffer, its own.
    pub fn access_units(&mut self) -> usize {
        let mut units = 0;
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(2) {
            match receive(&mut self.socket) {
                Ok(ServerMessage::AccessUnit(_)) => units += 1,
                Ok(_) => {}
                Err(_) => break,
            }
        }
        units
    }
}

/// What the host-agent says to a token.
pub fn refusal(endpoint: &Endpoint, token: &str) -> String {
    let answer = connect(endpoint).and_then(|mut socket| {
        hello(&mut socket, token)?;
        receive(&mut socket)
    });
    match answer {
        Ok(ServerMessage::Error { code, .. }) => format!("{code:?}"),
        Ok(other) => format!("{other:?}"),
        Err(error) => format!("closed: {error:#}"),
    }
}

/// What the host-agent does with bytes that are no message: anything but a session.
pub fn garbage(endpoint: &Endpoint) -> String {
    let answer = connect(endpoint).and_then(|mut socket| {
        socket.write_all(&[0xff; 4096])?;
        receive(&mut socket)
    });
    match answer {
        Ok(ServerMessage::Error { code, .. }) => format!("{code:?}"),
        Ok(other) => format!("{other:?}"),
        Err(_) => "closed".to_owned(),
    }
}

fn connect(endpoint: &Endpoint) -> Result<TcpStream> {
    let Endpoint::Tcp { host, port } = endpoint else { bail!("{endpoint} is no TCP endpoint") };
    let socket = TcpStream::connect((host.as_str(), *port)).with_context(|| endpoint.to_string())?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    Ok(socket)
}

fn hello(socket: &mut TcpStream, token: &str) -> Result<()> {
    let (token, client) = (token.to_owned(), "attacker".to_owned());
    send(socket, &ClientMessage::Hello { min: VERSION, max: VERSION, token, client })
}

fn send(socket: &mut TcpStream, message: &ClientMessage) -> Result<()> {
    socket.write_all(&message.encode().to_vec())?;
    Ok(())
}

fn receive(socket: &mut TcpStream) -> Result<ServerMessage> {
    let mut head = [0; HEADER_BYTES];
    socket.read_exact(&mut head)?;
    let header = Header::decode(head, ServerMessage::limit)?;
    let mut payload = vec![0; header.len as usize];
    socket.read_exact(&mut payload)?;
    Ok(ServerMessage::decode(header, Bytes::from(payload))?)
}
