//! Cursor of a desktop that the viewers' page draws, in Chromium.

use anyhow::{Result, ensure};
use contract::FramePath;
use e2e::browser::install;
use e2e::person::{Browser, interact};
use e2e::rig::{RigOptions, StreamOptions};
use e2e::{Desktop, Programs, Rig};
use serde_json::json;

/// Positions over the terminal and over the shell's panel, as fractions of the picture.
const TERMINAL: [f64; 2] = [0.4, 0.6];
const PANEL: [f64; 2] = [0.5, 0.01];

#[test]
fn cursor_of_a_gnome_desktop_is_drawn_by_the_pages_of_its_viewers() -> Result<()> {
    install()?;
    let programs = Programs::build()?;
    let mut rig = Rig::up(&programs, &RigOptions::new("cursor", &[Desktop::Gnome]))?;
    let mut options = StreamOptions::new(Desktop::Gnome, (1024, 640));
    options.desktop_env.push(("DESKTOP_APPS".to_owned(), "foot -F sleep 1d".to_owned()));
    options.sidecar_args.extend(["--cursor", "viewer"].map(str::to_owned));
    let stream = rig.start("desk", options)?;
    stream.wait_for_frame_path(FramePath::ResourceId)?;
    // The cursors of the panel and of the terminal differ.
    let steps = json!([{"control": true}, {"cursors": [PANEL, TERMINAL]}, {"pause": 600_000}]);
    let mut controller = Browser::start(&stream, &steps)?;
    let watched = interact(&stream, &json!([{"pointer": TERMINAL}]));
    let ended = controller.node.try_wait()?;
    controller.node.kill()?;
    controller.node.wait()?;
    ensure!(ended.is_none(), "the page in control ended: {ended:?}\n{}", controller.errors());
    watched?;
    stream.stop()
}
