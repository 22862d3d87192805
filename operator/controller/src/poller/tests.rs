use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use stream_token::Verifier;
use tokio::net::TcpListener;
use tokio::sync::mpsc::unbounded_channel;

use super::*;

/// A sidecar of this stream that trusts the key of `operator`.
async fn sidecar(operator: &Signer, stream: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let verifier = Arc::new(Verifier::new(&[operator.verifying_key()], STATUS_AUDIENCE));
    let status = move |headers: HeaderMap| async move {
        let sent = headers.get("authorization").and_then(|it| it.to_str().ok()).unwrap_or_default();
        let claims = verifier.verify(sent.strip_prefix("Bearer ").unwrap_or_default());
        match claims {
            Ok(claims) if claims.sub == stream => (StatusCode::OK, r#"{"frames":{"encoded":1}}"#),
            _ => (StatusCode::UNAUTHORIZED, ""),
        }
    };
    let router = Router::new().route("/status", get(status));
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

#[tokio::test]
async fn stream_is_queued_with_the_answer_of_its_sidecar() {
    let (queue, mut queued) = unbounded_channel();
    let [signer, other] = [(); 2].map(|()| Arc::new(Signer::generate().expect("a key")));
    let poller = Poller::new(queue, Duration::from_secs(15), Arc::clone(&signer));
    for (name, address, is_accepted) in [
        ("desk", sidecar(&signer, "team/desk").await, true),
        ("taken", sidecar(&signer, "team/other").await, false),
        ("rotated", sidecar(&other, "team/rotated").await, false),
    ] {
        let stream = ObjectRef::new(name).within("team");
        poller.watch(name, Target { stream, address });
        let news = async {
            tokio::select! {
                () = poller.run(|| ()) => None,
                news = queued.recv() => news,
            }
        };
        let news = tokio::time::timeout(Duration::from_secs(60), news).await.expect("an answer");
        assert_eq!(news.map(|it| it.name), Some(name.to_owned()));
        let answer = poller.answer(name, address).expect("polled");
        assert_eq!(answer.is_ok(), is_accepted, "{name}: {answer:?}");
        assert_eq!(answer.is_err_and(|error| error.is_unauthorized()), !is_accepted);
    }
}
