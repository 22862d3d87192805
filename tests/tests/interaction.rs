//! A person at the viewer page in Chromium: keyboard, pointer, sound and clipboard of sway and GNOME desktops.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use contract::FramePath;
use contract::doctor::{Outcome, Report, checks};
use e2e::browser::install;
use e2e::person::{Browser, interact};
use e2e::rig::{RigOptions, Stream, StreamOptions};
use e2e::{Desktop, Programs, Rig, wait};
use serde_json::{Value, json};

const SIZE: (u32, u32) = (640, 360);
const TIMEOUT: Duration = Duration::from_mins(2);
/// File to which the terminal's program copies what is typed.
const TYPED: &str = "/run/desktop/typed";

/// Text of [`type_text`].
const TYPED_TEXT: &str = "Grüße, €5 {[]}ñ – 日本語 😀yz{";

/// A PNG of 2 × 2 pixels, in Base64.
const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFElEQVR42mP4z8DAAMIM////ZwAAHu8E/HMcU8wAAAAASUVORK5CYII=";

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

/// Runs a command of a program with windows in the desktop.
fn in_desktop(stream: &Stream, command: &str) -> Result<String> {
    let output =
        stream.desktop.exec_in(&["sh", "-c", &format!("export WAYLAND_DISPLAY=wayland-1; {command}")])?;
    ensure!(output.success(), "{output:?}");
    Ok(output.stdout)
}

/// A text and a picture that are pasted into the desktop, and others that are copied there, byte for byte.
fn clipboard_is_shared(stream: &Stream, typed: &str) -> Result<()> {
    wait::until("the clipboard is connected", TIMEOUT, || {
        let clipboard = stream.status()?.clipboard;
        ensure!(!clipboard.protocol.is_empty(), "{clipboard:?}");
        Ok(())
    })?;
    let focus = [json!({"control": true}), json!({"move": [0.3, 0.5]}), json!({"click": "left"})];
    let steps = |more: &[Value]| Value::from([&focus[..], more].concat());
    // The terminal pastes with Shift.
    let text = "eingefügt 日本語 😀";
    interact(
        stream,
        &steps(&[json!({"copy": {"text/plain": text}}), json!({"press": "Control+Shift+KeyV"})]),
    )?;
    wait_for_text(stream, &format!("{typed}{text}"))?;
    let pasted =
        interact(stream, &steps(&[json!({"copy": {"image/png": PNG}}), json!({"press": "Control+KeyV"})]))?;
    // Chromium encodes the picture of its clipboard again.
    let sent = pasted["sent"]["image/png"].as_str().context("the page sent no picture")?;
    wait::until("the picture", TIMEOUT, || {
        let found = in_desktop(stream, "timeout 10 wl-paste --type image/png | base64 -w0")?;
        ensure!(found == sent, "pasted {found:?}, not {sent:?}");
        Ok(())
    })?;
    let copied = "kopiert: ü 日本語 😀";
    for (content, command) in [
        (json!({"text/plain": copied}), format!("printf %s '{copied}' | wl-copy")),
        (json!({"image/png": PNG}), format!("printf %s {PNG} | base64 -d | wl-copy --type image/png")),
    ] {
        let mut browser =
            Browser::start(stream, &steps(&[json!({"press": "ShiftLeft"}), json!({"receive": content})]))?;
        // What was copied before the page has control is not sent to it: copy until it has received it.
        while browser.node.try_wait()?.is_none() {
            in_desktop(stream, &format!("{command} >/dev/null 2>&1"))?;
        }
        browser.wait()?;
    }
    Ok(())
}

/// Types [`TYPED_TEXT`]: by keys of the layouts `de` and `us`, and characters without a key by text. Waits before each change of the
/// layout, which on GNOME may precede keys that are not delivered yet.
fn type_text(stream: &Stream, focus: &[Value]) -> Result<()> {
    let mut steps = focus.to_vec();
    steps.push(json!({"layout": "de"}));
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
    steps.push(json!({"text": "ñ – 日本語 😀"}));
    steps.extend(keys(&["KeyZ"]));
    interact(stream, &Value::from(steps))?;
    let (german, _) = TYPED_TEXT.split_at(TYPED_TEXT.len() - 2);
    wait_for_text(stream, german)?;
    let mut steps = vec![json!({"control": true}), json!({"layout": "us"})];
    steps.extend(keys(&["KeyZ", "ShiftLeft+BracketLeft"]));
    interact(stream, &Value::from(steps))?;
    wait_for_text(stream, TYPED_TEXT)
}

#[test]
fn keys_of_two_layouts_and_text_reach_a_sway_desktop() -> Result<()> {
    install()?;
    let programs = Programs::build()?;
    let mut rig = Rig::up(&programs, &RigOptions::new("interaction", &[Desktop::Sway]))?;
    let stream = start(&mut rig, Desktop::Sway)?;
    doctor_accepts_input(&rig, &stream)?;
    type_text(&stream, &[json!({"control": true})])?;
    let typed = TYPED_TEXT;
    modifier_of_a_lost_page_is_released(&stream, typed)?;
    clipboard_is_shared(&stream, &format!("{typed}Ab"))?;
    stream.stop()
}

