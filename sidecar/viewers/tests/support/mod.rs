//! A viewers' server on a free port, HTTP and WebSocket clients, and access units.

#![expect(dead_code, reason = "each test file uses a part")]
#![expect(clippy::panic, reason = "a failed helper fails its test")]

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use encode::clock::clock_ns;
use futures_util::StreamExt;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app::AppSink;
use protocol::stream::AccessUnit;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::Request;
use viewers::server::{Server, ServerError, ServerOptions};
use viewers::{Hub, HubOptions, ViewerToken};

pub const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// Time limit for each wait.
pub const TIMEOUT: Duration = Duration::from_mins(1);

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(TIMEOUT, future).await.unwrap_or_else(|_| panic!("timed out: {what}"))
}

/// Waits until `condition` holds.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    within(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// Options with the viewer token [`TOKEN`].
pub fn with_token() -> ServerOptions {
    ServerOptions { viewer_token: Some(changing_token().1), ..ServerOptions::default() }
}

/// The viewer token [`TOKEN`] and its sender.
pub fn changing_token() -> (watch::Sender<ViewerToken>, watch::Receiver<ViewerToken>) {
    watch::channel(TOKEN.parse().expect("a token"))
}

/// A running server; stops when dropped.
pub struct Served {
    pub hub: Hub,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub task: JoinHandle<Result<(), ServerError>>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
        self.hub.close();
    }
}

impl Served {
    pub async fn start(options: ServerOptions) -> Self {
        Self::with(HubOptions::default(), options, |server| server).await
    }

    pub async fn with(
        hub: HubOptions,
        options: ServerOptions,
        finish: impl FnOnce(Server) -> Server,
    ) -> Self {
        let hub = Hub::new(hub);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let admin_listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let admin = admin_listener.local_addr().expect("an address");
        let server = finish(Server::new(hub.clone(), options).with_admin(admin_listener));
        Self { hub, address, admin, task: tokio::spawn(server.serve(listener)) }
    }

    /// Sends a `GET` to the viewers' listener. Returns the lower-case head and the body.
    pub async fn request(&self, target: &str, headers: &[&str]) -> (String, Vec<u8>) {
        Self::send(self.address, "GET", target, headers, "").await
    }

    /// As [`Self::request`], to the admin listener.
    pub async fn admin(&self, target: &str, headers: &[&str]) -> (String, Vec<u8>) {
        Self::send(self.admin, "GET", target, headers, "").await
    }

    /// Exchanges a token for a session. Returns the lower-case head.
    pub async fn exchange(&self, token: &str, headers: &[&str]) -> String {
        let body: String =
            form_urlencoded::Serializer::new(String::new()).append_pair("token", token).finish();
        Self::send(self.address, "POST", "/session", headers, &body).await.0
    }

