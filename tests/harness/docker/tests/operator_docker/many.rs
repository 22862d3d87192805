//! Number of API calls for many streams.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::testbed::{Testbed, passes, pattern};

const STREAMS: usize = 50;
/// Calls to create a stream: two volumes, two containers, an upload, two starts, and lookups.
const CREATE_CALLS: usize = 10;
/// Calls of a new operator's pass that changes nothing: it gives each sidecar its tokens again.
const STEADY_CALLS: usize = STREAMS + 8;

/// Takes `&mut`, as fifty desktops slow other tests down.
pub fn calls_grow_with_the_number_of_streams_only(bed: &mut Testbed) -> Result<()> {
    let bed = &*bed;
    let project = bed.project("many")?;
    for number in 0..STREAMS {
        // A low rate, as only the operator is measured.
        project.write(&format!("desk{number}"), &pattern(&json!({"capture": {"maxFramerate": 1}})))?;
    }
    let began = Instant::now();
    let log = project.once(&[])?;
    println!("{STREAMS} streams in {:.1} s", began.elapsed().as_secs_f64());
    let desktops = bed.objects("many_")?.iter().filter(|it| it.ends_with("_desktop")).count();
    ensure!(desktops == STREAMS, "{desktops} desktops");
    // The number of passes without changes depends on the machine's speed.
    let create: usize = passes(&log).iter().filter(|pass| pass.changed).map(|pass| pass.calls).sum();
    println!("{create} calls to create them, {} per stream", create / STREAMS);
    ensure!(create > 0 && create <= STREAMS * CREATE_CALLS, "{create} calls");
    let log = project.once(&[])?;
    let steady = passes(&log).last().copied().context("no pass in the log")?;
    println!("{} calls of a pass that changes nothing", steady.calls);
    ensure!(!steady.changed && steady.calls <= STEADY_CALLS, "{steady:?}");
    for number in 0..STREAMS {
        std::fs::remove_file(project.file(&format!("desk{number}")))?;
    }
    project.once(&["--prune"])?;
    project.await_objects(&[])
}
