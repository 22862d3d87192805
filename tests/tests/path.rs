//! The path of a frame, from desktops to decoded pictures: by resource ID, in order, whole.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::http::{self, number};
use e2e::rig::{RigOptions, Stream, StreamOptions, VIEWER_TOKEN};
use e2e::video::{self, Decoder};
use e2e::{Desktop, Programs, Rig, checks, wait};
use pattern::layout::Torn;
use rustix::process::Signal;

const SIZE: (u32, u32) = (640, 360);

#[test]
fn the_numbers_are_right_by_resource_id() -> Result<()> {
    right_by_resource_id(&RigOptions::new("path", &[Desktop::Pattern]))
}

#[test]
#[ignore = "slow: ./x test slow"]
fn the_numbers_are_right_with_a_newer_qemu_and_containerd() -> Result<()> {
    right_by_resource_id(&RigOptions {
        qemu: lab::Qemu::Trixie,
        runtime: lab::Runtime::Containerd,
        ..RigOptions::new("path-qemu10", &[Desktop::Pattern])
    })
}

fn right_by_resource_id(options: &RigOptions) -> Result<()> {
    let programs = Programs::build()?;
    let mut rig = Rig::up(&programs, options)?;

    let mut options = StreamOptions::new(Desktop::Pattern, SIZE);
    options.desktop_args = vec!["--log".to_owned()];
    let stream = rig.start("pattern", options)?;
    checks::frames_cost_few_bytes(&stream)?;
    checks::numbers_are_right(&stream)?;
    recordings_play(&stream)?;
    a_stranger_sees_nothing(&stream)?;
    stream.stop()
}

#[test]
fn every_moment() -> Result<()> {
    let programs = Programs::build()?;
    let mut rig = Rig::up(&programs, &RigOptions::new("moments", &[Desktop::Pattern, Desktop::Sway]))?;
    let mut options = StreamOptions::new(Desktop::Pattern, SIZE);
    options.desktop_args = vec!["--log".to_owned()];
    let stream = rig.start("pattern", options)?;
    stream.wait_for_rung("ResourceId")?;
    a_snapshot_shows_a_number(&stream)?;
    doctor_finds_nothing(&rig, &stream)?;
    a_still_screen_lives_and_costs_nothing(&rig, &stream)?;
    stream.stop()?;

    for fault in ["ready-before-draw", "tear"] {
        a_broken_order_is_noticed(&mut rig, fault)?;
    }
    let stream = rig.start("sway", StreamOptions::new(Desktop::Sway, SIZE))?;
    checks::frames_cost_few_bytes(&stream).with_context(|| stream.logs())?;
    stream.stop()
}

fn recordings_play(stream: &Stream) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("live.mp4");
    std::fs::write(&file, video::take(stream, "/stream.mp4", Duration::from_secs(4))?)?;
    let numbers = video::numbers(&file, SIZE, Decoder::Ffmpeg)?;
    let wrong = video::wrong(&numbers);
    ensure!(wrong.is_empty() && numbers.len() > 20, "{} pictures: {wrong:?}", numbers.len());
    Ok(())
}

fn a_stranger_sees_nothing(stream: &Stream) -> Result<()> {
    for path in ["snapshot.png", "stream.h264", "status"] {
        let (status, _) = http::status(&format!("{}/{path}", stream.url), None)?;
        ensure!(status == 401, "/{path} without a token: {status}");
    }
    Ok(())
}

fn a_snapshot_shows_a_number(stream: &Stream) -> Result<()> {
    let url = format!("{}/snapshot.png", stream.url);
    let (status, body) = http::status(&url, Some(VIEWER_TOKEN))?;
    ensure!(status == 200, "/snapshot.png: {status}: {}", String::from_utf8_lossy(&body));
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("snapshot.png");
    std::fs::write(&file, body)?;
    let numbers = video::still(&file, SIZE)?;
    ensure!(numbers.is_ok(), "the snapshot is {numbers:?}");
    Ok(())
}

