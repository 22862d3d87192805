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
    let after = wait::until("30 more frames", Duration::from_mins(2), || {
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

/// Answers that an attack of `tests/fixtures/attacker` may get. Any other one is a success of the attacker.
type Expected = (&'static str, &'static [&'static str]);

/// Answers to requests of a context without a session.
const UNBOUND: &[&str] = &["not_bound", "rate_limited"];
/// Answers to requests for frames of others, or with a wrong description.
const NO_FRAME: &[&str] = &[
    "bad_request",
    "bad_box",
    "bad_format",
    "unknown_resource",
    "not_attached",
    "too_large",
    "rate_limited",
];
/// Answers to binds: the tap accepts a limited number, of which the host-agent refuses those with a wrong nonce.
const BINDS: &[&str] = &["ok", "rate_limited"];
/// A flood of permitted requests; a client that does not read its socket loses its own session.
const FLOOD: &[&str] = &["ok", "rate_limited", "not_bound"];
/// Resources of other tenants stay available meanwhile.
const SERVED: &[&str] = &["served"];
const PROTOCOL: &[&str] = &["Protocol", "closed"];
const TOKEN: &[&str] = &["BadToken"];

const ATTACKS: &[Expected] = &[
    ("frames without a session", UNBOUND),
    ("guessed nonces", BINDS),
    ("zero nonce", BINDS),
    ("frames after guessing", UNBOUND),
    ("frames of all resource IDs", NO_FRAME),
    ("one pixel wider", NO_FRAME),
    ("twice as high", NO_FRAME),
    ("largest size", NO_FRAME),
    ("one pixel", NO_FRAME),
    ("no pixel", NO_FRAME),
    ("another byte order", NO_FRAME),
    ("planar format", NO_FRAME),
    ("resource 0", NO_FRAME),
    ("highest resource ID", NO_FRAME),
    ("own mailbox", NO_FRAME),
    ("damage outside", NO_FRAME),
    ("freed buffer", NO_FRAME),
    ("replayed nonce", BINDS),
    ("frames after a replay", UNBOUND),
    ("bind flood with its own nonce", BINDS),
    ("frame flood", FLOOD),
    ("echo flood", FLOOD),
    ("bind flood", BINDS),
    ("nonces guessed by many contexts", BINDS),
    ("bind among many contexts", SERVED),
    ("one nonce in many contexts", BINDS),
    ("resources beyond the limit", &["silence"]),
    ("resources among many resources", SERVED),
    ("alternating frame sizes", &["served", "closed"]),
    ("a ring for each of many connections", &["ok", "rate_limited", "closed"]),
    ("no token", TOKEN),
    ("not a token", TOKEN),
    ("another signature", TOKEN),
    ("no signature", TOKEN),
    ("unsigned token", TOKEN),
    ("token of another stream", TOKEN),
    ("future version", &["Version"]),
    ("garbage", PROTOCOL),
    ("configuration before hello", PROTOCOL),
    ("largest length", PROTOCOL),
    ("message of a server", PROTOCOL),
    ("second hello", PROTOCOL),
    ("pixels before configuration", PROTOCOL),
    ("frames larger than the limit", &["Encoder"]),
    ("ping flood", &["RateLimited", "closed"]),
    ("keyframe flood", &["RateLimited", "closed"]),
    ("garbage after hello", PROTOCOL),
];

/// The report of `tests/fixtures/attacker` contains refusals only, apart from the attacker's own buffer, which it can read.
///
/// # Errors
/// Names the attacks that succeeded.
pub fn only_refusals(report: &Value) -> Result<()> {
    let shapes = report["shapes"].as_object().context("the report has no attacks")?;
    let mut succeeded = Vec::new();
    for (shape, allowed) in ATTACKS {
        let answers =
            shapes.get(*shape).and_then(Value::as_object).with_context(|| format!("not tried: {shape}"))?;
        ensure!(!answers.is_empty(), "{shape}: no answers");
        if answers.keys().any(|answer| !allowed.contains(&answer.as_str())) {
            succeeded.push(format!("{shape}: {answers:?}"));
        }
    }
    println!("{} attacks, {} succeeded", ATTACKS.len(), succeeded.len());
    ensure!(succeeded.is_empty(), "{succeeded:#?}");
    ensure!(shapes.len() == ATTACKS.len(), "an attack is not judged: {:?}", shapes.keys());
    // Without a permitted read the refusals would prove nothing.
    ensure!(report["bound"] == true && report["own_buffer"]["ok"] == 1, "{report}");
    Ok(())
}
