//! `/metrics` in the Prometheus text format. Labels have values of enumerations only, so that the number of
//! time series does not depend on the number of streams; `/status` has the individual sessions.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use contract::names::metrics::HOST_AGENT_PREFIX;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet,
    prometheus_text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use protocol::link::{Quantiles, Stats};
use protocol::mailbox;

use crate::hub::Hub;
use crate::meter::{Count, Time};

/// Upper bounds of the histogram of stages, microseconds: 50 µs to 1 s.
const STAGE_BOUNDS_US: [u64; 14] =
    [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 16_667, 33_333, 50_000, 100_000, 250_000, 1_000_000];

/// Encodes all metrics of a hub.
pub fn render(hub: &Arc<Hub>) -> String {
    let mut registry = Registry::with_prefix(HOST_AGENT_PREFIX);
    registry.register_collector(Box::new(HubCollector { hub: Arc::clone(hub) }));
    let mut text = String::new();
    // Writing to a String does not fail.
    let _infallible = prometheus_text::encode(&mut text, &registry);
    text
}

/// Reads a hub on each scrape.
#[derive(Debug)]
struct HubCollector {
    hub: Arc<Hub>,
}

impl Collector for HubCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let (sessions, vms) = self.hub.view();
        let bound = sessions.iter().filter(|view| view.binding.is_some()).count();
        let states = [("bound", bound), ("unbound", sessions.len() - bound)];
        gauges(
            &mut encoder,
            "sessions",
            "Sessions by binding",
            states.map(|(s, n)| ([("state", s)], n as u64)),
        )?;
        gauge(&mut encoder, "taps", "Connected taps", vms.len() as u64)?;
        let counts = &self.hub.counts;
        for (name, help, value) in [
            ("sessions", "Sessions started", &counts.sessions),
            ("sessions_replaced", "Sessions replaced by a newer one of their stream", &counts.replaced),
            ("binds", "Accepted binds", &counts.binds),
            ("binds_refused", "Binds refused for an unknown or used nonce", &counts.binds_refused),
            ("rings", "Rings made", &counts.rings),
            ("rings_refused", "Rings refused by a VM's memory budget or tap", &counts.rings_refused),
        ] {
            counter(&mut encoder, name, help, value.load(Ordering::Relaxed))?;
        }
        for count in Count::ALL {
            counter(&mut encoder, count.label(), count.help(), self.hub.totals.count(count))?;
        }
        self.encode_stages(&mut encoder)?;
        let stats: Vec<_> = vms.iter().map(|vm| vm.stats()).collect();
        encode_taps(&mut encoder, &stats)
    }
}

impl HubCollector {
    fn encode_stages(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let help = "Duration of a frame's stages";
        let mut family = encoder.encode_descriptor("stage_seconds", help, None, MetricType::Histogram)?;
        for stage in Time::ALL {
            let buckets = self.hub.totals.buckets(stage, &STAGE_BOUNDS_US);
            let bounds = STAGE_BOUNDS_US.iter().map(|us| *us as f64 / 1e6);
            let counts: Vec<_> = bounds.zip(buckets.counts).collect();
            let labels = [("stage", stage.label())];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_histogram::<NoLabelSet>(buckets.sum_us / 1e6, buckets.total, &counts, None)?;
        }
        Ok(())
    }
}

/// A counter; the encoder appends `_total` to its name.
fn counter(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: u64) -> fmt::Result {
    let metric = ConstCounter::new(value);
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

fn gauge(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: u64) -> fmt::Result {
    let metric = ConstGauge::new(value);
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

/// A family of gauges with different labels.
fn gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (L, V)>,
) -> fmt::Result {
    let mut family: MetricEncoder = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        family.encode_family(&labels)?.encode_gauge(&value)?;
    }
    Ok(())
}

