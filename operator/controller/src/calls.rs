//! Counts requests to the apiserver, in a layer below the client that all of them pass.

use hyper::{Method, Request};
use kube::client::ClientBuilder;
use kube::{Client, Config};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tower::util::MapRequestLayer;

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

/// Builds a client whose requests are counted.
///
/// # Errors
/// If the configuration is unusable.
pub fn client(config: Config, calls: &Calls) -> kube::Result<Client> {
    let calls = calls.clone();
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
}
