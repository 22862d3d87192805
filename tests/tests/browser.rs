//! What a person sees: the viewer page in a real Chromium, with the numbers in the pixels it drew.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::browser::{Watch, falls, in_order, install, numbers};
use e2e::rig::{RigOptions, StreamOptions, VIEWER_TOKEN};
use e2e::{Desktop, Programs, Rig, wait};
use rustix::process::Signal;

const SIZE: (u32, u32) = (640, 360);

#[test]
fn a_browser_sees_the_right_numbers() -> Result<()> {
    install()?;
    let programs = Programs::build()?;
    let mut rig = Rig::up(&programs, &RigOptions::new("browser", &[Desktop::Pattern]))?;
    let mut options = StreamOptions::new(Desktop::Pattern, SIZE);
    options.desktop_args = ["--fps", "30"].map(str::to_owned).into();
    let stream = rig.start("pattern", options)?;
    stream.wait_for_rung("ResourceId")?;

    let seen = Watch::start(&stream.url, VIEWER_TOKEN, 8, 1, 0)?.finish()?;
    in_order(&seen, 40, 0)?;

    // Two at once; both join a stream that has run for a while, the second while the first watches.
    let seen = Watch::start(&stream.url, VIEWER_TOKEN, 8, 2, 0)?.finish()?;
    in_order(&seen, 20, 0)
}

/// The page goes on without reload (its notes would be lost) when host-agent, sidecar and desktop die and come back.
#[test]
fn the_page_survives_what_is_killed() -> Result<()> {
    install()?;
    let programs = Programs::build()?;
    let mut rig = Rig::up(&programs, &RigOptions::new("browser", &[Desktop::Pattern]))?;
    let mut stream = rig.start("pattern", StreamOptions::new(Desktop::Pattern, SIZE))?;
    stream.wait_for_rung("ResourceId")?;
    let watch = Watch::start(&stream.url, VIEWER_TOKEN, 45, 1, 1)?;
    wait::until("the page watches", Duration::from_secs(60), || {
        let status = stream.status()?;
        ensure!(status["viewers"] == 1, "{status}");
        Ok(())
    })?;
    std::thread::sleep(Duration::from_secs(3));
    rig.host_agent.kill()?;
    rig.host_agent.restart()?;
    stream.wait_for_rung("ResourceId")?;
    stream.sidecar.kill(Signal::KILL)?;
    stream.sidecar.wait(Duration::from_secs(10))?;
    stream.restart_sidecar(&rig)?;
    stream.wait_for_rung("ResourceId")?;
    stream.desktop.kill(Signal::KILL)?;
    stream.desktop.wait(Duration::from_secs(10))?;
    stream.restart_desktop(&rig)?;
    let seen = watch.finish()?;
    in_order(&seen, 40, 1)?;
    let falls = falls(&numbers(&seen["viewers"][0])?);
    ensure!(falls == 1, "the page drew nothing of the desktop's second life");
    Ok(())
}
