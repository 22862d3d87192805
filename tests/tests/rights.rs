//! A hostile container in the VM gets counted refusals only: it neither reads frames of another container nor takes from
//! it what its stream needs. `./x bench isolation` measures what neighbours notice of it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use contract::{FramePath, HostAgentStatus};
use e2e::checks::only_refusals;
use e2e::neighbours::{Neighbours, Observation, SIZE};
use e2e::rig::RigOptions;
use e2e::video::{self, Decoder};
use e2e::{Desktop, Programs};
use lab::Qemu;
use lab::container::Runtime;

/// Duration of a flood, seconds.
const SECONDS: &str = "15";
/// Size of a 4K ring, bytes.
const RING_4K: u64 = 4 * 4 * 3840 * 2160;

#[test]
fn tenant_cannot_harm_another_tenant() -> Result<()> {
    refused(&RigOptions::new("rights", &[Desktop::Pattern]))
}

#[test]
#[ignore = "slow; run by ./x test slow"]
fn tenant_cannot_harm_another_tenant_on_qemu_10_with_containerd() -> Result<()> {
    refused(&RigOptions {
        qemu: Qemu::Trixie,
        runtime: Runtime::Containerd,
        ..RigOptions::new("rights-qemu10", &[Desktop::Pattern])
    })
}

fn refused(options: &RigOptions) -> Result<()> {
    let programs = Programs::build()?;
    let lab = Neighbours::up(&programs, options)?;
    let (before, begin) = (lab.rig.host_agent.status()?, Instant::now());

    let attack = lab.observe(&[lab.attack("attacker", &["all"])?])?;
    println!("beside the attacks: {attack:?}");
    only_refusals(&attack.reports[0])?;
    victim_is_served(&attack)?;
    // Its own ring, and the attacker's newest one with the one that it replaces.
    let own = 4 * 4 * u64::from(SIZE.0) * u64::from(SIZE.1);
    ensure!(attack.ring_bytes < 2 * own + 2 * RING_4K, "{} bytes of rings", attack.ring_bytes);
    let flood = lab.observe(&[lab.attack("flood", &["flood", "--seconds", SECONDS])?])?;
    println!("beside a 4K flood: {flood:?}");
    victim_is_served(&flood)?;
    let answers = &flood.reports[0]["flood"];
    ensure!(
        answers["ok"].is_u64() && answers["rate_limited"].is_u64(),
        "no budget bounds the flood: {flood:?}"
    );

    let elapsed = begin.elapsed().as_secs();
    let after = lab.rig.host_agent.status()?;
    let not_bound = |status: &HostAgentStatus| {
        status.vms.first().and_then(|vm| vm.stats.answers.get("not_bound")).copied().context("no VM")
    };
    ensure!(not_bound(&after)? > not_bound(&before)?, "refusals are not counted");
    let stats = &after.vms[0].stats;
    ensure!(stats.faults == 0 && !stats.disabled, "{stats:?}");
    // A link that was lost and made again is younger than this test. The seconds are rounded down.
    let connected =
        |status: &HostAgentStatus| status.vms.first().map(|vm| vm.connected_seconds).context("no VM");
    let (earlier, later) = (connected(&before)?, connected(&after)?);
    ensure!(
        later + 2 > earlier + elapsed,
        "the tap's link was lost: {earlier} s, {elapsed} s later {later} s"
    );

    // The victim still streams its own frames, and the VM answers.
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("live.h264");
    std::fs::write(&file, video::take(&lab.stream, "/stream.h264", Duration::from_secs(4))?)?;
    let numbers = video::numbers(&file, SIZE, Decoder::Ffmpeg)?;
    let wrong = video::wrong(&numbers);
    ensure!(wrong.is_empty() && video::distinct(&numbers) > 10, "{} pictures: {wrong:?}", numbers.len());
    let status = lab.stream.status()?;
    ensure!(
        status.frame_path == Some(FramePath::ResourceId),
        "the victim changed its frame path: {status:?}"
    );
    lab.rig.vm.guest().check("true")?;
    Ok(())
}

/// The victim's frames go on, and the tap refuses next to none of them: if other programs of the machine preempt the VMM
/// within a read, the time is charged to the read.
fn victim_is_served(observed: &Observation) -> Result<()> {
    let Observation { refused, frames, .. } = observed;
    ensure!(20 * refused <= *frames, "the tap refused {refused} requests of the victim, and served {frames}");
    ensure!(observed.frames > 10, "the victim had {} frames: {observed:?}", observed.frames);
    Ok(())
}