/// Sums over the connected taps, and the worst of their quantiles. The number of VMs is not bounded, so
/// none is a label.
fn encode_taps(encoder: &mut DescriptorEncoder, stats: &[Stats]) -> fmt::Result {
    let sum = |field: fn(&Stats) -> u64| stats.iter().map(field).sum::<u64>();
    let answers = mailbox::Status::ALL.iter().enumerate().map(|(at, status)| {
        let total: u64 = stats.iter().map(|stats| stats.answers[at]).sum();
        ([("status", status.label())], total)
    });
    gauges(encoder, "tap_answers", "Mailbox answers of the connected taps", answers)?;
    gauge(encoder, "tap_request_bytes", "Bytes of mailbox requests", sum(|stats| stats.request_bytes))?;
    gauge(encoder, "tap_picture_bytes", "Bytes of pixels read by taps", sum(|stats| stats.picture_bytes))?;
    gauge(encoder, "tap_faults", "Panics caught by taps", sum(|stats| stats.faults))?;
    gauge(encoder, "taps_disabled", "Taps that disabled themselves", sum(|stats| stats.disabled.into()))?;
    let parts = [("entry", worst(stats, |stats| stats.entry)), ("read", worst(stats, |stats| stats.read))];
    let seconds = parts.iter().flat_map(|(part, worst)| {
        [("0.5", worst.p50), ("0.99", worst.p99), ("1", worst.max)]
            .map(|(quantile, ns)| ([("part", *part), ("quantile", quantile)], ns as f64 / 1e9))
    });
    gauges(encoder, "tap_seconds", "Time on the VMM's thread per frame, of the slowest tap", seconds)?;
    let samples = parts.iter().map(|(part, worst)| ([("part", *part)], worst.count));
    gauges(encoder, "tap_samples", "Number of frames behind tap_seconds", samples)
}

/// The greatest of each quantile, and the sum of the counts.
fn worst(stats: &[Stats], field: fn(&Stats) -> Quantiles) -> Quantiles {
    stats.iter().map(field).fold(Quantiles::default(), |worst, q| Quantiles {
        count: worst.count + q.count,
        p50: worst.p50.max(q.p50),
        p99: worst.p99.max(q.p99),
        max: worst.max.max(q.max),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_belongs_to_a_described_family() {
        let text = render(&Arc::new(Hub::new(1, 1)));
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        for line in samples.clone() {
            let (name, value) = line.rsplit_once(' ').expect(line);
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let name = name.split('{').next().expect(line);
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
            let described = |name: &str| {
                text.contains(&format!("# TYPE {name} ")) && text.contains(&format!("# HELP {name} "))
            };
            assert!(described(name) || family.is_some_and(described), "{line}");
        }
        assert!(samples.count() > 60, "{text}");
        assert!(text.contains("\ndesktopstream_host_agent_binds_refused_total 0\n"), "{text}");
    }

    #[test]
    fn durations_are_encoded_as_a_histogram_in_seconds() {
        let hub = Arc::new(Hub::new(1, 1));
        let meter = crate::meter::Meter::new(Arc::clone(&hub.totals));
        for us in [80, 80, 2_000_000] {
            meter.record(Time::Queue, us);
        }
        let text = render(&hub);
        let name = "desktopstream_host_agent_stage_seconds";
        for expected in [
            format!("# TYPE {name} histogram"),
            format!("{name}_bucket{{stage=\"queue\",le=\"0.0001\"}} 2"),
            format!("{name}_bucket{{stage=\"queue\",le=\"1\"}} 2"),
            format!("{name}_bucket{{stage=\"queue\",le=\"+Inf\"}} 3"),
            format!("{name}_count{{stage=\"queue\"}} 3"),
        ] {
            assert!(text.lines().any(|line| line == expected), "{expected} in {text}");
        }
    }

    #[test]
    fn quantiles_of_several_taps_are_the_worst_ones() {
        let stats =
            |p50, count| Stats { entry: Quantiles { count, p50, p99: 9, max: 9 }, ..Stats::default() };
        let worst = worst(&[stats(3, 1), stats(5, 2)], |stats| stats.entry);
        assert_eq!((worst.p50, worst.count), (5, 3));
    }
}
