//! A hostile container in the VM that requests another container's frames receives counted refusals only.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use contract::{FramePath, HostAgentStatus};
use e2e::checks::only_refusals;
use e2e::rig::{RigOptions, StreamOptions};
use e2e::video::{self, Decoder};
use e2e::{Desktop, Programs, Rig};
use lab::Qemu;
use lab::container::{Container, Runtime, Spec};
use serde_json::Value;

const SIZE: (u32, u32) = (640, 360);

#[test]
fn tenant_cannot_read_frames_of_another_tenant() -> Result<()> {
    refused(&RigOptions::new("rights", &[Desktop::Pattern]))
}

#[test]
#[ignore = "slow; run by ./x test slow"]
fn tenant_cannot_read_frames_of_another_tenant_on_qemu_10_with_containerd() -> Result<()> {
    refused(&RigOptions {
        qemu: Qemu::Trixie,
        runtime: Runtime::Containerd,
        ..RigOptions::new("rights-qemu10", &[Desktop::Pattern])
    })
}

fn refused(options: &RigOptions) -> Result<()> {
    let programs = Programs::build()?;
    let mut rig = Rig::up(&programs, options)?;
    let stream = rig.start("victim", StreamOptions::new(Desktop::Pattern, SIZE))?;
    stream.wait_for_frame_path(FramePath::ResourceId)?;
    let before = rig.host_agent.status()?;

    let attacker = format!("{}/attacker", lab::payload::IN_CONTAINER);
    let (width, height) = (SIZE.0.to_string(), SIZE.1.to_string());
    let argv = [&attacker, "--upstream", &rig.host_agent.upstream(), "--width", &width, "--height", &height];
    let token = rig.host_agent.token("other/attacker", &[])?;
    let spec = Spec::new("attacker", "sidecar", &argv).env("ATTACKER_TOKEN", &token).runtime(options.runtime);
    let (code, out) = Container::run(rig.vm.guest(), &spec, Duration::from_secs(180))?;
    ensure!(code == 0, "the attacker exited with {code}\n{out}");
    println!("attacker: {}", out.trim());
    let report: Value =
        serde_json::from_str(out.lines().last().unwrap_or_default()).with_context(|| out.clone())?;

    only_refusals(&report)?;

    let after = rig.host_agent.status()?;
    let not_bound = |status: &HostAgentStatus| {
        status.vms.first().and_then(|vm| vm.stats.answers.get("not_bound")).copied().context("no VM")
    };
    ensure!(not_bound(&after)? > not_bound(&before)?, "refusals are not counted");
    let stats = &after.vms[0].stats;
    ensure!(stats.faults == 0 && !stats.disabled, "{stats:?}");

    // The victim still streams its own frames, and the VM answers.
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("live.h264");
    std::fs::write(&file, video::take(&stream, "/stream.h264", Duration::from_secs(4))?)?;
    let numbers = video::numbers(&file, SIZE, Decoder::Ffmpeg)?;
    let wrong = video::wrong(&numbers);
    ensure!(wrong.is_empty() && video::distinct(&numbers) > 10, "{} pictures: {wrong:?}", numbers.len());
    let status = stream.status()?;
    ensure!(
        status.frame_path == Some(FramePath::ResourceId),
        "the victim changed its frame path: {status:?}"
    );
    rig.vm.guest().check("true")?;
    Ok(())
}
