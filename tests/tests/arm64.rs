//! The frame path from an arm64 guest, the architecture of a VM on a Mac, with cross-compiled programs.

use anyhow::{Result, ensure};
use e2e::rig::{RigOptions, StreamOptions};
use e2e::{Desktop, Programs, Rig, checks};
use lab::Arch;

#[test]
#[ignore = "slow; run by ./x test slow"]
fn pattern_on_arm64_streams_by_resource_id() -> Result<()> {
    let programs = Programs::build_for(Arch::Arm64)?;
    let mut rig = Rig::up(&programs, &RigOptions::new("arm64", &[Desktop::Pattern]))?;
    let machine = rig.vm.guest().check("uname -m")?;
    ensure!(machine.trim() == "aarch64", "unexpected guest architecture {machine}");

    let mut options = StreamOptions::new(Desktop::Pattern, (640, 360));
    options.desktop_args = vec!["--log".to_owned()];
    let stream = rig.start("pattern", options)?;
    checks::frames_cost_few_bytes(&stream)?;
    checks::numbers_are_right(&stream)?;
    stream.stop()
}
