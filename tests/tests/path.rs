//! The frame path by resource ID, from desktop to decoded pictures: whole and in order.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use contract::doctor::{Outcome, Report, checks as check};
use contract::{FramePath, SidecarStatus};
use e2e::http;
use e2e::rig::{RigOptions, Stream, StreamOptions, VIEWER_TOKEN};
use e2e::video::{self, Decoder};
use e2e::{Desktop, Programs, Rig, checks, wait};
use pattern::layout::Torn;
use rustix::process::Signal;

const SIZE: (u32, u32) = (640, 360);

#[test]
fn frames_arrive_whole_and_in_order_by_resource_id() -> Result<()> {
    assert_whole_and_in_order(&RigOptions::new("path", &[Desktop::Pattern]))
}

#[test]
#[ignore = "slow; run by ./x test slow"]
fn frames_arrive_whole_and_in_order_on_qemu_10_with_containerd() -> Result<()> {
    assert_whole_and_in_order(&RigOptions {
        qemu: lab::Qemu::Trixie,
        runtime: lab::Runtime::Containerd,
        ..RigOptions::new("path-qemu10", &[Desktop::Pattern])
    })
}

fn assert_whole_and_in_order(options: &RigOptions) -> Result<()> {
    let programs = Programs::build()?;
    let mut rig = Rig::up(&programs, options)?;

    let mut options = StreamOptions::new(Desktop::Pattern, SIZE);
    options.desktop_args = vec!["--log".to_owned()];
    let stream = rig.start("pattern", options)?;
    checks::frames_cost_few_bytes(&stream)?;
    checks::numbers_are_right(&stream)?;
    mp4_stream_decodes(&stream)?;
    requests_without_a_token_are_rejected(&stream)?;
    stream.stop()
}

#[test]
fn pattern_stream_passes_snapshot_doctor_and_static_screen_checks() -> Result<()> {
    let programs = Programs::build()?;
    let mut rig = Rig::up(&programs, &RigOptions::new("moments", &[Desktop::Pattern, Desktop::Sway]))?;
    let mut options = StreamOptions::new(Desktop::Pattern, SIZE);
    options.desktop_args = vec!["--log".to_owned()];
    let stream = rig.start("pattern", options)?;
    stream.wait_for_frame_path(FramePath::ResourceId)?;
    snapshot_shows_a_frame_number(&stream)?;
    doctor_passes(&rig, &stream)?;
    static_screen_repeats_frames_without_guest_traffic(&rig, &stream)?;
    stream.stop()?;

    for fault in ["ready-before-draw", "tear"] {
        faulty_desktop_is_detected(&mut rig, fault)?;
    }
    let stream = rig.start("sway", StreamOptions::new(Desktop::Sway, SIZE))?;
    checks::frames_cost_few_bytes(&stream).with_context(|| stream.logs())?;
    stream.stop()
}

fn mp4_stream_decodes(stream: &Stream) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("live.mp4");
    std::fs::write(&file, video::take(stream, "/stream.mp4", Duration::from_secs(4))?)?;
    let numbers = video::numbers(&file, SIZE, Decoder::Ffmpeg)?;
    let wrong = video::wrong(&numbers);
    ensure!(wrong.is_empty() && numbers.len() > 20, "{} pictures: {wrong:?}", numbers.len());
    Ok(())
}

fn requests_without_a_token_are_rejected(stream: &Stream) -> Result<()> {
    for path in ["snapshot.png", "stream.h264", "status"] {
        let (status, _) = http::status(&format!("{}/{path}", stream.url), None)?;
        ensure!(status == 401, "/{path} without a token: {status}");
    }
    Ok(())
}

fn snapshot_shows_a_frame_number(stream: &Stream) -> Result<()> {
    let url = format!("{}/snapshot.png", stream.url);
    let (status, body) = http::status(&url, Some(VIEWER_TOKEN))?;
    ensure!(status == 200, "/snapshot.png: {status}: {}", String::from_utf8_lossy(&body));
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("snapshot.png");
    std::fs::write(&file, body)?;
    let numbers = video::still(&file, SIZE)?;
    ensure!(numbers.is_ok(), "unexpected snapshot: {numbers:?}");
    Ok(())
}

