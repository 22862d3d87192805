//! Fifty streams in one pass, with calls that don't grow faster than the streams.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::bed::{Bed, with};

const STREAMS: usize = 50;
/// Two volumes, two containers, an upload, two starts, and looks: per stream, to make it.
const CALLS: usize = 10;
/// A pass over streams that are as they should be, by a new operator, which hands each sidecar its tokens anew.
const STEADY: usize = STREAMS + 8;

pub fn fifty(bed: &Bed) -> Result<()> {
    let project = bed.project("many")?;
    for number in 0..STREAMS {
        // Resting desktops cost nothing here: what is measured is the operator's.
        project.write(&format!("desk{number}"), &with(&json!({"capture": {"maxFramerate": 1}})))?;
    }
    let began = Instant::now();
    let log = project.once_well(&[])?;
    println!("{:.1} s for {STREAMS} streams", began.elapsed().as_secs_f64());
    let containers = bed.things("many_")?.iter().filter(|it| it.ends_with("_desktop")).count();
    ensure!(containers == STREAMS, "{containers} desktops");
    let made: usize = passes(&log)?.iter().sum();
    println!("{made} calls to make them: {} a stream", made / STREAMS);
    ensure!(made <= STREAMS * CALLS, "{made} calls");
    let log = project.once_well(&[])?;
    let steady = passes(&log)?.last().copied().context("a pass")?;
    println!("{steady} calls in a pass that changes nothing");
    ensure!(steady <= STEADY, "{steady} calls");
    std::fs::read_dir(project.file("x").parent().context("a folder")?)?
        .try_for_each(|entry| std::fs::remove_file(entry?.path()))?;
    project.once_well(&["--prune"])?;
    ensure!(bed.things("many_")?.is_empty(), "all are gone");
    Ok(())
}

/// The calls of each pass, as the log tells them.
fn passes(log: &str) -> Result<Vec<usize>> {
    let calls = log.lines().filter_map(|line| line.split("calls=").nth(1));
    let calls = calls.map(|rest| rest.split(' ').next().unwrap_or_default().parse());
    Ok(calls.collect::<Result<_, _>>()?)
}
