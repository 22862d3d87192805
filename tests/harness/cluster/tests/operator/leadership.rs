//! Leader election among two operators.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use cluster::product::{Installed, SYSTEM, spec_without_gpu};

pub fn standby_waits_while_the_leader_renews_its_lease(bed: &Installed) -> Result<()> {
    let leader = bed.eventually("an operator leads", || bed.leader().context("no leader"))?;
    let transitions = || Ok::<_, anyhow::Error>(bed.lease()?["spec"]["leaseTransitions"].clone());
    let before = transitions()?;
    bed.scale(2)?;
    let mut renewals = BTreeSet::new();
    bed.eventually("the leader renews its Lease three times", || {
        let lease = bed.lease()?;
        renewals.insert(lease["spec"]["renewTime"].to_string());
        ensure!(renewals.len() > 3, "{renewals:?}");
        Ok(())
    })?;
    ensure!(bed.leader().as_ref() == Some(&leader), "{:?} leads, not {leader}", bed.leader());
    ensure!(transitions()? == before, "the Lease changed hands");
    bed.scale(1)?;
    bed.eventually("an operator leads", || bed.leader().context("no leader"))?;
    bed.await_installation()
}

pub fn standby_leads_after_the_leader_was_killed(bed: &Installed) -> Result<()> {
    let first = bed.eventually("an operator leads", || bed.leader().context("no leader"))?;
    bed.scale(2)?;
    let (pod, _) = first.rsplit_once('_').context("an identity is POD_RANDOM")?;
    bed.cluster.kubectl(&["-n", SYSTEM, "delete", "pod", pod, "--grace-period=0", "--force"])?;
    let begin = Instant::now();
    let second = bed.eventually("the other operator leads", || {
        bed.leader().filter(|leader| *leader != first).context("the killed one still holds the Lease")
    })?;
    println!("         {second} leads after {:.1} s", begin.elapsed().as_secs_f64());
    bed.apply_stream("second", &spec_without_gpu())?;
    bed.await_object("pod", "second-desktop")?;
    bed.delete_streams(&["second"])?;
    bed.scale(1)?;
    bed.await_installation()
}
