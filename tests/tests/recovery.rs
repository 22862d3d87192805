//! What is killed comes back by itself, and the stream with it. How fast is printed: the aim is five seconds on a machine
//! of its own, and what is asserted only tells slow from stuck.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::http::number;
use e2e::rig::{RigOptions, Stream, StreamOptions};
use e2e::{Desktop, Programs, Rig, checks, wait};
use rustix::process::Signal;

const SIZE: (u32, u32) = (640, 360);
/// Longer than this is no recovery, on however busy a machine.
const BACK_WITHIN: Duration = Duration::from_secs(20);

#[test]
fn what_is_killed_comes_back() -> Result<()> {
    let programs = Programs::build()?;
    let mut rig = Rig::up(&programs, &RigOptions::new("recovery", &[Desktop::Pattern]))?;
    let mut stream = rig.start("pattern", StreamOptions::new(Desktop::Pattern, SIZE))?;
    stream.wait_for_rung("ResourceId")?;

    rig.host_agent.kill()?;
    wait::until("the sidecar encodes by itself", Duration::from_secs(10), || {
        let status = stream.status()?;
        ensure!(status["rung"] == "Local", "{status}");
        Ok(())
    })?;
    let away = Instant::now();
    rig.host_agent.restart()?;
    back(&stream, "host-agent", away)?;

    stream.sidecar.kill(Signal::KILL)?;
    stream.sidecar.wait(Duration::from_secs(10))?;
    stream.restart_sidecar(&rig)?;
    back(&stream, "sidecar", Instant::now())?;

    stream.desktop.kill(Signal::KILL)?;
    stream.desktop.wait(Duration::from_secs(10))?;
    stream.restart_desktop(&rig)?;
    back(&stream, "desktop", Instant::now())?;

    // The VM: its host-agent forgets it and its session.
    let Rig { vm, host_agent, .. } = rig;
    drop(stream);
    vm.down()?;
    wait::until("the host-agent has cleaned up", Duration::from_secs(15), || {
        let status = host_agent.status()?;
        let empty = |list: &str| status[list].as_array().is_some_and(Vec::is_empty);
        ensure!(empty("vms") && empty("sessions"), "{status}");
        Ok(())
    })
}

/// GNOME's frames cost as few bytes as anybody's. PipeWire dies under a desktop that lives: the desktop starts it again, the
/// sidecar casts the screen anew. One test, as GNOME takes two minutes to start under emulation.
#[test]
fn gnome_streams_and_pipewire_may_die() -> Result<()> {
    let programs = Programs::build()?;
    let mut rig = Rig::up(&programs, &RigOptions::new("pipewire", &[Desktop::Gnome]))?;
    let begin = Instant::now();
    let stream = rig.start("gnome", StreamOptions::new(Desktop::Gnome, SIZE))?;
    // A shell that has just started is busy for a while.
    let first = stream.wait_for_rung("ResourceId")?;
    println!("GNOME's first frame is there after {:.1} s", begin.elapsed().as_secs_f64());
    wait::until("the shell has settled", Duration::from_secs(60), || {
        let more = number(&stream.status()?, "/frames/encoded")? - number(&first, "/frames/encoded")?;
        ensure!(more > 100.0, "{more} frames");
        Ok(())
    })?;
    checks::frames_cost_few_bytes(&stream).with_context(|| stream.logs())?;
    for name in ["pipewire", "wireplumber"] {
        rig.vm.guest().check(&format!("pkill -KILL -x {name}"))?;
        back(&stream, name, Instant::now())?;
    }
    Ok(())
}

/// Waits until new frames flow by resource ID again.
fn back(stream: &Stream, what: &str, since: Instant) -> Result<()> {
    // Starting a container takes seconds under emulation; the stream's own part is what is bounded.
    let first = wait::until(
        &format!("the sidecar answers after {what} was killed"),
        Duration::from_secs(30),
        || stream.status(),
    )?;
    let answered = Instant::now();
    let frames = number(&first, "/frames/encoded")?;
    wait::until(&format!("the stream is back after {what} was killed"), BACK_WITHIN, || {
        let status = stream.status()?;
        ensure!(
            status["rung"] == "ResourceId" && number(&status, "/frames/encoded")? > frames + 5.0,
            "{status}"
        );
        Ok(())
    })
    .with_context(|| stream.logs())?;
    println!(
        "{what}: the stream is back {:.1} s after it was there again ({:.1} s after its start)",
        answered.elapsed().as_secs_f64(),
        since.elapsed().as_secs_f64()
    );
    Ok(())
}
