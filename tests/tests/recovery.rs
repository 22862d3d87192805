//! What is killed comes back by itself, and the stream with it. How fast is printed: the aim is five seconds on a machine
//! of its own, and what is asserted only tells slow from stuck.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::http::number;
use e2e::rig::{RigOptions, Stream, StreamOptions};
use e2e::video::{self, Decoder};
use e2e::{Desktop, Programs, Rig, checks, wait};
use rustix::process::{Pid, Signal, kill_process};

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

/// Longer than any time limit on the way, with host-agent's `--idle-timeout` as below: a message may take 30 s.
const ASLEEP: Duration = Duration::from_secs(35);

/// Who stands still for long and then goes on, as everything does when a Mac's lid is closed, finds its stream again by
/// itself; and who watched all the while sees whole pictures in order.
#[test]
fn what_sleeps_wakes() -> Result<()> {
    let (rig, stream) = to_sleep("sleep")?;
    let (vmm, host_agent) = (rig.vm.qemu_pid(), rig.host_agent.pid());
    slept(&stream, "the Mac", |signal| send(&[vmm, host_agent], signal))?;
    slept(&stream, "host-agent", |signal| send(&[host_agent], signal))?;
    one_of_each(&rig)
}

#[test]
#[ignore = "slow: ./x test slow"]
fn what_sleeps_in_a_vm_wakes() -> Result<()> {
    let (rig, stream) = to_sleep("sleep-vm")?;
    slept(&stream, "the VM", |signal| send(&[rig.vm.qemu_pid()], signal))?;
    slept(&stream, "the sidecar", |signal| stream.sidecar.kill(signal))?;
    one_of_each(&rig)
}

fn to_sleep(name: &str) -> Result<(Rig, Stream)> {
    let programs = Programs::build()?;
    let mut options = RigOptions::new(name, &[Desktop::Pattern]);
    options.host_agent = ["--idle-timeout", "20"].map(str::to_owned).into();
    let mut rig = Rig::up(&programs, &options)?;
    let stream = rig.start("pattern", StreamOptions::new(Desktop::Pattern, SIZE))?;
    stream.wait_for_rung("ResourceId")?;
    Ok((rig, stream))
}

fn send(pids: &[u32], signal: Signal) -> Result<()> {
    for pid in pids {
        kill_process(Pid::from_raw(*pid as i32).context("a process")?, signal)?;
    }
    Ok(())
}

/// Nothing is left of sessions and links that gave up.
fn one_of_each(rig: &Rig) -> Result<()> {
    let status = rig.host_agent.status()?;
    let count = |list: &str| status[list].as_array().map(Vec::len);
    ensure!(count("sessions") == Some(1) && count("vms") == Some(1), "{status}");
    ensure!(status["vms"][0]["stats"]["faults"] == 0, "{status}");
    Ok(())
}

/// One sleep, with a viewer through it.
fn slept(stream: &Stream, who: &str, signal: impl Fn(Signal) -> Result<()>) -> Result<()> {
    const BEFORE: Duration = Duration::from_secs(2);
    const AFTER: Duration = Duration::from_secs(10);
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("live.h264");
    std::thread::scope(|scope| {
        let viewer = scope.spawn(|| video::take(stream, "/stream.h264", BEFORE + ASLEEP + AFTER));
        // What is measured is what time does, and nothing else.
        std::thread::sleep(BEFORE);
        signal(Signal::STOP)?;
        std::thread::sleep(ASLEEP);
        signal(Signal::CONT)?;
        back(stream, who, Instant::now())?;
        let seen = viewer.join().map_err(|_| anyhow::anyhow!("the viewer panicked"))?;
        std::fs::write(&file, seen.with_context(|| format!("a viewer while {who} slept"))?)?;
        Ok::<_, anyhow::Error>(())
    })?;
    let numbers = video::numbers(&file, stream.options.size, Decoder::Ffmpeg)?;
    let wrong = video::wrong(&numbers);
    ensure!(wrong.is_empty(), "{who} slept: {wrong:?}");
    println!("{who}: the viewer saw {} pictures, {} numbers", numbers.len(), video::distinct(&numbers));
    Ok(())
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
        &format!("the sidecar answers after what befell {what}"),
        Duration::from_secs(30),
        || stream.status(),
    )?;
    let answered = Instant::now();
    let frames = number(&first, "/frames/encoded")?;
    wait::until(&format!("the stream is back after what befell {what}"), BACK_WITHIN, || {
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
