//! A person at the viewer page in Chromium: keyboard and pointer of sway and GNOME desktops.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use contract::FramePath;
use contract::doctor::{Outcome, Report, checks};
use e2e::browser::install;
use e2e::rig::{RigOptions, Stream, StreamOptions, VIEWER_TOKEN};
use e2e::{Desktop, Programs, Rig, wait};
use lab::repository;
use serde_json::{Value, json};

const SIZE: (u32, u32) = (640, 360);
const TIMEOUT: Duration = Duration::from_mins(2);
/// File to which the terminal's program copies what is typed.
const TYPED: &str = "/run/desktop/typed";

/// Plays steps in a page of the stream, see tests/browser/interact.mjs.
fn interact(stream: &Stream, steps: &Value) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (file, shot) = (folder.path().join("steps.json"), folder.path().join("shot.png"));
    std::fs::write(&file, steps.to_string())?;
    let status = Command::new("node")
        .arg(repository().join("tests/browser/interact.mjs"))
        .args(["--url", &stream.url, "--token", VIEWER_TOKEN, "--steps"])
        .arg(&file)
        .arg("--screenshot")
        .arg(&shot)
        .stdin(Stdio::null())
        .status()
        .context("starting node")?;
    ensure!(status.success(), "the browser failed: {status}");
    Ok(())
}

/// Contents of a file of the desktop.
fn read(stream: &Stream, path: &str) -> Result<String> {
    let output = stream.desktop.exec_in(&["cat", path])?;
    ensure!(output.success(), "{output:?}");
    Ok(output.stdout)
}

fn wait_for_text(stream: &Stream, expected: &str) -> Result<()> {
    wait::until("the typed text", TIMEOUT, || {
        let typed = read(stream, TYPED)?;
        ensure!(typed == expected, "typed {typed:?}, not {expected:?}");
        Ok(())
    })
}

/// Steps that press keys, each with modifiers before it: `AltRight+KeyE`.
fn keys(keys: &[&str]) -> Vec<Value> {
    let mut steps = Vec::new();
    for key in keys {
        let mut codes: Vec<&str> = key.split('+').collect();
        let last = codes.pop().unwrap_or_default();
        steps.extend(codes.iter().map(|code| json!({"down": code})));
        steps.push(json!({"press": last}));
        steps.extend(codes.iter().rev().map(|code| json!({"up": code})));
    }
    steps
}

/// A desktop whose terminal stores what is typed, without echo.
fn start(rig: &mut Rig, desktop: Desktop) -> Result<Stream> {
    let mut options = StreamOptions::new(desktop, SIZE);
    let terminal = format!("foot sh -c 'stty raw -echo; : > {TYPED}; exec cat >> {TYPED}'");
    options.desktop_env.push(("DESKTOP_APPS".to_owned(), terminal));
    let stream = rig.start("desk", options)?;
    stream.wait_for_frame_path(FramePath::ResourceId)?;
    wait::until("the terminal runs", TIMEOUT, || read(&stream, TYPED).map(drop))?;
    wait::until("input is connected", TIMEOUT, || {
        let input = stream.status()?.input;
        ensure!(!input.protocol.is_empty(), "{input:?}");
        Ok(())
    })?;
    Ok(stream)
}

/// The doctor finds the protocol that the sidecar uses.
fn doctor_accepts_input(rig: &Rig, stream: &Stream) -> Result<()> {
    let (_, out) = stream.doctor(rig)?;
    let report: Report = serde_json::from_str(&out).with_context(|| out.clone())?;
    let check = report.checks.iter().find(|check| check.name == checks::INPUT);
    let check = check.with_context(|| format!("no check of input: {out}"))?;
    let protocol = stream.status()?.input.protocol;
    ensure!(check.outcome == Outcome::Ok && check.detail == protocol, "{check:?}, but {protocol:?}");
    Ok(())
}

/// A page that ends with Shift held: the next page's keys are not shifted.
fn modifier_of_a_lost_page_is_released(stream: &Stream, typed: &str) -> Result<()> {
    interact(stream, &json!([{"control": true}, {"down": "ShiftLeft"}, {"press": "KeyA"}, {"kill": true}]))?;
    wait_for_text(stream, &format!("{typed}A"))?;
    interact(stream, &json!([{"control": true}, {"press": "KeyB"}]))?;
    wait_for_text(stream, &format!("{typed}Ab"))
}

#[test]
fn keys_of_two_layouts_and_text_reach_a_sway_desktop() -> Result<()> {
    install()?;
    let programs = Programs::build()?;
    let mut rig = Rig::up(&programs, &RigOptions::new("interaction", &[Desktop::Sway]))?;
    let stream = start(&mut rig, Desktop::Sway)?;
    doctor_accepts_input(&rig, &stream)?;
    let mut steps = vec![json!({"control": true}), json!({"layout": "de"})];
    steps.extend(keys(&[
        "ShiftLeft+KeyG",
        "KeyR",
        "BracketLeft",
        "Minus",
        "KeyE",
        "Comma",
        "Space",
        "AltRight+KeyE",
        "Digit5",
        "Space",
        "AltRight+Digit7",
        "AltRight+Digit8",
        "AltRight+Digit9",
        "AltRight+Digit0",
    ]));
    steps.push(json!({"text": "ñ 日本語 😀"}));
    steps.extend(keys(&["KeyZ"]));
    steps.push(json!({"layout": "us"}));
    steps.extend(keys(&["KeyZ", "ShiftLeft+BracketLeft"]));
    interact(&stream, &Value::from(steps))?;
    let typed = "Grüße, €5 {[]}ñ 日本語 😀yz{";
    wait_for_text(&stream, typed)?;
    modifier_of_a_lost_page_is_released(&stream, typed)?;
    stream.stop()
}

#[test]
fn keys_and_text_reach_a_gnome_desktop() -> Result<()> {
    install()?;
    let programs = Programs::build()?;
    let mut rig = Rig::up(&programs, &RigOptions::new("interaction", &[Desktop::Gnome]))?;
    let stream = start(&mut rig, Desktop::Gnome)?;
    doctor_accepts_input(&rig, &stream)?;
    // A click into the terminal gives it the focus.
    let mut steps = vec![json!({"control": true}), json!({"move": [0.3, 0.5]}), json!({"click": "left"})];
    steps.extend(keys(&["ShiftLeft+KeyG", "KeyR", "Digit5", "ShiftLeft+BracketLeft"]));
    steps.push(json!({"text": "x y"}));
    interact(&stream, &Value::from(steps))?;
    wait_for_text(&stream, "Gr5{x y")?;
    modifier_of_a_lost_page_is_released(&stream, "Gr5{x y")?;
    stream.stop()
}
