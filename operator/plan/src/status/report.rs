//! What a sidecar says at `/status`: the part of it that the operator reads. Unknown fields are passed over,
//! missing ones are empty: sidecars may be older or newer than we are.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

use operator_api::{Rung, Stats};

/// The report.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The rung in use.
    pub rung: Option<Rung>,
    /// Why no better one.
    pub rung_reason: String,
    /// Picture width.
    pub width: u32,
    /// Picture height.
    pub height: u32,
    /// Capture.
    pub capture: Capture,
    /// Whether it has a render node; older sidecars don't say.
    pub render_node: Option<bool>,
    /// What the host-agent's connection is up to, in words.
    pub host_agent: String,
    /// The endpoint of a host-agent that does not have this VM; empty while nothing speaks for that.
    pub unconfirmed_by: String,
    /// Frames since the sidecar's start.
    pub frames: Frames,
    /// Frames per second.
    pub fps: f64,
    /// kbit/s.
    pub bitrate_kbps: f64,
    /// Bytes per frame to the host.
    pub bytes_per_frame_to_host: f64,
    /// Capture to access unit.
    pub latency_ms: Latency,
    /// Viewers.
    pub viewers: u32,
}

/// Its capture part.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Capture {
    /// What was negotiated.
    pub taken: String,
    /// What is wrong.
    pub error: String,
}

/// Its frames.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Frames {
    /// From the compositor.
    pub captured: u64,
    /// To viewers.
    pub encoded: u64,
}

/// Its latencies, ms.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Latency {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
}

/// The sidecar's connection to its host-agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection<'r> {
    /// It stands, or nothing was said.
    Fine,
    /// The token has expired.
    Expired(&'r str),
    /// The host-agent says no.
    Refused(&'r str),
    /// Nobody answers.
    Broken(&'r str),
}

impl Report {
    /// The connection, from its words.
    pub fn connection(&self) -> Connection<'_> {
        let text = self.host_agent.as_str();
        let has = |part: &str| text.contains(part);
        if text.is_empty() || text.starts_with("connected") || text == "not configured" {
            Connection::Fine
        } else if has("token has expired") {
            Connection::Expired(text)
        } else if has("refuses") {
            Connection::Refused(text)
        } else {
            Connection::Broken(text)
        }
    }

    /// For the status: rounded, so that a steady stream has a steady status.
    pub fn stats(&self, now: Timestamp) -> Stats {
        Stats {
            fps: round(self.fps),
            bitrate: two_digits(self.bitrate_kbps),
            latency_p50_ms: round(self.latency_ms.p50),
            latency_p99_ms: two_digits(self.latency_ms.p99),
            bytes_per_frame_to_host: u64::from(two_digits(self.bytes_per_frame_to_host)),
            viewers: self.viewers,
            at: Some(Time(now)),
        }
    }
}

fn round(number: f64) -> u32 {
    // `as` saturates, and makes 0 of what is no number.
    number.round() as u32
}

/// To two digits: 5432 is 5400.
fn two_digits(number: f64) -> u32 {
    let number = round(number);
    let mut unit = 1;
    while number / unit >= 100 {
        unit *= 10;
    }
    (number + unit / 2) / unit * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sidecars_words_are_understood() {
        let says = |text: &str| Report { host_agent: text.to_owned(), ..Report::default() };
        assert_eq!(says("connected to host-agent 0.1").connection(), Connection::Fine);
        for (text, expired) in [
            (
                "the host-agent refuses: the token has expired; the sidecar must read its token file again",
                true,
            ),
            ("the host-agent refuses: no public key here verifies the token; give", false),
        ] {
            let report = says(text);
            assert_eq!(matches!(report.connection(), Connection::Expired(_)), expired);
            assert_eq!(matches!(report.connection(), Connection::Refused(_)), !expired);
        }
        assert!(matches!(says("the host-agent closed the connection").connection(), Connection::Broken(_)));
    }

    #[test]
    fn numbers_are_rounded_and_nonsense_is_zero() {
        assert_eq!(two_digits(5432.1), 5400);
        assert_eq!(two_digits(99.6), 100);
        assert_eq!(two_digits(f64::NAN), 0);
        assert_eq!(round(-3.0), 0);
        let report: Report =
            serde_json::from_str(r#"{"rung":"Pixels","fps":29.7,"new":[1]}"#).expect("reads");
        assert_eq!((report.rung, report.stats(Timestamp::UNIX_EPOCH).fps), (Some(Rung::Pixels), 30));
    }
}
