//! A second container in the same VM that wants the first one's pictures gets counted refusals, and nothing else.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::checks::only_refusals;
use e2e::http::number;
use e2e::rig::{RigOptions, StreamOptions};
use e2e::video::{self, Decoder};
use e2e::{Desktop, Programs, Rig};
use lab::Qemu;
use lab::container::{Container, Runtime, Spec};
use serde_json::Value;

const SIZE: (u32, u32) = (640, 360);

#[test]
fn a_tenant_gets_no_other_tenants_pictures() -> Result<()> {
    refused(&RigOptions::new("rights", &[Desktop::Pattern]))
}

#[test]
#[ignore = "slow: ./x test slow"]
fn nor_with_a_newer_qemu_and_containerd() -> Result<()> {
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
    stream.wait_for_rung("ResourceId")?;
    let before = rig.host_agent.status()?;

    let attacker = format!("{}/attacker", lab::payload::IN_CONTAINER);
    let (width, height) = (SIZE.0.to_string(), SIZE.1.to_string());
    let argv = [&attacker, "--upstream", &rig.host_agent.upstream(), "--width", &width, "--height", &height];
    let token = rig.host_agent.token("other/attacker", &[])?;
    let spec = Spec::new("attacker", "sidecar", &argv).env("ATTACKER_TOKEN", &token).runtime(options.runtime);
    let (code, out) = Container::run(rig.vm.guest(), &spec, Duration::from_secs(180))?;
    ensure!(code == 0, "the attacker failed: {code}\n{out}");
    println!("attacker: {}", out.trim());
    let report: Value =
        serde_json::from_str(out.lines().last().unwrap_or_default()).with_context(|| out.clone())?;

    only_refusals(&report)?;

    let after = rig.host_agent.status()?;
    let refused = |status: &Value, what| number(status, &format!("/vms/0/stats/answers/{what}"));
    ensure!(refused(&after, "not_bound")? > refused(&before, "not_bound")?, "refusals are not counted");
    ensure!(
        after["vms"][0]["stats"]["faults"] == 0 && after["vms"][0]["stats"]["disabled"] == false,
        "{after}"
    );

    // The victim streams on, its pictures are its own, and the VM lives.
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("live.h264");
    std::fs::write(&file, video::take(&stream, "/stream.h264", Duration::from_secs(4))?)?;
    let numbers = video::numbers(&file, SIZE, Decoder::Ffmpeg)?;
    let wrong = video::wrong(&numbers);
    ensure!(wrong.is_empty() && video::distinct(&numbers) > 10, "{} pictures: {wrong:?}", numbers.len());
    ensure!(stream.status()?["rung"] == "ResourceId", "the victim lost its rung");
    rig.vm.guest().check("true")?;
    Ok(())
}
