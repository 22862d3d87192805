//! Streams on a real Docker Engine, from file to picture: made, changed, put right, suspended, taken over, removed.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::bed::{self, Bed, Project, pattern, with};

fn desktop(project: &Project<'_>, stream: &str) -> String {
    format!("{}_{stream}_desktop", project.name)
}

fn sidecar(project: &Project<'_>, stream: &str) -> String {
    format!("{}_{stream}_sidecar", project.name)
}

/// Created, changed, put right, suspended, broken, adopted, removed.
pub fn lives(bed: &Bed) -> Result<()> {
    let mut project = bed.project("lives")?;
    project.write("desk", &with(&json!({"desktop": {"home": {"size": "1Gi"}}})))?;
    project.start(&[])?;
    let status = project.await_phase("desk", "Streaming")?;
    ensure!(status["capture"]["rung"] == "Local", "{status}");
    let at = status["viewerURL"].as_str().unwrap_or_default().to_owned();
    ensure!(at.starts_with("http://127.0.0.1:"), "{status}");
    project.eventually("it is told where", || {
        ensure!(project.log().contains(&format!("\ndesk: {at}?token=")), "not yet");
        Ok(())
    })?;
    let before = (bed.id(&desktop(&project, "desk"))?, bed.id(&sidecar(&project, "desk"))?);
    println!("created");

    // Its home is its own, and it has no right.
    let found = bed.inspect(&desktop(&project, "desk"))?;
    ensure!(found["HostConfig"]["CapDrop"] == json!(["ALL"]), "{}", found["HostConfig"]);
    let home = bed.engine().docker(&[
        "exec",
        &desktop(&project, "desk"),
        "/probe",
        "write",
        "/home/desktop/mine",
        "x",
    ]);
    ensure!(home.is_ok(), "its user writes into its home: {home:?}");

    // A change of the sidecar's leaves the desktop running.
    project
        .write("desk", &with(&json!({"desktop": {"home": {"size": "1Gi"}}, "encode": {"bitrate": 400}})))?;
    project.eventually("a new sidecar", || {
        ensure!(bed.id(&sidecar(&project, "desk"))? != before.1, "the same");
        Ok(())
    })?;
    project.await_phase("desk", "Streaming")?;
    ensure!(bed.id(&desktop(&project, "desk"))? == before.0, "the desktop was restarted");
    // One of the desktop's makes it anew, and leaves its home.
    project.write(
        "desk",
        &with(&json!({"desktop": {"home": {"size": "1Gi"}, "env": [{"name": "A", "value": "b"}]}})),
    )?;
    project.eventually("a new desktop", || {
        let found = bed.inspect(&desktop(&project, "desk"))?;
        ensure!(found["Config"]["Env"].to_string().contains("A=b"), "not yet: {}", found["Config"]["Env"]);
        Ok(())
    })?;
    project.await_phase("desk", "Streaming")?;
    bed.engine().docker(&["exec", &desktop(&project, "desk"), "/probe", "list", "/home/desktop"]).and_then(
        |list| {
            ensure!(list.contains("mine"), "its home was lost: {list}");
            Ok(())
        },
    )?;
    println!("changed");

    // What is broken by hand is put right.
    for words in [
        "rm --force SIDECAR",
        "kill DESKTOP",
        "stop --time=1 DESKTOP",
        "pause DESKTOP",
        "network disconnect --force NETWORK DESKTOP",
    ] {
        let words = words
            .replace("SIDECAR", &sidecar(&project, "desk"))
            .replace("DESKTOP", &desktop(&project, "desk"));
        bed.docker(&words.replace("NETWORK", "lives_network"))?;
        project.eventually(&words, || {
            for name in [desktop(&project, "desk"), sidecar(&project, "desk")] {
                let found = bed.inspect(&name)?;
                let state = &found["State"];
                ensure!(state["Running"] == true && state["Paused"] == false, "{name}: {state}");
                let networks = &found["NetworkSettings"]["Networks"];
                ensure!(networks.get("lives_network").is_some(), "{name}: {networks}");
            }
            Ok(())
        })?;
    }
    project.await_phase("desk", "Streaming")?;
    println!("put right");

    // A broken file changes nothing, and is said.
    let good = fs::read(project.file("desk"))?;
    let before = bed.id(&desktop(&project, "desk"))?;
    fs::write(project.file("desk"), "{")?;
    project.eventually("a warning", || {
        ensure!(project.log().contains("streams stay as they were"), "none");
        Ok(())
    })?;
    ensure!(bed.id(&desktop(&project, "desk"))? == before, "a broken file took the desktop away");
    fs::write(project.file("desk"), good)?;

    // An operator that ends leaves desktops running, and the next one takes them over.
    project.end()?;
    ensure!(
        bed.inspect(&desktop(&project, "desk"))?["State"]["Running"] == true,
        "it went with the operator"
    );
    project.start(&[])?;
    project.await_phase("desk", "Streaming")?;
    ensure!(bed.id(&desktop(&project, "desk"))? == before, "it was not taken over");
    println!("taken over");

    // Subcommands.
    let url: serde_json::Value = serde_json::from_str(&project.says(&["open", "desk", "--json"])?)?;
    ensure!(url["url"].as_str().is_some_and(|url| url.contains("?token=")), "{url}");
    ensure!(project.says(&["status"])?.contains("Streaming"), "the table");
    project.says(&["logs", "desk", "--tail", "5"])?;
    project.says(&["doctor"])?;

    project.write("desk", &with(&json!({"desktop": {"home": {"size": "1Gi", "onDelete": "Keep"}}, "lifecycle": {"suspended": true}})))?;
    project.await_phase("desk", "Suspended")?;
    project.eventually("only the home is left", || {
        let things = bed.things("lives_")?;
        ensure!(things == ["lives_desk_home"], "{things:?}");
        Ok(())
    })?;
    println!("suspended");
    project.write("desk", &pattern())?;
    project.await_phase("desk", "Streaming")?;
    fs::remove_file(project.file("desk"))?;
    project.eventually("it is taken away", || {
        let things = bed.things("lives_")?;
        ensure!(things.is_empty(), "{things:?}");
        Ok(())
    })?;
    println!("removed");

    // What an earlier run made stays, until somebody prunes.
    project.end()?;
    project.write("left", &pattern())?;
    project.once_well(&[])?;
    fs::remove_file(project.file("left"))?;
    project.once_well(&[])?;
    ensure!(!bed.things("lives_left")?.is_empty(), "nobody asked for it to go");
    project.once_well(&["--prune"])?;
    ensure!(bed.things("lives_left")?.is_empty(), "--prune");
    Ok(())
}

