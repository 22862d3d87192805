//! Desktops that follow the window of their viewer: sway, GNOME and the test pattern, in Chromium.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use contract::FramePath;
use e2e::browser::install;
use e2e::person::interact;
use e2e::rig::{RigOptions, Stream, StreamOptions};
use e2e::{Desktop, Programs, Rig, wait};
use serde_json::{Value, json};

/// Size at which desktops start.
const SIZE: (u32, u32) = (640, 360);
const TIMEOUT: Duration = Duration::from_mins(2);
/// Windows in CSS pixels, and their scales.
const WINDOWS: [(u32, u32, f64); 6] =
    [(800, 600, 1.0), (1024, 768, 1.0), (641, 483, 1.0), (480, 820, 1.0), (900, 540, 2.0), (1000, 600, 1.0)];

/// A stream whose desktop follows its viewer.
fn start(rig: &mut Rig, desktop: Desktop, sidecar_args: &[&str]) -> Result<Stream> {
    let mut options = StreamOptions::new(desktop, SIZE);
    options.desktop_env.push(("DESKTOP_SIZE_POLICY".to_owned(), "follow-viewer".to_owned()));
    let size = ["--size", "follow-viewer", "--initial-size", "640x360"];
    options.sidecar_args.extend(size.iter().chain(sidecar_args).map(|&word| word.to_owned()));
    rig.start("desk", options)
}

/// Resizes the page's window, and checks what it drew.
fn resize(rig: &Rig, stream: &Stream, path: FramePath) -> Result<Value> {
    let windows = WINDOWS.map(|(width, height, scale)| json!({"window": [width, height, scale]}));
    let steps: Vec<Value> = windows.into_iter().chain([json!({"pause": 500})]).collect();
    let report = interact(stream, &Value::from(steps)).with_context(|| {
        format!(
            "{}
--- host-agent
{}
--- status
{:?}",
            stream.logs(),
            rig.host_agent.log(),
            stream.status()
        )
    })?;
    println!("{}: {}", stream.name, report["windows"]);
    let drawn = report["windows"].as_array().context("windows")?;
    ensure!(drawn.len() == WINDOWS.len(), "{drawn:?}");
    for window in drawn {
        ensure!(window["path"] == json!(path), "{window}");
    }
    let stats = &report["stats"];
    ensure!(stats["connects"] == 1 && stats["errors"] == 0, "the page connected again, or failed: {stats}");
    let status = stream.status()?;
    ensure!(status.capture.size_error.is_empty(), "{:?}", status.capture);
    Ok(report)
}

/// Waits until a command of the desktop prints `expected`.
fn wait_for_output(stream: &Stream, command: &str, expected: &str) -> Result<()> {
    wait::until(command, TIMEOUT, || {
        let output = stream.desktop.exec_in(&["sh", "-c", command])?;
        ensure!(output.success() && output.stdout.contains(expected), "no {expected:?} in {output:?}");
        Ok(())
    })
}

#[test]
fn sway_desktop_has_the_size_and_scale_of_the_viewers_window() -> Result<()> {
    install()?;
    let programs = Programs::build()?;
    let mut rig = Rig::up(&programs, &RigOptions::new("window", &[Desktop::Sway]))?;
    let stream = start(&mut rig, Desktop::Sway, &[])?;
    stream.wait_for_frame_path(FramePath::ResourceId)?;
    resize(&rig, &stream, FramePath::ResourceId)?;
    interact(&stream, &json!([{"window": [700, 500, 2.0]}, {"kill": true}]))?;
    let outputs = "SWAYSOCK=$(echo /run/desktop/sway-ipc.*) swaymsg -t get_outputs -r";
    wait_for_output(&stream, outputs, "\"scale\": 2.0")?;
    stream.stop()
}

#[test]
fn gnome_desktop_has_the_size_and_scale_of_the_viewers_window() -> Result<()> {
    install()?;
    let programs = Programs::build()?;
    let mut rig = Rig::up(&programs, &RigOptions::new("window", &[Desktop::Gnome]))?;
    let stream = start(&mut rig, Desktop::Gnome, &[])?;
    stream.wait_for_frame_path(FramePath::ResourceId)?;
    resize(&rig, &stream, FramePath::ResourceId)?;
    interact(&stream, &json!([{"window": [900, 540, 2.0]}, {"kill": true}]))?;
    let state = "DBUS_SESSION_BUS_ADDRESS=unix:path=/run/desktop/bus gdbus call --session \
                 --dest org.gnome.Mutter.DisplayConfig --object-path /org/gnome/Mutter/DisplayConfig \
                 --method org.gnome.Mutter.DisplayConfig.GetCurrentState";
    // A logical monitor: x, y, scale, transform, primary.
    wait_for_output(&stream, state, "(0, 0, 2.0, uint32 0, true")?;
    stream.stop()
}

#[test]
fn frame_numbers_increase_while_the_test_pattern_follows_the_window() -> Result<()> {
    install()?;
    let programs = Programs::build()?;
    let mut rig = Rig::up(&programs, &RigOptions::new("window", &[Desktop::Sway]))?;
    let stream = start(&mut rig, Desktop::Sway, &["--source", "test-pattern", "--max-fps", "30"])?;
    stream.wait_for_frame_path(FramePath::Pixels)?;
    let report = resize(&rig, &stream, FramePath::Pixels)?;
    ensure!(report["torn"] == 0 && report["ordered"] == true, "{report}");
    stream.stop()
}
