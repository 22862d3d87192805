//! The viewer page in Chromium, checked by the frame numbers in the pixels that it drew.

use std::time::Duration;

use anyhow::{Result, ensure};
use contract::FramePath;
use e2e::browser::{Watch, falls, install, numbers};
use e2e::rig::{RigOptions, StreamOptions, VIEWER_TOKEN};
use e2e::{Desktop, Programs, Rig, wait};
use rustix::process::Signal;

const SIZE: (u32, u32) = (640, 360);

#[test]
fn page_draws_whole_frames_in_order() -> Result<()> {
    install()?;
    let programs = Programs::build()?;
    let mut rig = Rig::up(&programs, &RigOptions::new("browser", &[Desktop::Pattern]))?;
    let mut options = StreamOptions::new(Desktop::Pattern, SIZE);
    options.desktop_args = ["--fps", "30"].map(str::to_owned).into();
    let stream = rig.start("pattern", options)?;
    stream.wait_for_frame_path(FramePath::ResourceId)?;

    Watch::start(&stream.url, VIEWER_TOKEN, 40, 1, 0)?.finish()?;

    // Two viewers that join a running stream, one after the other.
    Watch::start(&stream.url, VIEWER_TOKEN, 20, 2, 0)?.finish().map(drop)
}

/// The page continues without a reload, which would lose its record, when host-agent, sidecar and desktop restart.
#[test]
fn page_survives_restarts_of_host_agent_sidecar_and_desktop() -> Result<()> {
    install()?;
    let programs = Programs::build()?;
    let mut rig = Rig::up(&programs, &RigOptions::new("browser", &[Desktop::Pattern]))?;
    let mut stream = rig.start("pattern", StreamOptions::new(Desktop::Pattern, SIZE))?;
    stream.wait_for_frame_path(FramePath::ResourceId)?;
    let watch = Watch::start(&stream.url, VIEWER_TOKEN, 40, 1, 1)?;
    wait::until("the page is connected", Duration::from_mins(2), || {
        let status = stream.status()?;
        ensure!(status.viewers == 1, "{status:?}");
        Ok(())
    })?;
    let connected = stream.status()?.frames.encoded;
    wait::until("frames reach the page", Duration::from_mins(2), || {
        let status = stream.status()?;
        ensure!(status.frames.encoded >= connected + 30, "{status:?}");
        Ok(())
    })?;
    rig.host_agent.kill()?;
    rig.host_agent.restart()?;
    stream.wait_for_frame_path(FramePath::ResourceId)?;
    stream.sidecar.kill(Signal::KILL)?;
    stream.sidecar.wait(Duration::from_mins(2))?;
    stream.restart_sidecar(&rig)?;
    stream.wait_for_frame_path(FramePath::ResourceId)?;
    stream.desktop.kill(Signal::KILL)?;
    stream.desktop.wait(Duration::from_mins(2))?;
    stream.restart_desktop(&rig)?;
    let seen = watch.finish()?;
    let falls = falls(&numbers(&seen["viewers"][0])?);
    ensure!(falls == 1, "the page drew no frame after the restart of the desktop");
    Ok(())
}
