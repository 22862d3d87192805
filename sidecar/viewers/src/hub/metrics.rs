//! Prometheus metrics of a hub.

use std::fmt;

use contract::names::metrics::VIEWERS;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric, LabelValueEncoder,
};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use super::Hub;

/// Protocol of a viewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// WebSocket, used by the page.
    WebSocket,
    /// Annex B over HTTP.
    AnnexB,
    /// Fragmented MP4 over HTTP.
    Mp4,
}

impl Protocol {
    const ALL: [Self; 3] = [Self::WebSocket, Self::AnnexB, Self::Mp4];
}

impl EncodeLabelValue for Protocol {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        let label = match self {
            Self::WebSocket => "websocket",
            Self::AnnexB => "h264",
            Self::Mp4 => "mp4",
        };
        EncodeLabelValue::encode(&label, encoder)
    }
}

/// Reason for rejecting a viewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rejection {
    /// The token is missing or wrong.
    Auth,
    /// The WebSocket was opened by another site's page.
    Origin,
    /// The maximum number of viewers is connected.
    Full,
}

impl Rejection {
    const ALL: [Self; 3] = [Self::Auth, Self::Origin, Self::Full];
}

impl EncodeLabelValue for Rejection {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        let label = match self {
            Self::Auth => "auth",
            Self::Origin => "origin",
            Self::Full => "full",
        };
        EncodeLabelValue::encode(&label, encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProtocolLabels {
    protocol: Protocol,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RejectionLabels {
    reason: Rejection,
}

/// Metrics since the hub's creation.
#[derive(Debug)]
pub struct Metrics {
    /// Access units published.
    pub units_published: Counter,
    /// IDRs published.
    pub keyframes_published: Counter,
    /// Bytes published.
    pub bytes_published: Counter,
    /// Access units taken by viewers, summed over viewers.
    pub units_sent: Counter,
    /// Bytes taken by viewers, summed over viewers.
    pub bytes_sent: Counter,
    /// Access units not delivered to slow viewers, summed over viewers.
    pub units_dropped: Counter,
    /// Access units published before any IDR.
    pub units_unusable: Counter,
    /// Keyframe requests passed to the encoder.
    pub keyframe_requests: Counter,
    /// Viewers disconnected because they read nothing.
    pub viewers_stalled: Counter,
    viewers: Family<ProtocolLabels, Gauge>,
    rejected: Family<RejectionLabels, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            units_published: Counter::default(),
            keyframes_published: Counter::default(),
            bytes_published: Counter::default(),
            units_sent: Counter::default(),
            bytes_sent: Counter::default(),
            units_dropped: Counter::default(),
            units_unusable: Counter::default(),
            keyframe_requests: Counter::default(),
            viewers_stalled: Counter::default(),
            viewers: Family::default(),
            rejected: Family::default(),
        };
        // Every label value is exported from the start, as 0.
        for protocol in Protocol::ALL {
            metrics.viewers(protocol);
        }
        for reason in Rejection::ALL {
            metrics.rejected(reason);
        }
        metrics
    }
}

impl Metrics {
    /// Connected viewers of a protocol.
    pub fn viewers(&self, protocol: Protocol) -> Gauge {
        self.viewers.get_or_create_owned(&ProtocolLabels { protocol })
    }

    /// Viewers rejected for a reason.
    pub fn rejected(&self, reason: Rejection) -> Counter {
        self.rejected.get_or_create_owned(&RejectionLabels { reason })
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(VIEWERS, "Connected viewers", self.viewers.clone());
        // The encoder appends `_total` to the names of counters.
        for (name, help, counter) in [
            ("viewer_units_published", "Access units from the encoder", &self.units_published),
            ("viewer_keyframes_published", "IDR access units from the encoder", &self.keyframes_published),
            ("viewer_bytes_published", "Bytes of access units from the encoder", &self.bytes_published),
            ("viewer_units_sent", "Access units sent, summed over viewers", &self.units_sent),
            ("viewer_bytes_sent", "Bytes of access units sent, summed over viewers", &self.bytes_sent),
            ("viewer_units_dropped", "Access units not sent to slow viewers", &self.units_dropped),
            ("viewer_units_unusable", "Access units published before any IDR", &self.units_unusable),
            ("viewer_keyframe_requests", "Keyframe requests passed to the encoder", &self.keyframe_requests),
            ("viewers_stalled", "Viewers disconnected because they read nothing", &self.viewers_stalled),
        ] {
            registry.register(format!("desktopstream_{name}"), help, counter.clone());
        }
        registry.register(
            "desktopstream_viewers_refused",
            "Viewers rejected, by reason",
            self.rejected.clone(),
        );
    }
}

/// Exports the size of a hub's GOP cache.
#[derive(Debug)]
pub(super) struct GopCollector(pub(super) Hub);

impl Collector for GopCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (units, bytes) = {
            let state = self.0.0.state.lock();
            (state.gop.units().len(), state.gop.bytes())
        };
        for (name, help, value) in [
            ("desktopstream_viewer_gop_units", "Access units in the GOP cache", units),
            ("desktopstream_viewer_gop_bytes", "Size of the GOP cache in bytes", bytes),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