    /// Sends a request with the given header lines.
    async fn send(
        address: SocketAddr,
        method: &str,
        target: &str,
        headers: &[&str],
        body: &str,
    ) -> (String, Vec<u8>) {
        let host = format!("Host: {address}");
        let named = headers.iter().any(|header| header.to_ascii_lowercase().starts_with("host:"));
        let lines = headers.iter().copied().chain((!named).then_some(host.as_str()));
        let request =
            lines.fold(format!("{method} {target} HTTP/1.1\r\n"), |request, line| request + line + "\r\n");
        let mut stream = within("connect", TcpStream::connect(address)).await.expect("a connection");
        let request = format!("{request}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        within("an answer", stream.read_to_end(&mut answer)).await.expect("an answer");
        let end = answer.windows(4).position(|at| at == b"\r\n\r\n").expect("a head") + 4;
        let body = answer.split_off(end);
        (String::from_utf8(answer).expect("ASCII").to_ascii_lowercase(), body)
    }

    pub async fn status(&self, target: &str, headers: &[&str]) -> u16 {
        status(&self.request(target, headers).await.0)
    }

    pub fn ws_request(&self, headers: &[(&'static str, String)]) -> Request<()> {
        let mut request = format!("ws://{}/ws", self.address).into_client_request().expect("a request");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("a header"));
        }
        request
    }

    /// Opens a WebSocket; fails with the HTTP status of a rejection.
    pub async fn open(&self, headers: &[(&'static str, String)]) -> Result<Viewer, u16> {
        use tokio_tungstenite::tungstenite::Error;
        let stream = within("connect", TcpStream::connect(self.address)).await.expect("a connection");
        match within("handshake", tokio_tungstenite::client_async(self.ws_request(headers), stream)).await {
            Ok((socket, _)) => Ok(Viewer { socket }),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("handshake: {error}"),
        }
    }

    pub async fn viewer(&self) -> Viewer {
        self.open(&[]).await.expect("accepted")
    }
}

/// Status of a response's head.
pub fn status(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
}

/// An access unit as received by the page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    pub flags: u8,
    pub seq: u64,
    pub capture_ns: u64,
    pub sent_ns: u64,
    pub data: Bytes,
}

pub struct Viewer {
    pub socket: WebSocketStream<TcpStream>,
}

impl Viewer {
    /// The next message other than a ping; `None` once the connection ended.
    pub async fn message(&mut self) -> Option<Message> {
        loop {
            match within("a message", self.socket.next()).await {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(message)) => return Some(message),
                Some(Err(_)) | None => return None,
            }
        }
    }

    /// The next access unit; skips text messages.
    pub async fn unit(&mut self) -> Received {
        loop {
            match self.message().await {
                Some(Message::Text(_)) => {}
                Some(Message::Binary(bytes)) => {
                    assert_eq!((bytes[0], &bytes[2..4]), (1, &[0, 0][..]), "version and zeros");
                    let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
                    let (seq, capture_ns, sent_ns) = (long(4), long(12), long(20));
                    return Received { flags: bytes[1], seq, capture_ns, sent_ns, data: bytes.slice(28..) };
                }
                other => panic!("expected a unit, received {other:?}"),
            }
        }
    }

    /// The next text message of type `kind`; skips access units.
    pub async fn text(&mut self, kind: &str) -> serde_json::Value {
        loop {
            match self.message().await {
                Some(Message::Text(text)) => {
                    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
                    if value["type"] == kind {
                        return value;
                    }
                }
                Some(Message::Binary(_)) => {}
                other => panic!("expected {kind}, received {other:?}"),
            }
        }
    }
}

/// An access unit of `len` bytes with valid headers and an undecodable picture.
pub fn fake(seq: u64, idr: bool, len: usize) -> AccessUnit {
    let head: &[u8] =
        if idr { &[0, 0, 0, 1, 0x67, 66, 0xC0, 31, 0, 0, 0, 1, 0x65] } else { &[0, 0, 0, 1, 0x41] };
    let mut data = head.to_vec();
    data.resize(len.max(head.len()), 0xff);
    AccessUnit {
        seq,
        capture_ns: clock_ns(),
        idr,
        repeat: false,
        queue_us: 0,
        encode_us: 0,
        data: data.into(),
    }
}

/// `count` pictures encoded by x264, the first an IDR; captured from `start_ns` on at 30 fps.
pub fn real(count: u64, width: i32, height: i32, start_ns: u64) -> Vec<AccessUnit> {
    gst::init().expect("GStreamer");
    let description = format!(
        "videotestsrc num-buffers={count} pattern=ball ! video/x-raw,format=I420,width={width},height={height},\
         framerate=30/1 ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=1000 ! \
         video/x-h264,stream-format=byte-stream,alignment=au ! appsink name=out sync=false"
    );
    let pipeline =
        gst::parse::launch(&description).expect("x264enc").downcast::<gst::Pipeline>().expect("a pipeline");
    let sink = pipeline.by_name("out").and_then(|sink| sink.downcast::<AppSink>().ok()).expect("the sink");
    pipeline.set_state(gst::State::Playing).expect("plays");
    let units: Vec<_> = std::iter::from_fn(|| sink.pull_sample().ok())
        .zip(0..)
        .map(|(sample, seq)| {
            let buffer = sample.buffer().expect("a buffer");
            let data = Bytes::copy_from_slice(&buffer.map_readable().expect("readable"));
            let capture_ns = start_ns + seq * 1_000_000_000 / 30;
            let idr = !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
            AccessUnit { seq, capture_ns, idr, repeat: false, queue_us: 0, encode_us: 0, data }
        })
        .collect();
    pipeline.set_state(gst::State::Null).expect("stops");
    assert_eq!(units.len() as u64, count);
    units
}
