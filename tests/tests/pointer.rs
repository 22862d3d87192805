//! Pointer, touch and the hand-over of control, in Chromium: a terminal of the desktop stores the reports that it receives.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use contract::FramePath;
use e2e::browser::install;
use e2e::person::{Browser, interact};
use e2e::rig::{RigOptions, Stream, StreamOptions};
use e2e::{Desktop, Programs, Rig, wait};
use serde_json::json;

const SIZE: (u32, u32) = (800, 600);
/// Size of the page's window.
const WINDOW: (u32, u32) = (1280, 760);
const TIMEOUT: Duration = Duration::from_mins(2);
/// File to which the terminal's program copies its input.
const INPUT: &str = "/run/desktop/input";

/// A report of xterm's mode 1006.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Report {
    /// 0 left, 2 right, 64 wheel up, 65 wheel down; 32 is added for a motion.
    button: u32,
    column: u32,
    row: u32,
    is_press: bool,
}

/// A desktop whose terminal fills the screen and reports presses, releases and motions with a button (modes 1002 and 1006).
/// The desktop has the size of the page's window if it `follows`.
fn start(rig: &mut Rig, desktop: Desktop, follows: bool) -> Result<Stream> {
    let mut options = StreamOptions::new(desktop, SIZE);
    let program =
        format!("stty raw -echo; printf \"\\033[?1002h\\033[?1006h\"; : > {INPUT}; exec cat >> {INPUT}");
    options.desktop_env.push(("DESKTOP_APPS".to_owned(), format!("foot -F sh -c '{program}'")));
    if follows {
        options.desktop_env.push(("DESKTOP_SIZE_POLICY".to_owned(), "follow-viewer".to_owned()));
        options.sidecar_args.extend(["--size", "follow-viewer"].map(str::to_owned));
    }
    let stream = rig.start("desk", options)?;
    stream.wait_for_frame_path(FramePath::ResourceId)?;
    wait::until("the terminal and the input", TIMEOUT, || {
        input(&stream)?;
        ensure!(!stream.status()?.input.protocol.is_empty(), "{:?}", stream.status()?.input);
        Ok(())
    })?;
    Ok(stream)
}

/// Input of the terminal.
fn input(stream: &Stream) -> Result<String> {
    let output = stream.desktop.exec_in(&["cat", INPUT])?;
    ensure!(output.success(), "{output:?}");
    Ok(output.stdout)
}

/// Reports in the input from byte `from` on.
fn reports(input: &str, from: usize) -> Vec<Report> {
    let report = |text: &str| {
        let end = text.find(['M', 'm'])?;
        let mut numbers = text[..end].split(';').map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Report {
            button: next()?,
            column: next()?,
            row: next()?,
            is_press: text[end..].starts_with('M'),
        })
    };
    input[from..].split("\u{1b}[<").skip(1).filter_map(report).collect()
}

/// Waits until the reports from byte `from` on fulfil a condition.
fn wait_for(
    stream: &Stream,
    what: &str,
    from: usize,
    condition: impl Fn(&[Report]) -> bool,
) -> Result<Vec<Report>> {
    wait::until(what, TIMEOUT, || {
        let found = reports(&input(stream)?, from);
        ensure!(condition(&found), "{found:?}");
        Ok(found)
    })
}

fn presses(reports: &[Report]) -> Vec<(u32, bool)> {
    reports.iter().map(|report| (report.button, report.is_press)).collect()
}

/// Clicks, drags and scrolls. `size` is that of the picture once the page has control.
fn pointer_reaches_the_terminal(stream: &Stream, size: (u32, u32)) -> Result<()> {
    // The first click gives the terminal the focus.
    interact(
        stream,
        &json!([{"control": true}, {"picture": [size.0, size.1]}, {"move": [0.5, 0.5]}, {"click": "left"}]),
    )?;
    wait_for(stream, "the first click", 0, |found| found.last().is_some_and(|report| !report.is_press))?;
    let from = input(stream)?.len();
    interact(
        stream,
        &json!([{"control": true}, {"move": [0.25, 0.5]}, {"click": "left"}, {"click": "right"}]),
    )?;
    let clicks = wait_for(stream, "two clicks", from, |found| found.len() >= 4)?;
    ensure!(presses(&clicks) == [(0, true), (0, false), (2, true), (2, false)], "{clicks:?}");
    let from = input(stream)?.len();
    interact(stream, &json!([{"control": true}, {"drag": [[0.25, 0.5], [0.75, 0.75]]}]))?;
    let drag = wait_for(stream, "a drag", from, |found| found.last().is_some_and(|report| !report.is_press))?;
    let (first, last) = (drag[0], drag[drag.len() - 1]);
    ensure!(presses(&drag[..1]) == [(0, true)] && drag.iter().any(|report| report.button == 32), "{drag:?}");
    // Half of the columns, and a quarter of the rows further.
    ensure!((2 * first.column..=4 * first.column).contains(&last.column) && last.row > first.row, "{drag:?}");
    for (distance, button) in [(360, 65), (-360, 64)] {
        let from = input(stream)?.len();
        interact(stream, &json!([{"control": true}, {"move": [0.5, 0.5]}, {"wheel": [0, distance]}]))?;
        let wheel = wait_for(stream, "the wheel", from, |found| !found.is_empty())?;
        ensure!(wheel.iter().all(|report| report.button == button), "{wheel:?}");
    }
    Ok(())
}

#[test]
fn pointer_touch_and_hand_over_of_control_on_a_sway_desktop() -> Result<()> {
    install()?;
    let programs = Programs::build()?;
    let mut rig = Rig::up(&programs, &RigOptions::new("pointer", &[Desktop::Sway]))?;
    let stream = start(&mut rig, Desktop::Sway, false)?;
    pointer_reaches_the_terminal(&stream, SIZE).with_context(|| stream.logs())?;

    let from = input(&stream)?.len();
    let mut phone =
        Browser::start_with(&stream, &json!([{"control": true}, {"tap": [0.25, 0.5]}]), &["--mobile"])?;
    let status = phone.node.wait()?;
    ensure!(status.success(), "the phone failed: {status}");
    let tap = wait_for(&stream, "a tap", from, |found| found.len() >= 2)?;
    ensure!(presses(&tap) == [(0, true), (0, false)], "{tap:?}");

    let from = input(&stream)?.len();
    let steps = json!([{"control": true}, {"press": "KeyA"}, {"grant": true}, {"pause": 600_000}]);
    let mut giver = Browser::start(&stream, &steps)?;
    let taken = interact(&stream, &json!([{"ask": true}, {"press": "KeyB"}]));
    giver.node.kill()?;
    giver.node.wait()?;
    taken?;
    wait::until("the keys of both pages", TIMEOUT, || {
        let typed = input(&stream)?;
        ensure!(&typed[from..] == "ab", "typed {:?}", &typed[from..]);
        Ok(())
    })?;
    stream.stop()
}

#[test]
fn pointer_reaches_a_gnome_desktop_that_the_page_has_resized() -> Result<()> {
    install()?;
    let programs = Programs::build()?;
    let mut rig = Rig::up(&programs, &RigOptions::new("pointer", &[Desktop::Gnome]))?;
    let stream = start(&mut rig, Desktop::Gnome, true)?;
    pointer_reaches_the_terminal(&stream, WINDOW).with_context(|| stream.logs())?;
    stream.stop()
}
