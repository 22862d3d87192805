//! Metrics of the operator in the OpenMetrics format, and the probes `/healthz` and `/readyz`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use contract::names::metrics::OPERATOR_PREFIX;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::calls::Calls;

/// Upper bounds of the histogram of reconciliation times, seconds.
const BUCKETS: [f64; 7] = [0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0];

/// Content type of the OpenMetrics text format.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Label of failed reconciliations.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    /// Category of the error.
    category: &'static str,
}

/// Metrics of the operator.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// True while this replica leads and every watch has listed its objects once.
    is_working: AtomicBool,
    /// 1 while this replica leads.
    leader: Gauge,
    /// Number of streams.
    streams: Gauge,
    /// Requests that change an object.
    pub writes: Counter,
    /// Reads of single objects.
    pub reads: Counter,
    /// Status requests to sidecars.
    pub polls: Counter,
    reconcile_seconds: Histogram,
    failures: Family<Failure, Counter>,
}

impl Metrics {
    /// Metrics that include the client's requests.
    pub fn new(calls: &Calls) -> Self {
        let mut registry = Registry::with_prefix(OPERATOR_PREFIX);
        let (leader, streams) = (Gauge::default(), Gauge::default());
        let (writes, reads, polls) = (Counter::default(), Counter::default(), Counter::default());
        let reconcile_seconds = Histogram::new(BUCKETS);
        let failures = Family::default();
        registry.register("leader", "1 if this replica leads", leader.clone());
        registry.register("streams", "Number of DesktopStreams", streams.clone());
        registry.register("api_writes", "Requests of reconciliations that change an object", writes.clone());
        registry.register("api_reads", "Reads of single objects by reconciliations", reads.clone());
        registry.register("sidecar_polls", "Status requests to sidecars", polls.clone());
        registry.register("api_requests", "All requests to the apiserver", calls.0.clone());
        let help = "Duration of successful reconciliations";
        registry.register("reconcile_seconds", help, reconcile_seconds.clone());
        let help = "Failed reconciliations by category of the error";
        registry.register("reconcile_failures", help, failures.clone());
        Self {
            registry,
            is_working: AtomicBool::new(false),
            leader,
            streams,
            writes,
            reads,
            polls,
            reconcile_seconds,
            failures,
        }
    }

    /// Records whether this replica leads.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(leads.into());
        if !leads {
            self.is_working.store(false, Relaxed);
        }
    }

    /// Records that every watch has listed its objects once.
    pub fn set_working(&self) {
        self.is_working.store(true, Relaxed);
    }

    /// Records the number of streams.
    pub fn set_streams(&self, count: usize) {
        self.streams.set(count as i64);
    }

    /// Records a successful reconciliation.
    pub fn reconciled(&self, duration: Duration) {
        self.reconcile_seconds.observe(duration.as_secs_f64());
    }

    /// Records a failed reconciliation.
    pub fn failed(&self, category: &'static str) {
        self.failures.get_or_create(&Failure { category }).inc();
    }

    /// True unless this replica leads and still lists objects. A replica that does not lead is ready too, because a
    /// rolling update waits for it before it stops the leader.
    fn is_ready(&self) -> bool {
        self.leader.get() == 0 || self.is_working.load(Relaxed)
    }

    fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _infallible = text::encode(&mut text, &self.registry);
        text
    }
}

/// Serves metrics and probes until the process ends.
///
/// # Errors
/// If `address` cannot be bound.
pub async fn serve(address: SocketAddr, metrics: Arc<Metrics>) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(show))
        .with_state(metrics);
    axum::serve(listener, router).await
}

async fn ready(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    if metrics.is_ready() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "listing objects\n")
    }
}

async fn show(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, OPENMETRICS)], metrics.render())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_text_has_cumulative_buckets_and_counters_by_label() {
        let metrics = Metrics::new(&Calls::default());
        metrics.reconciled(Duration::from_millis(1));
        metrics.reconciled(Duration::from_secs(1));
        metrics.reconciled(Duration::from_secs(600));
        metrics.failed("refused");
        metrics.writes.inc();
        let text = metrics.render();
        for line in [
            "desktopstream_operator_reconcile_seconds_bucket{le=\"0.005\"} 1",
            "desktopstream_operator_reconcile_seconds_bucket{le=\"2.0\"} 2",
            "desktopstream_operator_reconcile_seconds_bucket{le=\"+Inf\"} 3",
            "desktopstream_operator_reconcile_seconds_count 3",
            "desktopstream_operator_reconcile_failures_total{category=\"refused\"} 1",
            "desktopstream_operator_api_writes_total 1",
            "desktopstream_operator_leader 0",
            "desktopstream_operator_api_requests_total{kind=\"watch\"} 0",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }

    #[test]
    fn replica_is_ready_unless_it_leads_and_still_lists() {
        let metrics = Metrics::new(&Calls::default());
        assert!(metrics.is_ready(), "not leading");
        metrics.set_leader(true);
        assert!(!metrics.is_ready());
        metrics.set_working();
        assert!(metrics.is_ready());
        metrics.set_leader(false);
        assert!(metrics.is_ready());
    }
}
