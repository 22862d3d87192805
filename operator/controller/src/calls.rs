//! Counts what we ask of the apiserver, where all of it passes: under the client.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hyper::{Method, Request};
use kube::client::ClientBuilder;
use kube::{Client, Config};
use tower::util::MapRequestLayer;

/// Requests since the start, by what they are for.
#[derive(Debug, Default)]
pub struct Calls {
    /// Of the Lease: as many with a thousand streams as with none.
    pub lease: AtomicU64,
    /// Watches begun.
    pub watch: AtomicU64,
    /// Other reads.
    pub read: AtomicU64,
    /// What changes something, Events included.
    pub write: AtomicU64,
}

impl Calls {
    fn count<B>(&self, request: &Request<B>) {
        let uri = request.uri();
        let counter = if uri.path().contains("/leases") {
            &self.lease
        } else if request.method() != Method::GET {
            &self.write
        } else if uri.query().is_some_and(|query| query.contains("watch=")) {
            &self.watch
        } else {
            &self.read
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Names and counts, for metrics.
    pub fn all(&self) -> [(&'static str, u64); 4] {
        [("lease", &self.lease), ("watch", &self.watch), ("read", &self.read), ("write", &self.write)]
            .map(|(name, counter)| (name, counter.load(Relaxed)))
    }
}

/// A client whose requests are counted.
pub fn client(config: Config, calls: &Arc<Calls>) -> kube::Result<Client> {
    let calls = Arc::clone(calls);
    let layer = MapRequestLayer::new(move |request: Request<kube::client::Body>| {
        calls.count(&request);
        request
    });
    Ok(ClientBuilder::try_from(config)?.with_layer(&layer).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart() {
        let calls = Calls::default();
        for (method, uri) in [
            (Method::GET, "/api/v1/pods?watch=true&x=y"),
            (Method::GET, "/api/v1/namespaces/n/secrets/s"),
            (Method::PATCH, "/api/v1/namespaces/n/pods/p?fieldManager=x"),
            (Method::PUT, "/apis/coordination.k8s.io/v1/namespaces/n/leases/l"),
            (Method::POST, "/apis/events.k8s.io/v1/namespaces/n/events"),
        ] {
            calls.count(&Request::builder().method(method).uri(uri).body(()).expect("a request"));
        }
        assert_eq!(calls.all(), [("lease", 1), ("watch", 1), ("read", 1), ("write", 2)]);
    }
}
