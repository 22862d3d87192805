//! What the viewers' side counts, and its Prometheus text.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// How a viewer is served; also its metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// WebSocket, for the page.
    WebSocket,
    /// Annex B over HTTP.
    AnnexB,
    /// Fragmented MP4 over HTTP.
    Mp4,
    /// A recording.
    Recording,
}

impl Protocol {
    /// All of them, in the order of the counters.
    pub const ALL: [Self; 4] = [Self::WebSocket, Self::AnnexB, Self::Mp4, Self::Recording];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::AnnexB => "h264",
            Self::Mp4 => "mp4",
            Self::Recording => "recording",
        }
    }
}

/// Why someone was sent away; also a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No or wrong token.
    Auth,
    /// WebSocket from another site.
    Origin,
    /// All places are taken.
    Full,
}

impl Refusal {
    const ALL: [Self; 3] = [Self::Auth, Self::Origin, Self::Full];

    fn label(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Origin => "origin",
            Self::Full => "full",
        }
    }
}

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Access units published.
    pub units: AtomicU64,
    /// IDRs among them.
    pub idrs: AtomicU64,
    /// Their bytes.
    pub bytes: AtomicU64,
    /// Units taken by viewers, summed over viewers.
    pub sent_units: AtomicU64,
    /// Their bytes.
    pub sent_bytes: AtomicU64,
    /// Units that viewers did not get because they were too slow, summed over viewers.
    pub dropped: AtomicU64,
    /// Units that no viewer could use: no IDR had come before them.
    pub unusable: AtomicU64,
    /// Wishes for a keyframe that were passed on.
    pub keyframe_requests: AtomicU64,
    /// Viewers given up because they took nothing.
    pub stalled: AtomicU64,
    viewers: [AtomicU64; Protocol::ALL.len()],
    refused: [AtomicU64; Refusal::ALL.len()],
}

impl Counters {
    /// Adds to a counter.
    pub(super) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn joined(&self, protocol: Protocol) {
        self.viewers[protocol as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn left(&self, protocol: Protocol) {
        self.viewers[protocol as usize].fetch_sub(1, Ordering::Relaxed);
    }

    /// Viewers connected now by `protocol`.
    pub fn viewers(&self, protocol: Protocol) -> u64 {
        self.viewers[protocol as usize].load(Ordering::Relaxed)
    }

    /// Counts someone sent away.
    pub fn refuse(&self, refusal: Refusal) {
        Self::add(&self.refused[refusal as usize], 1);
    }

    /// Appends the Prometheus text.
    pub(super) fn write(&self, out: &mut String) {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        header(out, "viewers", "gauge", "Viewers connected now.");
        for protocol in Protocol::ALL {
            line(out, "viewers", &format!("{{protocol=\"{}\"}}", protocol.label()), self.viewers(protocol));
        }
        for (name, help, value) in [
            ("viewer_units_published_total", "Access units from the encoder.", &self.units),
            ("viewer_keyframes_published_total", "IDRs among them.", &self.idrs),
            ("viewer_bytes_published_total", "Bytes of access units from the encoder.", &self.bytes),
            (
                "viewer_units_sent_total",
                "Access units given to viewers, summed over viewers.",
                &self.sent_units,
            ),
            ("viewer_bytes_sent_total", "Bytes given to viewers, summed over viewers.", &self.sent_bytes),
            ("viewer_units_dropped_total", "Access units that slow viewers did not get.", &self.dropped),
            ("viewer_units_unusable_total", "Access units before any IDR.", &self.unusable),
            (
                "viewer_keyframe_requests_total",
                "Keyframes asked for on behalf of viewers.",
                &self.keyframe_requests,
            ),
            ("viewers_stalled_total", "Viewers given up because they took nothing.", &self.stalled),
        ] {
            header(out, name, "counter", help);
            line(out, name, "", get(value));
        }
        header(out, "viewers_refused_total", "counter", "Viewers sent away, by reason.");
        for refusal in Refusal::ALL {
            let labels = format!("{{reason=\"{}\"}}", refusal.label());
            line(out, "viewers_refused_total", &labels, get(&self.refused[refusal as usize]));
        }
    }
}

pub(super) fn header(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String can't fail.
    let _ = write!(out, "# HELP desktopstream_{name} {help}\n# TYPE desktopstream_{name} {kind}\n");
}

pub(super) fn line(out: &mut String, name: &str, labels: &str, value: u64) {
    let _ = writeln!(out, "desktopstream_{name}{labels} {value}");
}
