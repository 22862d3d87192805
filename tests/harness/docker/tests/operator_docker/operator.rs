//! The operator itself: restarted, killed, started twice, without an Engine, and its subcommands.

use std::time::Instant;

use anyhow::{Result, ensure};
use engine::Daemon;
use serde_json::{Value, json};

use crate::testbed::{Project, TIMEOUT, Testbed, pattern};

pub fn restarted_operator_adopts_running_desktops(bed: &Testbed) -> Result<()> {
    let mut project = bed.project("adopts")?;
    project.start_with("desk", &pattern(&json!({})))?;
    let before = bed.id(&project.desktop("desk"))?;
    project.end()?;
    let state = bed.inspect(&project.desktop("desk"))?["State"].clone();
    ensure!(state["Running"] == true, "the desktop ended with the operator: {state}");
    project.start(&[])?;
    // The restarted operator has to act on the stream before it is judged.
    project.write("desk", &pattern(&json!({"encode": {"bitrateKbps": 400}})))?;
    let sidecar = bed.id(&project.sidecar("desk"))?;
    project.eventually("the operator works on the stream", || {
        ensure!(bed.id(&project.sidecar("desk"))? != sidecar, "the same sidecar");
        Ok(())
    })?;
    project.await_phase("desk", "Streaming")?;
    ensure!(bed.id(&project.desktop("desk"))? == before, "the desktop was replaced");
    Ok(())
}

/// Each operator is killed when another number of the project's objects exists, from none to all.
pub fn operator_killed_at_any_point_is_replaced_by_the_next(bed: &Testbed) -> Result<()> {
    let mut project = bed.project("killed")?;
    let streams = ["one", "two", "three"];
    for name in streams {
        project.write(name, &pattern(&json!({"desktop": {"home": {"size": "1Gi"}}})))?;
    }
    for least in [0, 1, 3, 5, 8, 11] {
        project.start(&[])?;
        await_at_least(bed, &project, least)?;
        project.kill()?;
    }
    project.start(&[])?;
    for name in streams {
        project.await_phase(name, "Streaming")?;
    }
    for name in streams {
        // Waits until this operator has read the files, as its predecessors' status may say Streaming already.
        project.remove_file(name)?;
    }
    project.await_objects(&[])
}

/// Looks without a pause, to kill the operator between two objects.
fn await_at_least(bed: &Testbed, project: &Project<'_>, least: usize) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let objects = bed.objects("killed_")?;
        if objects.len() >= least {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "only {objects:?}\n{}", project.log());
    }
}

pub fn second_operator_of_a_project_is_refused(bed: &Testbed) -> Result<()> {
    let mut project = bed.project("twice")?;
    project.start_with("desk", &pattern(&json!({})))?;
    let (succeeded, log) = project.try_once(&[])?;
    ensure!(!succeeded && log.contains("--project"), "{log}");
    Ok(())
}

pub fn commands_print_url_status_logs_and_checks(bed: &Testbed) -> Result<()> {
    let mut project = bed.project("commands")?;
    project.start_with("desk", &pattern(&json!({})))?;
    let open: Value = serde_json::from_str(&project.print(&["open", "desk", "--json"])?)?;
    ensure!(open["url"].as_str().is_some_and(|url| url.contains("/#token=")), "{open}");
    let watch: Value = serde_json::from_str(&project.print(&["open", "desk", "--view-only", "--json"])?)?;
    ensure!(watch["url"].as_str().is_some_and(|url| url.contains("/#token=")) && watch != open, "{watch}");
    let table = project.print(&["status"])?;
    ensure!(table.contains("Streaming"), "{table}");
    let log = project.print(&["logs", "desk", "--tail", "5"])?;
    ensure!(log.lines().count() <= 5, "{log}");
    project.print(&["doctor"])?;
    Ok(())
}

/// One operator is running when the Engine stops, another one is started without an Engine. Takes `&mut`, as the Engine must not
/// stop during other tests.
pub fn operators_wait_for_the_engine(bed: &mut Testbed) -> Result<()> {
    let bed = &*bed;
    let mut running = bed.project("waits")?;
    running.start_with("desk", &pattern(&json!({})))?;
    let before = bed.id(&running.desktop("desk"))?;
    let mut early = bed.project("early")?;
    early.write("desk", &pattern(&json!({})))?;
    bed.engine.stop(Daemon::Dockerd)?;
    let during = (|| {
        early.start(&[])?;
        for project in [&early, &running] {
            project.eventually("the operator reports the outage", || {
                let log = project.log();
                let reported =
                    log.lines().any(|line| line.contains("WARN") && line.contains("Docker Engine"));
                ensure!(reported, "no warning");
                Ok(())
            })?;
        }
        running.write("late", &pattern(&json!({})))
    })();
    bed.engine.start_and_wait(Daemon::Dockerd)?;
    during?;
    for (project, stream) in [(&running, "late"), (&running, "desk"), (&early, "desk")] {
        project.await_phase(stream, "Streaming")?;
    }
    ensure!(bed.id(&running.desktop("desk"))? == before, "the desktop was replaced");
    Ok(())
}
