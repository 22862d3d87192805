use std::sync::atomic::{AtomicUsize, Ordering};

use axum::routing::post;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::cert::{Cert, LIFE};

/// Bounds conditions that never come.
const LONG: Duration = Duration::from_secs(60);
const HOST: &str = "webhook.test.svc";

/// A server with one route that answers `POST /` with the size of the body, once it may.
struct Rig {
    address: SocketAddr,
    cert: Cert,
    stop: Option<oneshot::Sender<()>>,
    serving: tokio::task::JoinHandle<()>,
    gate: watch::Sender<bool>,
    entered: Arc<AtomicUsize>,
}

impl Rig {
    async fn start(limits: Limits, client_ca: Option<&str>) -> Self {
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_secs();
        let cert = Cert::make(vec![HOST.to_owned()], now, LIFE, None).expect("a certificate");
        let tls =
            Tls::new(cert.chain.as_bytes(), cert.key.as_bytes(), client_ca.map(str::as_bytes)).expect("TLS");
        let (gate, open) = watch::channel(true);
        let entered = Arc::new(AtomicUsize::new(0));
        let router = Router::new().route(
            "/",
            post({
                let entered = Arc::clone(&entered);
                move |body: axum::body::Bytes| async move {
                    entered.fetch_add(1, Ordering::SeqCst);
                    let mut open = open.clone();
                    open.wait_for(|open| *open).await.expect("the gate exists");
                    body.len().to_string()
                }
            }),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(serve(listener, tls, router, limits, async {
            // The sender is dropped at the end of a test.
            let _ended = stopped.await;
        }));
        Self { address, cert, stop: Some(stop), serving, gate, entered }
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        for ca in CertificateDer::pem_slice_iter(self.cert.bundle.as_bytes()) {
            roots.add(ca.expect("PEM")).expect("a CA");
        }
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let stream = TcpStream::connect(self.address).await.expect("connects");
        let name = ServerName::try_from(HOST).expect("a name");
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
        timeout(LONG, connecting).await.expect("in time").expect("a handshake")
    }

    /// A connection that has sent the head and a part of the body.
    async fn slow(&self) -> TlsStream<TcpStream> {
        let mut stream = self.connect().await;
        send(&mut stream, 1000, b"part").await;
        stream
    }
}

async fn send(stream: &mut TlsStream<TcpStream>, length: usize, body: &[u8]) {
    let head = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("writes");
    // A server that refuses the request may have closed the connection.
    let _refused = stream.write_all(body).await;
    let _refused = stream.flush().await;
}

/// All that the server sends until it closes the connection, or until `enough`.
async fn received(stream: &mut TlsStream<TcpStream>, enough: &str) -> String {
    let mut all = Vec::new();
    let reading = async {
        let mut part = [0; 1024];
        while let Ok(size @ 1..) = stream.read(&mut part).await {
            all.extend_from_slice(&part[..size]);
            if !enough.is_empty() && String::from_utf8_lossy(&all).contains(enough) {
                return;
            }
        }
    };
    timeout(LONG, reading).await.expect("the server closes the connection");
    String::from_utf8_lossy(&all).into_owned()
}

fn limits() -> Limits {
    Limits { drain: Duration::ZERO, ..Limits::default() }
}

/// Limits under which nothing ends because of time.
fn patient() -> Limits {
    Limits { head: LONG * 2, body: LONG * 2, ..limits() }
}

#[tokio::test(flavor = "multi_thread")]
async fn body_above_the_limit_is_refused_before_it_is_read() {
    let rig = Rig::start(patient(), None).await;
    let mut stream = rig.connect().await;
    send(&mut stream, 8 << 20, &vec![b'x'; 2 << 20]).await;
    let answer = received(&mut stream, "").await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
    let mut stream = rig.connect().await;
    send(&mut stream, 1 << 20, &vec![b'x'; 1 << 20]).await;
    let answer = received(&mut stream, "1048576").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn review_of_many_values_is_refused_before_it_is_parsed() {
    let rig = Rig::start(patient(), None).await;
    let review = |values: usize| format!("[{}0]", "0,".repeat(values - 2)).into_bytes();
    let most = review(Limits::default().values);
    for (body, expected) in [(&most, "HTTP/1.1 200"), (&review(1 << 19), "HTTP/1.1 413")] {
        let mut stream = rig.connect().await;
        send(&mut stream, body.len(), body).await;
        let answer = received(&mut stream, "\r\n\r\n").await;
        assert!(answer.starts_with(expected), "{} bytes: {answer}", body.len());
    }
    assert_eq!(rig.entered.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_and_slow_connections_are_closed() {
    let short = Duration::from_millis(50);
    let rig = Rig::start(Limits { head: short, body: LONG * 2, ..limits() }, None).await;
    let mut silent = TcpStream::connect(rig.address).await.expect("connects");
    let closed = timeout(LONG, silent.read(&mut [0; 1])).await.expect("in time");
    assert!(!matches!(closed, Ok(1..)), "closed without a handshake");
    let rig = Rig::start(Limits { body: short, ..patient() }, None).await;
    let answer = received(&mut rig.slow().await, "").await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_connections_do_not_keep_others_out() {
    let bounds = Bounds { total: 8, per_peer: 4 };
    let rig = Rig::start(Limits { connections: bounds, ..patient() }, None).await;
    let mut slow = Vec::new();
    for _ in 0..40 {
        slow.push(rig.slow().await);
    }
    let mut stream = rig.connect().await;
    send(&mut stream, 5, b"hello").await;
    let answer = received(&mut stream, "\r\n\r\n5").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // The oldest were evicted, so that at most `per_peer` are held.
    for stream in &mut slow[..36] {
        assert_eq!(received(stream, "").await, "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn review_without_a_place_is_refused_as_too_many() {
    let short = Duration::from_millis(50);
    let rig = Rig::start(Limits { reviews: 1, body: short, head: LONG * 2, ..limits() }, None).await;
    rig.gate.send_replace(false);
    let mut first = rig.connect().await;
    send(&mut first, 1, b"a").await;
    while rig.entered.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let mut second = rig.connect().await;
    send(&mut second, 1, b"b").await;
    let answer = received(&mut second, "").await;
    assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
    rig.gate.send_replace(true);
    assert!(received(&mut first, "\r\n\r\n1").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn open_review_is_answered_during_shutdown() {
    let mut rig = Rig::start(Limits { finish: LONG, ..patient() }, None).await;
    rig.gate.send_replace(false);
    let mut stream = rig.connect().await;
    send(&mut stream, 1, b"a").await;
    while rig.entered.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    rig.stop.take().expect("once").send(()).expect("serves");
    // Refused connections show that the server drains.
    let drained = async { while TcpStream::connect(rig.address).await.is_ok() {} };
    timeout(LONG, drained).await.expect("the listener closes");
    assert!(!rig.serving.is_finished(), "a review is open");
    rig.gate.send_replace(true);
    let answer = received(&mut stream, "").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n1"), "{answer}");
    timeout(LONG, rig.serving).await.expect("in time").expect("ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_without_a_certificate_is_refused_if_one_is_required() {
    let authority = Cert::make(vec!["apiserver".to_owned()], 0, LIFE * 100, None).expect("a certificate");
    let rig = Rig::start(patient(), Some(&authority.bundle)).await;
    let mut stream = rig.connect().await;
    send(&mut stream, 1, b"a").await;
    assert_eq!(received(&mut stream, "").await, "");
    assert_eq!(rig.entered.load(Ordering::SeqCst), 0);
}