fn doctor_passes(rig: &Rig, stream: &Stream) -> Result<()> {
    let (code, out) = stream.doctor(rig)?;
    ensure!(code == 0, "doctor: {code}\n{out}");
    let report: Report = serde_json::from_str(&out).with_context(|| out.clone())?;
    for name in [
        check::RENDER_NODE,
        check::TAP,
        check::HOST_AGENT,
        check::BIND,
        check::CAPTURE,
        check::IMPORT,
        check::READ,
        check::ENCODE,
        check::DECODE,
    ] {
        let found = report
            .checks
            .iter()
            .find(|it| it.name == name)
            .with_context(|| format!("no check {name}: {out}"))?;
        ensure!(found.outcome == Outcome::Ok, "{found:?}");
    }
    Ok(())
}

/// A static screen causes no guest→host traffic, and viewers still receive the last picture again and again.
fn static_screen_repeats_frames_without_guest_traffic(rig: &Rig, stream: &Stream) -> Result<()> {
    stream.desktop.kill(Signal::USR1)?;
    let mut last = 0;
    let before = wait::until("the screen is static", Duration::from_mins(2), || still(stream, &mut last))?;
    let captures =
        || -> Result<u64> { Ok(rig.host_agent.status()?.sessions.first().context("no session")?.captured) };
    let captured = captures()?;
    let begin = std::time::Instant::now();
    let after = wait::until("40 repeats", Duration::from_mins(2), || {
        let status = stream.status()?;
        let repeats = status.frames.repeated - before.frames.repeated;
        ensure!(repeats >= 40, "{repeats} repeats");
        Ok(status)
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    let fps = (after.frames.repeated - before.frames.repeated) as f64 / seconds;
    // Keep-alive pings: 16 bytes every two seconds.
    let bytes = (after.bytes_to_host - before.bytes_to_host) as f64 / seconds;
    let (shown, drawn) = (shown(stream)?, drawn(stream)?);
    ensure!(shown == Ok(drawn), "stale picture: shown {shown:?}, last drawn {drawn}");
    println!("still: {fps:.1} fps, {bytes:.1} bytes/s to the host");
    ensure!(bytes <= 16.0, "{bytes} bytes/s to the host from a static screen");
    ensure!(captures()? <= captured, "the tap read a static screen");
    stream.desktop.kill(Signal::USR1)?;
    Ok(())
}

/// The status, if no new frame was encoded since the count `frames` was taken.
fn still(stream: &Stream, frames: &mut u64) -> Result<SidecarStatus> {
    std::thread::sleep(Duration::from_millis(300));
    let status = stream.status()?;
    let encoded = status.frames.encoded;
    let previous = std::mem::replace(frames, encoded);
    ensure!(previous == encoded, "{} new frames", encoded - previous);
    Ok(status)
}

/// Frame number in the picture that viewers receive now.
fn shown(stream: &Stream) -> Result<Result<u32, Torn>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("live.h264");
    std::fs::write(&file, video::take(stream, "/stream.h264", Duration::from_secs(2))?)?;
    video::numbers(&file, SIZE, Decoder::Ffmpeg)?.pop().context("no picture")
}

/// Number of the last frame in the log of the pattern program.
fn drawn(stream: &Stream) -> Result<u32> {
    let log = stream.desktop.logs()?;
    let line = log
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("pattern: frame "))
        .context("no frame in the log")?;
    let number = line.split(' ').next().unwrap_or_default();
    number.parse().with_context(|| line.to_owned())
}

/// A desktop that signals "ready" before it draws shows stale pictures, and one that draws into a submitted buffer shows torn
/// ones. The checks above detect both.
fn faulty_desktop_is_detected(rig: &mut Rig, fault: &str) -> Result<()> {
    let mut options = StreamOptions::new(Desktop::Pattern, SIZE);
    options.desktop_args = ["--log", "--fault", fault, "--static-after", "60"].map(str::to_owned).into();
    let stream = rig.start(&format!("fault-{fault}"), options)?;
    stream.wait_for_frame_path(FramePath::ResourceId)?;
    let mut last = 0;
    wait::until("the screen is static", Duration::from_mins(2), || still(&stream, &mut last))?;
    let (shown, drawn) = (shown(&stream)?, drawn(&stream)?);
    println!("fault {fault}: shown {shown:?}, drawn {drawn}");
    ensure!(shown != Ok(drawn), "fault {fault} was not detected");
    stream.stop()
}
