//! The demo's report.

use std::time::Duration;

use contract::quantiles::MillisecondQuantiles;
use contract::sidecar_status::CaptureState;
use contract::{FramePath, SidecarStatus};
use serde::Serialize;

/// JSON of `./x demo --json FILE`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Frame path at the end.
    pub frame_path: Option<FramePath>,
    /// Reason why a better frame path is not in use; empty on the best one.
    pub frame_path_reason: String,
    /// Encoder at the end.
    pub encoder: String,
    /// Capture source and negotiated format.
    pub capture: CaptureState,
    /// Picture width, pixels.
    pub width: u32,
    /// Picture height, pixels.
    pub height: u32,
    /// Frames during the measurement.
    pub frames: Frames,
    /// Duration of the measurement, seconds.
    pub seconds: f64,
    /// Encoded frames per second.
    pub fps: f64,
    /// Bytes sent to the host per encoded frame; 0 without frames.
    pub bytes_per_frame_to_host: f64,
    /// Time from capture to access unit.
    pub latency_ms: MillisecondQuantiles,
    /// Time of the tap on the VMM's thread.
    pub tap_ms: MillisecondQuantiles,
}

/// Frames during a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Frames {
    /// Frames received from the compositor.
    pub captured: u64,
    /// Access units of new frames.
    pub encoded: u64,
    /// Frames without an access unit.
    pub dropped: u64,
    /// Access units of an unchanged picture.
    pub repeated: u64,
}

impl Frames {
    /// Frames between two statuses. A counter that started again counts as 0.
    pub fn between(before: &SidecarStatus, after: &SidecarStatus) -> Self {
        let (before, after) = (&before.frames, &after.frames);
        Self {
            captured: after.captured.saturating_sub(before.captured),
            encoded: after.encoded.saturating_sub(before.encoded),
            dropped: after.dropped.saturating_sub(before.dropped),
            repeated: after.repeated.saturating_sub(before.repeated),
        }
    }
}

/// Bytes sent to the host between two statuses, per encoded frame; 0 without frames.
pub fn bytes_per_frame(before: &SidecarStatus, after: &SidecarStatus) -> f64 {
    let frames = Frames::between(before, after).encoded;
    let bytes = after.bytes_to_host.saturating_sub(before.bytes_to_host);
    if frames == 0 { 0.0 } else { bytes as f64 / frames as f64 }
}

impl Report {
    /// The report on the time between two statuses.
    pub fn between(before: &SidecarStatus, after: &SidecarStatus, time: Duration) -> Self {
        let frames = Frames::between(before, after);
        Self {
            frame_path: after.frame_path,
            frame_path_reason: after.frame_path_reason.clone(),
            encoder: after.encoder.clone(),
            capture: after.capture.clone(),
            width: after.width,
            height: after.height,
            frames,
            seconds: time.as_secs_f64(),
            fps: frames.encoded as f64 / time.as_secs_f64(),
            bytes_per_frame_to_host: bytes_per_frame(before, after),
            latency_ms: after.latency_ms,
            tap_ms: after.tap_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use contract::sidecar_status::FrameCounts;

    use super::*;

    #[test]
    fn counts_are_integers_and_the_frame_path_is_named() {
        let before = SidecarStatus::default();
        let after = SidecarStatus {
            frame_path: Some(FramePath::ResourceId),
            frames: FrameCounts { captured: 1170, encoded: 1160, ..FrameCounts::default() },
            bytes_to_host: 1160 * 64,
            ..SidecarStatus::default()
        };
        let report = Report::between(&before, &after, Duration::from_secs(10));
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!(json["frame_path"], "ResourceId");
        assert_eq!(json["frames"]["captured"].as_u64(), Some(1170));
        assert_eq!(json["frames"]["dropped"].as_u64(), Some(0));
        assert_eq!(
            (json["fps"].as_f64(), json["bytes_per_frame_to_host"].as_f64()),
            (Some(116.0), Some(64.0))
        );
    }

    #[test]
    fn counters_of_a_restarted_sidecar_do_not_underflow() {
        let before = SidecarStatus { bytes_to_host: 64, ..SidecarStatus::default() };
        let report = Report::between(&before, &SidecarStatus::default(), Duration::from_secs(1));
        assert_eq!((report.frames.encoded, report.bytes_per_frame_to_host), (0, 0.0));
    }
}
