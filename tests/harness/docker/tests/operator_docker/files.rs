//! Files of streams: unreadable ones, and removal while the operator runs and while it does not.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::testbed::{Testbed, pattern};

pub fn unreadable_file_keeps_streams_as_they_are(bed: &Testbed) -> Result<()> {
    let mut project = bed.project("unreadable")?;
    project.start_with("desk", &pattern(&json!({})))?;
    let readable = fs::read(project.file("desk"))?;
    let before = bed.id(&project.desktop("desk"))?;
    fs::write(project.file("desk"), "{")?;
    project.eventually("a warning that names the file", || {
        let log = project.log();
        ensure!(log.lines().any(|line| line.contains("WARN") && line.contains("desk.yaml")), "no warning");
        Ok(())
    })?;
    ensure!(bed.id(&project.desktop("desk"))? == before, "the desktop was replaced");
    fs::write(project.file("desk"), readable)?;
    project.remove_file("desk")?;
    project.await_objects(&[])
}

pub fn removed_file_removes_the_stream(bed: &Testbed) -> Result<()> {
    let mut project = bed.project("removed")?;
    project.start_with("desk", &pattern(&json!({"desktop": {"home": {"size": "1Gi"}}})))?;
    project.remove_file("desk")?;
    project.await_objects(&[])
}

/// An operator that has never read a stream's file cannot tell whether the stream was deleted or its folder not mounted: it
/// reports the stream and removes it on request only.
pub fn file_removed_between_runs_leaves_an_orphan_until_it_is_pruned(bed: &Testbed) -> Result<()> {
    let mut project = bed.project("orphan")?;
    project.start_with("desk", &pattern(&json!({})))?;
    project.end()?;
    let before = bed.id(&project.desktop("desk"))?;
    fs::remove_file(project.file("desk"))?;

    project.start(&[])?;
    let message = project.await_reason("desk", "Ready", "Orphaned")?;
    ensure!(message.contains("--prune"), "{message}");
    ensure!(bed.id(&project.desktop("desk"))? == before, "the desktop was replaced");
    // The file makes it a stream like any other.
    project.write("desk", &pattern(&json!({})))?;
    project.await_reason("desk", "Ready", "PathSatisfied")?;
    ensure!(bed.id(&project.desktop("desk"))? == before, "the desktop was replaced");
    project.end()?;

    fs::remove_file(project.file("desk"))?;
    project.once(&["--prune"])?;
    project.await_objects(&[])
}
