//! What the operator counts, as Prometheus text, with `/healthz` and `/readyz` beside it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use super::calls::Calls;

/// Upper bounds of the buckets of reconciliation times, seconds.
const BUCKETS: [f64; 7] = [0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0];

/// Counters.
#[derive(Debug, Default)]
pub struct Metrics {
    /// We lead, and the watches have all answered once.
    pub working: AtomicBool,
    /// We lead.
    pub leader: AtomicBool,
    /// Reconciliations that went well.
    pub reconciled: AtomicU64,
    /// Calls to the apiserver that change something.
    pub writes: AtomicU64,
    /// Single reads from the apiserver.
    pub reads: AtomicU64,
    /// Sidecars asked.
    pub polls: AtomicU64,
    /// Streams now.
    pub streams: AtomicU64,
    /// All that is asked of the apiserver.
    pub calls: Arc<Calls>,
    seconds: [AtomicU64; BUCKETS.len() + 1],
    microseconds: AtomicU64,
    failures: Mutex<BTreeMap<&'static str, u64>>,
}

impl Metrics {
    /// With the client's counts.
    pub fn with(calls: Arc<Calls>) -> Self {
        Self { calls, ..Self::default() }
    }

    /// A reconciliation took so long and went well.
    pub fn reconciled(&self, took: Duration) {
        self.reconciled.fetch_add(1, Relaxed);
        self.microseconds.fetch_add(took.as_micros() as u64, Relaxed);
        let at = BUCKETS.iter().position(|bound| took.as_secs_f64() <= *bound).unwrap_or(BUCKETS.len());
        self.seconds[at].fetch_add(1, Relaxed);
    }

    /// A reconciliation failed.
    pub fn failed(&self, category: &'static str) {
        *self.failures.lock().unwrap_or_else(PoisonError::into_inner).entry(category).or_default() += 1;
    }

    /// As text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        let mut one = |name: &str, kind: &str, help: &str, value: u64| {
            // Writing to a String can't fail.
            let _infallible = write!(
                text,
                "# HELP desktopstream_operator_{name} {help}\n# TYPE desktopstream_operator_{name} {kind}\ndesktopstream_operator_{name} {value}\n"
            );
        };
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        one("leader", "gauge", "1 if this one leads.", u64::from(self.leader.load(Relaxed)));
        one("streams", "gauge", "DesktopStreams.", load(&self.streams));
        one("api_writes_total", "counter", "Changing calls to the apiserver.", load(&self.writes));
        one("api_reads_total", "counter", "Single reads from the apiserver.", load(&self.reads));
        one("sidecar_polls_total", "counter", "Sidecars asked for their status.", load(&self.polls));
        let name = "desktopstream_operator_api_requests_total";
        let _infallible =
            write!(text, "# HELP {name} All requests to the apiserver.\n# TYPE {name} counter\n");
        for (kind, count) in self.calls.all() {
            let _infallible = writeln!(text, "{name}{{kind=\"{kind}\"}} {count}");
        }
        let name = "desktopstream_operator_reconcile_seconds";
        let _infallible =
            write!(text, "# HELP {name} Reconciliations that went well.\n# TYPE {name} histogram\n");
        let mut sum = 0;
        for (bound, count) in
            BUCKETS.iter().map(ToString::to_string).chain(["+Inf".to_owned()]).zip(&self.seconds)
        {
            sum += load(count);
            let _infallible = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {sum}");
        }
        let total = load(&self.microseconds) as f64 / 1e6;
        let _infallible = writeln!(text, "{name}_sum {total}\n{name}_count {}", load(&self.reconciled));
        let name = "desktopstream_operator_reconcile_failures_total";
        let _infallible = write!(text, "# HELP {name} Those that failed.\n# TYPE {name} counter\n");
        for (category, count) in &*self.failures.lock().unwrap_or_else(PoisonError::into_inner) {
            let _infallible = writeln!(text, "{name}{{category=\"{category}\"}} {count}");
        }
        text
    }
}

/// Serves them until the process ends.
pub async fn serve(address: SocketAddr, metrics: Arc<Metrics>) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(show))
        .with_state(metrics);
    axum::serve(listener, router).await
}

/// One that waits to lead is ready, too: else an update would wait for a leader that waits for it.
async fn ready(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    if metrics.leader.load(Relaxed) && !metrics.working.load(Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, "reading what is there\n");
    }
    (StatusCode::OK, "ok\n")
}

async fn show(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.render())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up() {
        let metrics = Metrics::default();
        metrics.reconciled(Duration::from_millis(1));
        metrics.reconciled(Duration::from_secs(1));
        metrics.reconciled(Duration::from_secs(600));
        metrics.failed("refused");
        let text = metrics.render();
        for line in [
            "reconcile_seconds_bucket{le=\"0.005\"} 1",
            "reconcile_seconds_bucket{le=\"2\"} 2",
            "reconcile_seconds_bucket{le=\"+Inf\"} 3",
            "reconcile_seconds_count 3",
            "reconcile_failures_total{category=\"refused\"} 1",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
