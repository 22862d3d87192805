//! Connections of clients that present no token, beside viewers and probes.

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use support::{Served, TOKEN, fake, status, with_token, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use viewers::server::ServerOptions;

/// Idle connections never time out.
fn patient() -> ServerOptions {
    ServerOptions { header_timeout: Duration::from_hours(1), ..with_token() }
}

/// Opens `count` keep-alive connections that have received the response to a request without a token.
async fn idle(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut all = Vec::new();
    for _ in 0..count {
        let mut stream = within("connect", TcpStream::connect(address)).await.expect("a connection");
        stream.write_all(b"GET /status HTTP/1.1\r\nHost: desk\r\n\r\n").await.expect("sent");
        let mut head = [0; 12];
        within("a response", stream.read_exact(&mut head)).await.expect("a response");
        assert_eq!(&head, b"HTTP/1.1 401");
        all.push(stream);
    }
    all
}

#[tokio::test]
async fn idle_connections_without_a_token_exclude_neither_viewers_nor_probes() {
    let served = Served::start(patient()).await;
    served.hub.publish(fake(1, true, 50));
    let bearer = [("authorization", format!("Bearer {TOKEN}"))];
    let mut early = served.open(&bearer).await.expect("admitted");
    early.unit().await;
    for count in [85, 300] {
        let _viewers = idle(served.address, count).await;
        let _admin = idle(served.admin, count).await;
        assert_eq!(status(&served.admin("/healthz", &[]).await.0), 200, "{count}");
        assert_eq!(status(&served.admin("/readyz", &[]).await.0), 200, "{count}");
        let mut viewer = served.open(&bearer).await.expect("admitted");
        viewer.unit().await;
    }
    served.hub.publish(fake(2, false, 50));
    assert_eq!(early.unit().await.seq, 2, "a viewer is not evicted");
}

#[tokio::test]
async fn authenticated_idle_connection_is_kept_and_the_oldest_other_one_is_evicted() {
    let served = Served::start(patient()).await;
    let mut authenticated =
        within("connect", TcpStream::connect(served.address)).await.expect("a connection");
    let request = format!("GET /viewer.css HTTP/1.1\r\nHost: desk\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    authenticated.write_all(request.as_bytes()).await.expect("sent");
    let mut head = [0; 12];
    within("a response", authenticated.read_exact(&mut head)).await.expect("a response");
    assert_eq!(&head, b"HTTP/1.1 200");

    let mut others = idle(served.address, 100).await;
    let mut rest = Vec::new();
    within("the eviction", others[0].read_to_end(&mut rest)).await.ok();
    authenticated.write_all(request.as_bytes()).await.expect("sent");
    within("the second response", async {
        let mut received = Vec::new();
        while received.windows(8).filter(|at| at == b"HTTP/1.1").count() < 1 {
            assert!(authenticated.read_buf(&mut received).await.expect("open") > 0, "evicted");
        }
    })
    .await;
    let newest = others.last_mut().expect("the newest");
    newest.write_all(b"GET / HTTP/1.1\r\nHost: desk\r\n\r\n").await.expect("sent");
    assert!(within("a response", newest.read(&mut head)).await.expect("open") > 0, "the newest is kept");
}

#[tokio::test]
async fn connection_without_a_complete_header_is_closed_after_the_timeout() {
    let served =
        Served::start(ServerOptions { header_timeout: Duration::from_millis(100), ..with_token() }).await;
    for address in [served.address, served.admin] {
        for part in ["", "GET / HTTP/1.1\r\nHost: de"] {
            let mut stream = within("connect", TcpStream::connect(address)).await.expect("a connection");
            stream.write_all(part.as_bytes()).await.expect("sent");
            let mut rest = Vec::new();
            // Ends with or without an error response, or with a reset.
            within("the end", stream.read_to_end(&mut rest)).await.ok();
        }
    }
}
