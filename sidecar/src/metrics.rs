//! Prometheus metrics of the stream, made from its status on each scrape.
//!
//! A sidecar serves one stream, so metrics carry no stream label. Labels have the values of enumerations only.

use std::fmt;

use contract::names::metrics::{FPS, FRAME_PATH, FRAMES_TOTAL};
use contract::{FramePath, SidecarStatus};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// Registers the metrics of the stream whose status `status` returns.
pub fn register(registry: &mut Registry, status: impl Fn() -> SidecarStatus + Send + Sync + 'static) {
    registry.register_collector(Box::new(StatusCollector(status)));
}

struct StatusCollector<F>(F);

impl<F> fmt::Debug for StatusCollector<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StatusCollector").finish()
    }
}

impl<F: Fn() -> SidecarStatus + Send + Sync + 'static> Collector for StatusCollector<F> {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let status = (self.0)();
        let frames = &status.frames;
        counters(
            &mut encoder,
            FRAMES_TOTAL,
            "Frames by result",
            "result",
            &[
                ("captured", frames.captured),
                ("encoded", frames.encoded),
                ("dropped", frames.dropped),
                ("repeated", frames.repeated),
                ("refused", frames.refused),
            ],
        )?;
        let drops = frames.drops;
        counters(
            &mut encoder,
            "desktopstream_frames_dropped_total",
            "Dropped frames by place",
            "place",
            &[
                ("capture", drops.capture),
                ("host_agent", drops.host_agent),
                ("local_encoder", drops.local_encoder),
                ("expired", drops.expired),
                ("interrupted", drops.interrupted),
                ("unreadable", drops.unreadable),
            ],
        )?;
        let in_use =
            FramePath::ALL.map(|path| (path.name(), f64::from(u8::from(status.frame_path == Some(path)))));
        gauges(&mut encoder, FRAME_PATH, "1 for the frame path in use, else 0", "path", &in_use)?;
        gauges(
            &mut encoder,
            "desktopstream_latency_seconds",
            "Time from capture to access unit since start",
            "quantile",
            &[
                ("0.5", status.latency_ms.p50 / 1e3),
                ("0.95", status.latency_ms.p95 / 1e3),
                ("0.99", status.latency_ms.p99 / 1e3),
            ],
        )?;
        let fps = encoder.encode_descriptor(
            FPS,
            "Access units per second over the last two seconds",
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(status.fps).encode(fps)?;
        let bytes = encoder.encode_descriptor(
            base_name("desktopstream_bytes_to_host_total"),
            "Bytes sent to the host: mailbox requests and stream connection",
            None,
            MetricType::Counter,
        )?;
        ConstCounter::new(status.bytes_to_host).encode(bytes)
    }
}

/// Name of a counter without `_total`, which the encoder appends.
fn base_name(counter: &str) -> &str {
    counter.strip_suffix("_total").unwrap_or(counter)
}

fn counters(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    label: &str,
    samples: &[(&str, u64)],
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(base_name(name), help, None, MetricType::Counter)?;
    samples
        .iter()
        .try_for_each(|(value, count)| sample(&mut family, label, value, &ConstCounter::new(*count)))
}

fn gauges(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    label: &str,
    samples: &[(&str, f64)],
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    samples.iter().try_for_each(|(value, level)| sample(&mut family, label, value, &ConstGauge::new(*level)))
}

fn sample(family: &mut MetricEncoder, label: &str, value: &str, metric: &impl EncodeMetric) -> fmt::Result {
    metric.encode(family.encode_family(&[(label, value)])?)
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::prometheus_text;

    use super::*;

    #[test]
    fn metrics_have_the_names_of_the_contract_and_one_type_each() {
        let mut status =
            SidecarStatus { frame_path: Some(FramePath::Pixels), fps: 59.5, ..SidecarStatus::default() };
        status.frames.captured = 7;
        status.frames.drops.interrupted = 3;
        status.bytes_to_host = 640;
        let mut registry = Registry::default();
        register(&mut registry, move || status.clone());
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry).expect("written");
        for line in [
            "# TYPE desktopstream_frames_total counter",
            "desktopstream_frames_total{result=\"captured\"} 7",
            "desktopstream_frames_dropped_total{place=\"interrupted\"} 3",
            "# TYPE desktopstream_frame_path gauge",
            "desktopstream_frame_path{path=\"ResourceId\"} 0.0",
            "desktopstream_frame_path{path=\"Pixels\"} 1.0",
            "desktopstream_latency_seconds{quantile=\"0.99\"} 0.0",
            "desktopstream_fps 59.5",
            "desktopstream_bytes_to_host_total 640",
        ] {
            assert!(text.lines().any(|written| written == line), "{line} is not in\n{text}");
        }
    }
}
