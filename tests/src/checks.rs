//! What must hold of a stream wherever it comes from: few bytes a frame to the host, and whole pictures in order.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::http::number;
use crate::rig::Stream;
use crate::video::{self, Decoder};
use crate::wait;

/// What may cross the VM boundary per frame (DESIGN, "Speed that we promise ourselves").
const MOST_BYTES: f64 = 128.0;

/// 30 frames by rung `ResourceId`, for the bytes that we promise.
pub fn frames_cost_few_bytes(stream: &Stream) -> Result<()> {
    let before = stream.wait_for_rung("ResourceId")?;
    let frames = number(&before, "/frames/encoded")? + 30.0;
    let after = wait::until("30 more frames", Duration::from_secs(60), || {
        let status = stream.status()?;
        ensure!(number(&status, "/frames/encoded")? >= frames, "{status}");
        Ok(status)
    })?;
    let rise = |what| -> Result<f64> { Ok(number(&after, what)? - number(&before, what)?) };
    let bytes = rise("/bytes_to_host")? / rise("/frames/encoded")?;
    println!("{}: {bytes:.1} bytes a frame, {}", stream.name, after["capture"]["taken"]);
    ensure!(bytes <= MOST_BYTES, "{bytes} bytes a frame: {after}");
    ensure!(after["rung"] == "ResourceId", "{after}");
    Ok(())
}

/// The pattern's numbers in what a viewer gets, as two decoders see them: none torn, none older than one before.
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

/// What tests/fixtures/attacker reports: it got nothing that isn't its own, and that it got.
pub fn only_refusals(report: &Value) -> Result<()> {
    let only = |section: &str, allowed: &[&str]| -> Result<()> {
        let answers = report[section].as_object().with_context(|| section.to_owned())?;
        ensure!(!answers.is_empty(), "{section}: no answers");
        for what in answers.keys() {
            ensure!(allowed.contains(&what.as_str()), "{section}: {what} among {answers:?}");
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
    // Who floods and does not read its socket loses its session, not more.
    only("flood", &["ok", "rate_limited", "not_bound"])?;
    only("bind_flood", &["ok", "rate_limited"])?;
    // What it may do, it can: otherwise all these refusals would prove nothing.
    ensure!(report["bound"] == true && report["own_buffer"]["ok"] == 1, "{report}");
    for (what, answer) in report["forged"].as_object().context("forged")? {
        ensure!(answer == "BadToken", "{what}: {answer}");
    }
    ensure!(report["garbage"] == "closed" || report["garbage"] == "Protocol", "{report}");
    Ok(())
}
