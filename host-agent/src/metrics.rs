//! `/metrics` in Prometheus' text format. Labels come from enumerations only: a cluster that makes a
//! thousand streams makes no thousand time series here; `/status` has the single sessions.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use protocol::link::Stats;
use protocol::mailbox;

use crate::hub::Hub;
use crate::meter::{Count, Quantiles, Time};

const PREFIX: &str = "desktopstream_host_agent";

/// Writes into a `String`, which can't fail.
macro_rules! line {
    ($out:expr, $($arg:tt)*) => {{
        let _infallible = writeln!($out, $($arg)*);
    }};
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    line!(out, "# HELP {PREFIX}_{name} {help}");
    line!(out, "# TYPE {PREFIX}_{name} {kind}");
}

fn single(out: &mut String, name: &str, kind: &str, help: &str, value: u64) {
    head(out, name, kind, help);
    line!(out, "{PREFIX}_{name} {value}");
}

fn quantiles(out: &mut String, name: &str, label: &str, q: Quantiles, unit: f64) {
    for (quantile, value) in [("0.5", q.p50), ("0.99", q.p99), ("1", q.max)] {
        line!(out, "{PREFIX}_{name}{{{label},quantile=\"{quantile}\"}} {}", value as f64 * unit);
    }
    line!(out, "{PREFIX}_{name}_count{{{label}}} {}", q.count);
}

/// All of it.
pub fn render(hub: &Hub) -> String {
    let (sessions, vms) = hub.view();
    let mut out = String::new();
    let bound = sessions.iter().filter(|view| view.binding.is_some()).count();
    head(&mut out, "sessions", "gauge", "Sessions now.");
    for (state, count) in [("bound", bound), ("unbound", sessions.len() - bound)] {
        line!(out, "{PREFIX}_sessions{{state=\"{state}\"}} {count}");
    }
    single(&mut out, "taps", "gauge", "Taps connected now.", vms.len() as u64);
    let counts = [
        ("sessions_total", "Sessions that began.", &hub.counts.sessions),
        (
            "sessions_replaced_total",
            "Sessions that a newer one of the same stream replaced.",
            &hub.counts.replaced,
        ),
        ("binds_total", "Binds that found their session.", &hub.counts.binds),
        ("binds_refused_total", "Binds with a wrong or used nonce.", &hub.counts.binds_refused),
    ];
    for (name, help, value) in counts {
        single(&mut out, name, "counter", help, value.load(Ordering::Relaxed));
    }
    for count in Count::ALL {
        single(
            &mut out,
            &format!("{}_total", count.label()),
            "counter",
            count.help(),
            hub.totals.count(count),
        );
    }
    head(&mut out, "stage_seconds", "summary", "How long a picture is in each stage, of all sessions.");
    for time in Time::ALL {
        quantiles(
            &mut out,
            "stage_seconds",
            &format!("stage=\"{}\"", time.label()),
            hub.totals.time(time),
            1e-6,
        );
    }
    let stats: Vec<_> = vms.iter().map(|vm| vm.stats()).collect();
    taps(&mut out, &stats);
    out
}

/// Sums over the taps: VMs come and go, so that none is a label. Their quantiles don't add up; the worst
/// of each is told.
fn taps(out: &mut String, stats: &[Stats]) {
    head(out, "tap_answers", "gauge", "Answers of the connected taps, by status.");
    for (at, status) in mailbox::Status::ALL.iter().enumerate() {
        let sum: u64 = stats.iter().map(|stats| stats.answers[at]).sum();
        line!(out, "{PREFIX}_tap_answers{{status=\"{}\"}} {sum}", status.label());
    }
    let sums = [
        (
            "tap_request_bytes",
            "Bytes of requests that came over mailboxes.",
            stats.iter().map(|s| s.request_bytes).sum(),
        ),
        (
            "tap_picture_bytes",
            "Bytes of pictures that taps read.",
            stats.iter().map(|s| s.picture_bytes).sum(),
        ),
        ("tap_faults", "Panics that taps caught.", stats.iter().map(|s| s.faults).sum()),
        (
            "taps_disabled",
            "Taps that switched themselves off.",
            stats.iter().map(|s| u64::from(s.disabled)).sum(),
        ),
    ];
    for (name, help, value) in sums {
        single(out, name, "gauge", help, value);
    }
    head(out, "tap_seconds", "gauge", "The slowest tap's time on its VMM's thread per frame.");
    let worst = |pick: fn(&Stats) -> protocol::link::Quantiles| {
        stats.iter().map(pick).fold(Quantiles::default(), |worst, q| Quantiles {
            count: worst.count + q.count,
            p50: worst.p50.max(q.p50),
            p99: worst.p99.max(q.p99),
            max: worst.max.max(q.max),
        })
    };
    quantiles(out, "tap_seconds", "part=\"entry\"", worst(|stats| stats.entry), 1e-9);
    quantiles(out, "tap_seconds", "part=\"read\"", worst(|stats| stats.read), 1e-9);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_of_the_format_and_every_family_has_a_head() {
        let text = render(&Hub::new(1, 1));
        for line in text.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                assert!(comment.starts_with("HELP ") || comment.starts_with("TYPE "), "{line}");
                continue;
            }
            let (name, value) = line.rsplit_once(' ').expect(line);
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let family = name.split('{').next().expect(line).trim_end_matches("_count");
            assert!(text.contains(&format!("# TYPE {family} ")), "{line} has no head");
        }
    }
}
