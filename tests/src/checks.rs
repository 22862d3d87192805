//! Assertions that hold for every stream: few bytes per frame to the host, whole pictures in order.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use contract::FramePath;
use serde_json::Value;

use crate::rig::Stream;
use crate::video::{self, Decoder};
use crate::wait;

/// Maximum bytes from guest to host per frame (DESIGN.md, "Performance goals").
const MAX_BYTES_PER_FRAME: f64 = 128.0;

/// 30 frames travel by resource ID for at most [`MAX_BYTES_PER_FRAME`] each.
///
/// # Errors
/// Names the violation.
pub fn frames_cost_few_bytes(stream: &Stream) -> Result<()> {
    let before = stream.wait_for_frame_path(FramePath::ResourceId)?;
    let frames = before.frames.encoded + 30;
    let after = wait::until("30 more frames", Duration::from_secs(60), || {
        let status = stream.status()?;
        ensure!(status.frames.encoded >= frames, "{status:?}");
        Ok(status)
    })?;
    let encoded = after.frames.encoded - before.frames.encoded;
    let bytes = (after.bytes_to_host - before.bytes_to_host) as f64 / encoded as f64;
    println!("{}: {bytes:.1} bytes a frame, {}", stream.name, after.capture.negotiated);
    ensure!(bytes <= MAX_BYTES_PER_FRAME, "{bytes} bytes a frame: {after:?}");
    ensure!(after.frame_path == Some(FramePath::ResourceId), "{after:?}");
    Ok(())
}

/// The pattern's frame numbers, decoded by two decoders: none torn, none lower than its predecessor.
///
/// # Errors
/// Names the violation.
pub fn numbers_are_right(stream: &Stream) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("live.h264");
    std::fs::write(&file, video::take(stream, "/stream.h264", Duration::from_secs(6))?)?;
    for decoder in [Decoder::Ffmpeg, Decoder::GStreamer] {
        let numbers = video::numbers(&file, stream.options.size, decoder)?;
        let wrong = video::wrong(&numbers);
        let distinct = video::distinct(&numbers);
        println!("{decoder:?}: {} pictures, {distinct} different numbers", numbers.len());
        ensure!(wrong.is_empty(), "{decoder:?}: {wrong:?}");
        ensure!(distinct > 30, "{decoder:?}: only {distinct} different pictures in 6 s");
    }
    Ok(())
}

/// The report of `tests/fixtures/attacker` contains refusals only, apart from the attacker's own buffer, which it can read.
///
/// # Errors
/// Names the violation.
pub fn only_refusals(report: &Value) -> Result<()> {
    let only = |section: &str, allowed: &[&str]| -> Result<()> {
        let answers = report[section].as_object().with_context(|| section.to_owned())?;
        ensure!(!answers.is_empty(), "{section}: no answers");
        for answer in answers.keys() {
            ensure!(allowed.contains(&answer.as_str()), "{section}: {answer} among {answers:?}");
        }
        Ok(())
    };
    only("without_session", &["not_bound", "rate_limited"])?;
    only("guessed_nonces", &["ok", "rate_limited"])?;
    only("after_guessing", &["not_bound", "rate_limited"])?;
    only("others", &["not_attached", "unknown_resource", "bad_format", "bad_box", "rate_limited"])?;
    only(
        "wrong",
        &["bad_request", "bad_box", "bad_format", "unknown_resource", "not_attached", "rate_limited"],
    )?;
    // A flood from a client that does not read its socket ends that client's session and nothing else.
    only("flood", &["ok", "rate_limited", "not_bound"])?;
    only("bind_flood", &["ok", "rate_limited"])?;
    // Without a permitted read the refusals would prove nothing.
    ensure!(report["bound"] == true && report["own_buffer"]["ok"] == 1, "{report}");
    for (token, answer) in report["forged"].as_object().context("forged")? {
        ensure!(answer == "BadToken", "{token}: {answer}");
    }
    ensure!(report["garbage"] == "closed" || report["garbage"] == "Protocol", "{report}");
    Ok(())
}