fn doctor_finds_nothing(rig: &Rig, stream: &Stream) -> Result<()> {
    let (code, out) = stream.doctor(rig)?;
    ensure!(code == 0, "doctor: {code}\n{out}");
    let report: serde_json::Value = serde_json::from_str(&out).with_context(|| out.clone())?;
    let legs = report["legs"].as_array().context("no legs")?;
    for leg in ["render node", "tap", "host-agent", "bind", "capture", "import", "read", "encode", "decode"] {
        let found =
            legs.iter().find(|it| it["leg"] == leg).with_context(|| format!("no leg {leg}: {out}"))?;
        ensure!(found["outcome"] == "ok", "{found}");
    }
    Ok(())
}

/// No guest→host traffic on a still screen, and still at least 8 frames a second for viewers.
fn a_still_screen_lives_and_costs_nothing(rig: &Rig, stream: &Stream) -> Result<()> {
    stream.desktop.kill(Signal::USR1)?;
    let mut last = 0;
    let before = wait::until("the screen is still", Duration::from_secs(20), || still(stream, &mut last))?;
    let frames_in = || -> Result<f64> { number(&rig.host_agent.status()?, "/sessions/0/captured") };
    let captured = frames_in()?;
    let begin = std::time::Instant::now();
    let after = wait::until("40 repeats", Duration::from_secs(30), || {
        let status = stream.status()?;
        let repeats = number(&status, "/frames/repeated")? - number(&before, "/frames/repeated")?;
        ensure!(repeats >= 40.0, "{repeats} repeats");
        Ok(status)
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    let rise = |what| -> Result<f64> { Ok(number(&after, what)? - number(&before, what)?) };
    let fps = rise("/frames/repeated")? / seconds;
    // Pings keep the connection alive: 16 bytes every two seconds.
    let bytes = rise("/bytes_to_host")? / seconds;
    let (shown, drawn) = (shown(stream)?, drawn(stream)?);
    ensure!(
        shown == Ok(drawn),
        "the picture shown is {shown:?}, the last one drawn was {drawn}: it is stale"
    );
    println!("still: {fps:.1} fps, {bytes:.1} bytes/s to the host");
    ensure!(fps >= 8.0, "{fps} fps of a still screen");
    ensure!(bytes <= 16.0, "{bytes} bytes/s to the host while nothing moves");
    ensure!(frames_in()? <= captured, "pictures were read while nothing moved");
    stream.desktop.kill(Signal::USR1)?;
    Ok(())
}

/// The status, if no new frame came since the last look at `frames`.
fn still(stream: &Stream, frames: &mut u64) -> Result<serde_json::Value> {
    std::thread::sleep(Duration::from_millis(300));
    let status = stream.status()?;
    let now = number(&status, "/frames/encoded")? as u64;
    let was = std::mem::replace(frames, now);
    ensure!(was == now, "it moves");
    Ok(status)
}

/// The number in the picture that viewers see now.
fn shown(stream: &Stream) -> Result<Result<u32, Torn>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("live.h264");
    std::fs::write(&file, video::take(stream, "/stream.h264", Duration::from_secs(2))?)?;
    video::numbers(&file, SIZE, Decoder::Ffmpeg)?.pop().context("no picture")
}

/// The number of the frame that the pattern drew last, by its own log.
fn drawn(stream: &Stream) -> Result<u32> {
    let log = stream.desktop.logs()?;
    let line = log
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("pattern: frame "))
        .context("no frame in its log")?;
    let number = line.split(' ').next().unwrap_or_default();
    number.parse().with_context(|| line.to_owned())
}

/// The test of the tests: a desktop that says "ready" before it draws shows an old picture, one that draws
/// into a buffer it gave away a torn one, and both are seen.
fn a_broken_order_is_noticed(rig: &mut Rig, fault: &str) -> Result<()> {
    let mut options = StreamOptions::new(Desktop::Pattern, SIZE);
    options.desktop_args = ["--log", "--fault", fault, "--static-after", "60"].map(str::to_owned).into();
    let stream = rig.start(&format!("fault-{fault}"), options)?;
    stream.wait_for_rung("ResourceId")?;
    let mut last = 0;
    wait::until("the screen is still", Duration::from_secs(20), || still(&stream, &mut last))?;
    let (shown, drawn) = (shown(&stream)?, drawn(&stream)?);
    println!("fault {fault}: shown {shown:?}, drawn {drawn}");
    ensure!(shown != Ok(drawn), "fault {fault} was not noticed");
    stream.stop()
}