/// The render node that was given can be opened, another one in sight can't.
pub fn devices(bed: &Bed) -> Result<()> {
    let mut project = bed.project("devices")?;
    let spec = json!({"gpu": {"count": 1}, "desktop": {
        "volumes": [{"name": "all", "hostPath": {"path": "/var/lib/gpus/dev"}}],
        "volumeMounts": [{"name": "all", "mountPath": "/gpus"}],
    }});
    project.write("desk", &with(&spec))?;
    project.start(&[])?;
    project.await_phase("desk", "Streaming")?;
    for container in [desktop(&project, "desk"), sidecar(&project, "desk")] {
        let found = bed.inspect(&container)?;
        ensure!(
            found["HostConfig"]["GroupAdd"] == json!([cluster::product::gpus::GROUP.to_string()]),
            "{container}"
        );
    }
    let open =
        |node: &str| bed.engine().try_docker(&["exec", &desktop(&project, "desk"), "/probe", "open", node]);
    let given = open("/dev/dri/renderD128")?;
    ensure!(given.stdout.trim() == "opened", "{given:?}");
    let other = open("/gpus/renderD129")?;
    ensure!(other.stderr.contains("operation not permitted"), "{other:?}");
    project.write("two", &with(&json!({"gpu": {"count": 2}})))?;
    let message = project.await_reason("two", "DevicesReady", "NoDeviceOnAnyNode")?;
    ensure!(message.contains("--gpu"), "{message}");
    Ok(())
}

