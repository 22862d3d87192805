//! One frame by resource ID to the host-agent's encoder and back.

use std::time::{Duration, Instant};

use ::capture::{Capture, Frame, FrameBuffer};
use bytes::Bytes;
use contract::doctor::{Check, checks};
use protocol::mailbox::{FrameRequest, Operation, Status};
use protocol::stream::{ClientMessage, Codec, Config, Path, ServerMessage};
use viewers::snapshot::{self, SnapshotError};
use virtgpu::Mailbox;

use super::gpu::{TAP_TIMEOUT, refusal};
use super::host_agent::{ANSWER_TIMEOUT, Session};

/// Delay between requests while the tap does not have the session's ring yet.
const RING_POLL: Duration = Duration::from_millis(20);

/// Has the tap read `captured`, the host-agent encode it, and decodes the result.
pub fn by_resource_id(
    captured: Option<&(Capture, Frame)>,
    mailbox: Option<&mut Mailbox>,
    session: Option<&Session>,
    report: &mut Vec<Check>,
) {
    let (Some((_, frame)), Some(mailbox), Some(session)) = (captured, mailbox, session) else {
        return skip(report, "needs a frame and the binding");
    };
    let FrameBuffer::Gpu(buffer) = &frame.buffer else {
        return skip(report, "the frame is shared memory");
    };
    let pixels = u64::from(frame.width) * u64::from(frame.height);
    if pixels > u64::from(session.max_pixels()) {
        let detail =
            format!("the picture has {pixels} pixels, the host-agent accepts {}", session.max_pixels());
        report.push(Check::failed(checks::READ, detail, "raise host-agent serve --max-pixels"));
        report.push(Check::skipped(checks::ENCODE, "needs a picture"));
        return;
    }
    let config = Config {
        width: frame.width as u16,
        height: frame.height as u16,
        format: frame.format,
        max_fps: 30,
        bitrate_kbps: 4000,
        keyframe_ms: 0,
        codec: Codec::H264,
        path: Path::ResourceId,
    };
    session.upstream.send(ClientMessage::Configure(config));
    let encoder = session.wait(|message| match message {
        ServerMessage::Configured { encoder } => Some(encoder),
        _ => None,
    });
    let request = FrameRequest {
        resource: buffer.resource_id(),
        format: frame.format,
        width: config.width,
        height: config.height,
        stride: buffer.stride(),
        damage: frame.damage,
        capture_ns: frame.capture_ns,
    };
    // The tap receives the ring shortly after `Configured`.
    let end = Instant::now() + ANSWER_TIMEOUT;
    let answer = loop {
        match mailbox.call(Operation::Frame(request), TAP_TIMEOUT) {
            Ok(answer)
                if matches!(answer.status, Status::NotBound | Status::TooLarge) && Instant::now() < end =>
            {
                std::thread::sleep(RING_POLL);
            }
            other => break other,
        }
    };
    match answer {
        Ok(answer) if answer.status == Status::Ok => {
            let ms = f64::from(answer.spent_ns) / 1e6;
            report
                .push(Check::ok(checks::READ, format!("read by the tap in {ms:.2} ms on the VMM's thread")));
        }
        Ok(answer) => return report.push(refusal(checks::READ, answer.status)),
        Err(error) => {
            return report.push(Check::failed(checks::READ, error.to_string(), "see the VMM's log"));
        }
    }
    let unit = session.wait(|message| match message {
        ServerMessage::AccessUnit(unit) => Some(unit),
        _ => None,
    });
    match (encoder, unit) {
        (Ok(encoder), Ok(unit)) => {
            let codec = ::encode::codec_string(&unit.data).unwrap_or_else(|| "no parameter sets".into());
            let detail = format!("{encoder}: {} bytes, {codec}, {} us", unit.data.len(), unit.encode_us);
            report.push(Check::ok(checks::ENCODE, detail));
            report.push(decode(unit.data));
        }
        (Err(error), _) | (_, Err(error)) => {
            let remedy = "run host-agent doctor to see which encoders work on that host";
            report.push(Check::failed(checks::ENCODE, error.to_string(), remedy));
        }
    }
    session.upstream.send(ClientMessage::Bye);
}

fn skip(report: &mut Vec<Check>, reason: &str) {
    report.push(Check::skipped(checks::READ, reason));
    report.push(Check::skipped(checks::ENCODE, "needs a picture"));
}

/// Decodes the access unit, as a viewer does.
fn decode(unit: Bytes) -> Check {
    let start = Instant::now();
    match snapshot::last_picture_as_png(&[unit]) {
        Ok(_) => Check::ok(checks::DECODE, format!("decoded in {:.1?}", start.elapsed())),
        Err(error @ SnapshotError::NoDecoder) => Check::skipped(checks::DECODE, error.to_string()),
        Err(error) => Check::failed(
            checks::DECODE,
            error.to_string(),
            "try another encoder: host-agent serve --encoder",
        ),
    }
}