#[test]
fn keys_of_two_layouts_and_text_reach_a_gnome_desktop() -> Result<()> {
    install()?;
    let programs = Programs::build()?;
    let mut rig = Rig::up(&programs, &RigOptions::new("interaction", &[Desktop::Gnome]))?;
    let stream = start(&mut rig, Desktop::Gnome)?;
    doctor_accepts_input(&rig, &stream)?;
    // A click into the terminal gives it the focus.
    let focus = vec![json!({"control": true}), json!({"move": [0.3, 0.5]}), json!({"click": "left"})];
    // A key's release may take longer than the delay of its repetition.
    let bus = "DBUS_SESSION_BUS_ADDRESS=unix:path=/run/desktop/bus";
    in_desktop(&stream, &format!("{bus} gsettings set org.gnome.desktop.peripherals.keyboard repeat false"))?;
    type_text(&stream, &focus).with_context(|| stream.logs())?;
    let typed = TYPED_TEXT;
    modifier_of_a_lost_page_is_released(&stream, typed)?;
    clipboard_is_shared(&stream, &format!("{typed}Ab"))?;
    stream.stop()
}

/// WAV file of a chirp, 8 kHz, 16 bits, mono: from `from` to `to` Hz within 0.4 s.
fn chirp(from: f64, to: f64) -> Vec<u8> {
    const RATE: u32 = 8000;
    const SAMPLES: u32 = RATE * 2 / 5;
    let mut file = Vec::new();
    for part in [b"RIFF", &(36 + 2 * SAMPLES).to_le_bytes(), b"WAVE", b"fmt ", &16_u32.to_le_bytes()] {
        file.extend(part);
    }
    // PCM, one channel; bytes per second; bytes and bits per sample.
    for part in [0x0001_0001, RATE, 2 * RATE, 0x0010_0002_u32] {
        file.extend(part.to_le_bytes());
    }
    file.extend(b"data");
    file.extend((2 * SAMPLES).to_le_bytes());
    for n in 0..SAMPLES {
        let seconds = f64::from(n) / f64::from(RATE);
        let turns = (from + (to - from) / 0.8 * seconds) * seconds;
        file.extend(((16_000.0 * (std::f64::consts::TAU * turns).sin()) as i16).to_le_bytes());
    }
    file
}

/// A desktop plays a chirp again and again; the page hears it.
fn sound_is_heard(desktop: Desktop) -> Result<()> {
    const FILE: &str = "/run/desktop/chirp.wav";
    let (from, to) = (500, 1500);
    install()?;
    let programs = Programs::build()?;
    let mut rig = Rig::up(&programs, &RigOptions::new("sound", &[desktop]))?;
    let mut options = StreamOptions::new(desktop, SIZE);
    let play = format!("sh -c 'until [ -e {FILE} ]; do sleep 0.1; done; pw-play {FILE}'\nfoot sleep 1d");
    options.desktop_env.push(("DESKTOP_APPS".to_owned(), play));
    let stream = rig.start("desk", options)?;
    stream.wait_for_frame_path(FramePath::ResourceId)?;
    ensure!(stream.status()?.audio.output, "{:?}", stream.status()?.audio);
    wait::until("PulseAudio's socket", TIMEOUT, || {
        let output = stream.desktop.exec_in(&["test", "-S", "/run/desktop/pulse/native"])?;
        ensure!(output.success(), "{output:?}");
        Ok(())
    })?;
    // One escape of three digits per byte: printf of sh knows no others.
    let bytes: Vec<_> = chirp(from.into(), to.into()).iter().map(|byte| format!("\\{byte:03o}")).collect();
    let write = format!("printf '{}' > {FILE}.new && mv {FILE}.new {FILE}", bytes.concat());
    let output = stream.desktop.exec_in(&["sh", "-c", &write])?;
    ensure!(output.success(), "{output:?}");

    let report = interact(&stream, &json!([{"listen": true}, {"chirp": [from, to]}]))?;
    let (sound, chirp) = (&report["stats"]["sound"], &report["chirp"]);
    println!("sound of {desktop:?}: {sound}; the chirp was decoded {} ms after it was played", chirp["lead"]);
    let number = |name: &str| sound[name].as_f64().with_context(|| format!("{name} in {sound}"));
    // Without a moving picture there is no offset.
    let in_step = sound["offset_ms"].as_f64().is_some_and(|offset| offset.abs() < 80.0);
    ensure!(in_step || number("delay_ms")? < number("needed_ms")? + 30.0, "{sound}");
    wait::until("the capture ends with the page", TIMEOUT, || {
        let audio = stream.status()?.audio;
        ensure!(audio.output && !audio.running && audio.error.is_empty(), "{audio:?}");
        Ok(())
    })?;
    stream.stop()
}

#[test]
fn sound_of_a_sway_desktop_is_heard_in_the_page() -> Result<()> {
    sound_is_heard(Desktop::Sway)
}

#[test]
fn sound_of_a_gnome_desktop_is_heard_in_the_page() -> Result<()> {
    sound_is_heard(Desktop::Gnome)
}
