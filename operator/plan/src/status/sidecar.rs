//! The part of a status that is copied from the sidecar's.

use contract::SidecarStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use operator_api::{CaptureStatus, Stats};

/// Frame path and format.
pub(super) fn capture(report: &SidecarStatus) -> CaptureStatus {
    let has_size = report.width > 0;
    CaptureStatus {
        frame_path: report.frame_path,
        reason: report.frame_path_reason.clone(),
        format: report.capture.negotiated.clone(),
        width: has_size.then_some(report.width),
        height: has_size.then_some(report.height),
    }
}

/// Statistics, rounded so that a steady stream has a steady status.
pub(super) fn stats(report: &SidecarStatus, now: Timestamp) -> Stats {
    Stats {
        fps: round(report.fps),
        bitrate_kbps: two_digits(report.bitrate_kbps),
        latency_p50_ms: round(report.latency_ms.p50),
        latency_p99_ms: two_digits(report.latency_ms.p99),
        bytes_per_frame_to_host: u64::from(two_digits(report.bytes_per_frame_to_host)),
        viewers: report.viewers,
        at: Some(Time(now)),
    }
}

/// Rounds to an int32 that is not negative. NaN gives 0.
fn round(number: f64) -> u32 {
    number.round().clamp(0.0, f64::from(i32::MAX)) as u32
}

/// Rounds to two significant digits: 5432 to 5400.
fn two_digits(number: f64) -> u32 {
    let number = round(number);
    let mut unit = 1;
    while number / unit >= 100 {
        unit *= 10;
    }
    ((number + unit / 2) / unit * unit).min(i32::MAX as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_keeps_two_digits_and_the_range_of_int32() {
        assert_eq!(two_digits(5432.1), 5400);
        assert_eq!(two_digits(99.6), 100);
        assert_eq!(two_digits(f64::NAN), 0);
        assert_eq!(two_digits(f64::INFINITY), 2_100_000_000);
        assert_eq!(round(-3.0), 0);
        assert_eq!(round(1e300), i32::MAX as u32);
    }

    #[test]
    fn stats_of_a_newer_sidecar_are_read() {
        let report: SidecarStatus =
            serde_json::from_str(r#"{"frame_path":"Pixels","fps":29.7,"new":[1]}"#).expect("reads");
        assert_eq!(stats(&report, Timestamp::UNIX_EPOCH).fps, 30);
        assert_eq!(capture(&report).width, None);
    }
}
