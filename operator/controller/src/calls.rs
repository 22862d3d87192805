//! Counts requests to the apiserver, and limits their time, in a layer below the client that all of them pass.

use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hyper::{Method, Request};
use kube::client::ClientBuilder;
use kube::{Client, Config};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tower::layer::layer_fn;
use tower::util::MapRequestLayer;
use tower::{BoxError, Service};

/// Values of [`Purpose::kind`].
const KINDS: [&str; 4] = ["lease", "watch", "read", "write"];

/// Label of the requests' metric.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Purpose {
    /// `lease` (their number does not depend on the number of streams), `watch` (watches started), `read` (other reads) or
    /// `write` (including Events).
    pub kind: &'static str,
}

/// Requests since start, by purpose. Clones share the counters.
#[derive(Debug, Clone)]
pub struct Calls(pub(crate) Family<Purpose, Counter>);

impl Default for Calls {
    fn default() -> Self {
        let family = Family::default();
        // Counters that exist are exported with 0.
        for kind in KINDS {
            drop(family.get_or_create(&Purpose { kind }));
        }
        Self(family)
    }
}

impl Calls {
    fn count<B>(&self, request: &Request<B>) {
        self.0.get_or_create(&purpose(request)).inc();
    }
}

fn purpose<B>(request: &Request<B>) -> Purpose {
    let uri = request.uri();
    let kind = if uri.path().contains("/leases") {
        "lease"
    } else if request.method() != Method::GET {
        "write"
    } else if uri.query().is_some_and(|query| query.contains("watch=")) {
        "watch"
    } else {
        "read"
    };
    Purpose { kind }
}

/// Limit of the time until the apiserver begins to answer. Watches are not limited: kube's watcher has its own limit.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Error of a request that was not answered in time.
#[derive(Debug, thiserror::Error)]
#[error("the apiserver did not answer within {} s", ANSWER_TIMEOUT.as_secs())]
struct Unanswered;

/// Fails requests that are not answered within [`ANSWER_TIMEOUT`].
#[derive(Debug, Clone)]
struct Limited<S>(S);

impl<S, B> Service<Request<B>> for Limited<S>
where
    S: Service<Request<B>, Error = BoxError>,
    S::Future: Send + 'static,
    S::Response: 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<S::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let is_watch = purpose(&request).kind == "watch";
        let answer = self.0.call(request);
        async move {
            if is_watch {
                return answer.await;
            }
            tokio::time::timeout(ANSWER_TIMEOUT, answer).await.unwrap_or_else(|_| Err(Unanswered.into()))
        }
        .boxed()
    }
}

/// Builds a client whose requests are counted and limited in time.
///
/// # Errors
/// If the configuration is unusable.
pub fn client(config: Config, calls: &Calls) -> kube::Result<Client> {
    let calls = calls.clone();
    let layer = MapRequestLayer::new(move |request: Request<kube::client::Body>| {
        calls.count(&request);
        request
    });
    let limit = layer_fn(Limited);
    Ok(ClientBuilder::try_from(config)?.with_layer(&limit).with_layer(&layer).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_purpose() {
        for (method, uri, kind) in [
            (Method::GET, "/api/v1/pods?watch=true&x=y", "watch"),
            (Method::GET, "/api/v1/namespaces/n/secrets/s", "read"),
            (Method::PATCH, "/api/v1/namespaces/n/pods/p?fieldManager=x", "write"),
            (Method::PUT, "/apis/coordination.k8s.io/v1/namespaces/n/leases/l", "lease"),
            (Method::POST, "/apis/events.k8s.io/v1/namespaces/n/events", "write"),
        ] {
            let request = Request::builder().method(method).uri(uri).body(()).expect("a request");
            assert_eq!(purpose(&request).kind, kind, "{uri}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn request_without_an_answer_fails_and_a_watch_waits() {
        let hanging = tower::service_fn(|_: Request<()>| std::future::pending::<Result<(), BoxError>>());
        let mut limited = Limited(hanging);
        let request = |uri: &str| Request::builder().uri(uri).body(()).expect("a request");
        let error = limited.call(request("/api/v1/pods?limit=500")).await.expect_err("no answer");
        assert!(error.to_string().contains("within 30 s"), "{error}");
        let watch = limited.call(request("/api/v1/pods?watch=true"));
        assert!(tokio::time::timeout(ANSWER_TIMEOUT * 10, watch).await.is_err());
    }
}
