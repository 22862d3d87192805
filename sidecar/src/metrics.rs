//! The report as Prometheus text. Labels have few values; there is one stream per sidecar.

use std::fmt::Write as _;

use frame_path::fallback::Rung;
use frame_path::report::Status;

/// Prometheus text exposition, version 0.0.4.
pub fn render(status: &Status) -> String {
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, help: &str, values: &[(&str, f64)]| {
        // Writing into a String does not fail.
        let _ = writeln!(out, "# HELP desktopstream_{name} {help}\n# TYPE desktopstream_{name} {kind}");
        for (label, value) in values {
            let _ = writeln!(out, "desktopstream_{name}{label} {value}");
        }
    };
    let frames = status.frames;
    family(
        "frames_total",
        "counter",
        "Frames by what became of them.",
        &[
            ("{result=\"captured\"}", frames.captured as f64),
            ("{result=\"encoded\"}", frames.encoded as f64),
            ("{result=\"dropped\"}", frames.dropped as f64),
            ("{result=\"repeated\"}", frames.repeated as f64),
            ("{result=\"refused\"}", frames.refused as f64),
        ],
    );
    let is = |rung| f64::from(u8::from(status.rung == Some(rung)));
    family(
        "rung",
        "gauge",
        "1 for the rung of the ladder in use.",
        &[
            ("{rung=\"ResourceId\"}", is(Rung::ResourceId)),
            ("{rung=\"Pixels\"}", is(Rung::Pixels)),
            ("{rung=\"Local\"}", is(Rung::Local)),
        ],
    );
    family(
        "latency_seconds",
        "gauge",
        "Capture to access unit, since start.",
        &[
            ("{quantile=\"0.5\"}", status.latency_ms.p50 / 1e3),
            ("{quantile=\"0.95\"}", status.latency_ms.p95 / 1e3),
            ("{quantile=\"0.99\"}", status.latency_ms.p99 / 1e3),
        ],
    );
    family("fps", "gauge", "Access units per second, over two seconds.", &[("", status.fps)]);
    family(
        "bytes_to_host_total",
        "counter",
        "Bytes that left for the host.",
        &[("", status.bytes_to_host as f64)],
    );
    out
}
