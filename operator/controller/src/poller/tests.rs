use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::mpsc::unbounded_channel;

use super::*;

/// A sidecar that accepts this token.
async fn sidecar(token: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let status = move |headers: HeaderMap| async move {
        let sent = headers.get("authorization").and_then(|it| it.to_str().ok());
        if sent == Some(&format!("Bearer {token}")) {
            (StatusCode::OK, r#"{"frames":{"encoded":1}}"#)
        } else {
            (StatusCode::UNAUTHORIZED, "")
        }
    };
    let router = Router::new().route("/status", get(status));
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

fn target(name: &str, address: SocketAddr, tokens: &[&str]) -> Target {
    let tokens = tokens.iter().map(|&token| token.to_owned()).collect();
    Target { stream: ObjectRef::new(name), address, tokens }
}

#[tokio::test]
async fn stream_is_queued_with_the_answer_of_its_sidecar() {
    let (queue, mut queued) = unbounded_channel();
    let poller = Poller::new(queue, Duration::from_secs(15));
    let address = sidecar("old").await;
    for (name, tokens, is_accepted) in [
        ("current", ["old", "older"], true),
        ("former", ["new", "old"], true),
        ("none", ["new", "newer"], false),
    ] {
        poller.watch(name, target(name, address, &tokens));
        let news = async {
            tokio::select! {
                () = poller.run(|| ()) => None,
                news = queued.recv() => news,
            }
        };
        let news = tokio::time::timeout(Duration::from_secs(60), news).await.expect("an answer");
        assert_eq!(news.map(|it| it.name), Some(name.to_owned()));
        let answer = poller.answer(name, address).expect("polled");
        assert_eq!(answer.is_ok(), is_accepted, "{answer:?}");
        assert_eq!(answer.is_err_and(|error| error.is_unauthorized()), !is_accepted);
    }
}
