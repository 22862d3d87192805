//! Differences between answers of a sidecar that concern its stream.

use contract::SidecarStatus;
use contract::quantiles::MillisecondQuantiles;
use contract::sidecar_status::FrameCounts;

use super::Answer;

/// True if the stream's status or life can depend on the difference between two answers. Differences of mere statistics are
/// not news: the status repeats them at intervals.
pub fn is_news(old: Option<&Answer>, new: &Answer) -> bool {
    match (old, new) {
        (Some(Ok(old)), Ok(new)) => lasting(old) != lasting(new),
        (Some(Err(old)), Err(new)) => old != new,
        _ => true,
    }
}

/// The part of a status that does not change while a stream is steady. Fields of later versions count as lasting.
fn lasting(status: &SidecarStatus) -> SidecarStatus {
    let frames = FrameCounts {
        captured: status.frames.captured.min(1),
        encoded: status.frames.encoded.min(1),
        ..FrameCounts::default()
    };
    SidecarStatus {
        frames,
        fps: 0.0,
        bitrate_kbps: 0.0,
        bytes_to_host: 0,
        bytes_per_frame_to_host: 0.0,
        latency_ms: MillisecondQuantiles::default(),
        tap_ms: MillisecondQuantiles::default(),
        viewers: status.viewers.min(1),
        uptime_seconds: 0.0,
        last_frame_ms: None,
        ..status.clone()
    }
}

#[cfg(test)]
mod tests {
    use contract::{FramePath, HostAgentConnection};
    use operator_sidecar_client::RequestError;

    use super::*;

    fn streaming() -> SidecarStatus {
        SidecarStatus {
            frame_path: Some(FramePath::Local),
            frames: FrameCounts { captured: 9, encoded: 9, ..FrameCounts::default() },
            viewers: 1,
            fps: 30.0,
            ..SidecarStatus::default()
        }
    }

    fn is_news_after_streaming(new: SidecarStatus) -> bool {
        is_news(Some(&Ok(streaming())), &Ok(new))
    }

    #[test]
    fn statistics_of_a_steady_stream_are_no_news() {
        let frames = FrameCounts { captured: 99, encoded: 98, dropped: 1, ..FrameCounts::default() };
        let later = SidecarStatus {
            frames,
            viewers: 3,
            fps: 29.5,
            bytes_to_host: 7,
            uptime_seconds: 60.0,
            last_frame_ms: Some(3),
            ..streaming()
        };
        assert!(!is_news_after_streaming(later));
    }

    #[test]
    fn changes_that_the_status_or_the_idle_timeout_depend_on_are_news() {
        for (change, new) in [
            ("no viewer", SidecarStatus { viewers: 0, ..streaming() }),
            ("restarted", SidecarStatus { frames: FrameCounts::default(), ..streaming() }),
            ("frame path", SidecarStatus { frame_path: Some(FramePath::Pixels), ..streaming() }),
            ("device", SidecarStatus { render_node: Some(false), ..streaming() }),
            ("host-agent", SidecarStatus { host_agent: HostAgentConnection::Connecting, ..streaming() }),
        ] {
            assert!(is_news_after_streaming(new), "{change}");
        }
    }

    #[test]
    fn first_answer_and_another_error_are_news() {
        let error = |text: &str| Err(RequestError::Connection(text.to_owned()));
        assert!(is_news(None, &Ok(streaming())));
        assert!(is_news(None, &error("refused")));
        assert!(is_news(Some(&Ok(streaming())), &error("refused")));
        assert!(is_news(Some(&error("refused")), &error("reset")));
        assert!(!is_news(Some(&error("refused")), &error("refused")));
    }
}