/// What can't be done is in the conditions, with what to do.
pub fn failures(bed: &Bed) -> Result<()> {
    let mut project = bed.project("failures")?;
    project.write("nowhere", &with(&json!({"desktop": {"image": "127.0.0.1:1/none:1"}})))?;
    project.write("refused", &with(&json!({"viewers": {"ingress": {"host": "a.b"}}})))?;
    project.write("crashes", &with(&json!({"desktop": {"args": ["no such command"]}})))?;
    project.write("command", &with(&json!({"desktop": {"command": ["/no/such/file"]}})))?;
    project.write("good", &pattern())?;
    let mut taken = bed::stream("taken", &pattern());
    taken["metadata"]["annotations"] = json!({"desktopstream.dev/publish": "127.0.0.1:18080"});
    let first = taken.clone();
    project.write_object("taken", &first)?;
    taken["metadata"]["name"] = "late".into();
    project.start(&[])?;
    project.await_phase("taken", "Streaming")?;
    project.write_object("late", &taken)?;
    let message = project.await_reason("late", "DevicesReady", "ContainerConfigError")?;
    ensure!(message.contains("18080"), "{message}");
    let message = project.await_reason("nowhere", "DevicesReady", "ImageCannotBePulled")?;
    ensure!(message.contains("127.0.0.1:1/none:1"), "{message}");
    let message = project.await_reason("refused", "Ready", "InvalidSpec")?;
    ensure!(message.contains("spec.viewers.ingress"), "{message}");
    let message = project.await_reason("crashes", "Capturing", "DesktopCrashing")?;
    ensure!(message.contains("operator docker logs crashes --desktop"), "{message}");
    let message = project.await_reason("command", "DevicesReady", "ContainerConfigError")?;
    ensure!(message.contains("/no/such/file"), "{message}");
    project.await_phase("good", "Streaming")?;
    // Somebody else's container has the name.
    bed.docker(&format!("run --detach --name failures_theirs_sidecar {} wait", engine::engine::PROBE))?;
    project.write("theirs", &pattern())?;
    project.await_reason("theirs", "DevicesReady", "NameTaken")?;
    bed.docker("rm --force failures_theirs_sidecar")?;
    project.await_phase("theirs", "Streaming")?;
    // A second operator is told.
    let (went, said) = project.once(&[])?;
    ensure!(!went && said.contains("--project"), "{said}");
    Ok(())
}

/// The same stream in two projects.
pub fn projects(bed: &Bed) -> Result<()> {
    let (mut one, mut two) = (bed.project("one")?, bed.project("two")?);
    for project in [&mut one, &mut two] {
        project.write("desk", &pattern())?;
        project.start(&["--prune"])?;
    }
    one.await_phase("desk", "Streaming")?;
    two.await_phase("desk", "Streaming")?;
    let before = bed.id("two_desk_desktop")?;
    fs::remove_file(one.file("desk"))?;
    one.eventually("it is taken away", || {
        let things = bed.things("one_")?;
        ensure!(things.is_empty(), "{things:?}");
        Ok(())
    })?;
    ensure!(bed.id("two_desk_desktop")? == before, "another project's");
    two.says(&["rm", "desk"])?;
    two.eventually("it comes back", || {
        ensure!(bed.id("two_desk_desktop")? != before, "the same");
        Ok(())
    })?;
    two.await_phase("desk", "Streaming")?;
    Ok(())
}

/// The Engine goes and comes back, and with it what the operator does.
pub fn restarts(bed: &Bed) -> Result<()> {
    let mut project = bed.project("restarts")?;
    project.write("desk", &pattern())?;
    project.start(&[])?;
    project.await_phase("desk", "Streaming")?;
    let before = bed.id("restarts_desk_desktop")?;
    let mut early = bed.project("early")?;
    early.write("desk", &pattern())?;
    bed.without_engine(|| {
        // One that is started before its Engine waits for it, too.
        early.start(&[])?;
        early.eventually("it is said", || {
            ensure!(early.log().contains("no Docker Engine at"), "not yet");
            Ok(())
        })?;
        project.eventually("it is said", || {
            ensure!(project.log().contains("no Docker Engine at"), "not yet");
            Ok(())
        })?;
        project.write("late", &pattern())
    })?;
    project.await_phase("late", "Streaming")?;
    project.await_phase("desk", "Streaming")?;
    ensure!(bed.id("restarts_desk_desktop")? == before, "it was made anew");
    early.await_phase("desk", "Streaming")?;
    Ok(())
}

/// Wherever it is killed, the next one brings all about; what it had made, it takes over.
pub fn killed(bed: &Bed) -> Result<()> {
    let mut project = bed.project("killed")?;
    for name in ["one", "two", "three"] {
        project.write(name, &with(&json!({"desktop": {"home": {"size": "1Gi"}}})))?;
    }
    for round in 1..=6 {
        project.start(&[])?;
        std::thread::sleep(Duration::from_millis(250 * round));
        project.kill()?;
    }
    project.start(&[])?;
    for name in ["one", "two", "three"] {
        project.await_phase(name, "Streaming")?;
        fs::remove_file(project.file(name))?;
    }
    project.eventually("nothing is left", || {
        let things = bed.things("killed_")?;
        ensure!(things.is_empty(), "{things:?}");
        Ok(())
    })
}
