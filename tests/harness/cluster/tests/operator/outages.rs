//! Outages of the operator, of the apiserver and of the webhook.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use cluster::Daemon;
use cluster::product::{Installed, SYSTEM, TIMEOUT, http, spec_without_gpu};

use crate::injection::{labelled_pod, with_injection};

/// Port of the operator's metrics.
const METRICS_PORT: u16 = 8081;
/// Objects of a stream, in any order.
const KINDS: [&str; 4] = ["secrets", "pods", "services", "networkpolicies"];

/// The operators run outside of the cluster, as a kubelet delays each restart further; they have the same rights. Each is
/// killed at another point: at its start, when it leads, or when it has created one to four objects of its stream.
pub fn operator_killed_at_any_point_completes_all_objects(bed: &Installed) -> Result<()> {
    const ROUNDS: usize = 20;
    bed.scale(0)?;
    // The webhook's server was in the operator.
    bed.cluster.kubectl(&["delete", "validatingwebhookconfiguration", "desktopstream"])?;
    let name = |round: usize| format!("killed-{round}");
    for round in 0..ROUNDS {
        // A killed operator does not release its Lease.
        let lease = ["-n", SYSTEM, "delete", "lease", "desktopstream-operator", "--ignore-not-found"];
        bed.cluster.kubectl(&lease)?;
        bed.eventually("the apiserver stops calling the webhook", || {
            bed.apply_stream(&name(round), &spec_without_gpu())
        })?;
        let operator = bed.start_operator("killed", &["--lease=6s", "--poll=3s"])?;
        match round % (KINDS.len() + 2) {
            0 => {}
            1 => operator.await_leading(bed)?,
            point => await_objects(bed, &name(round), point - 1)?,
        }
        drop(operator);
    }
    println!("         objects of {ROUNDS} streams after the kills: {:?}", count(bed, None)?);
    bed.reinstall()?;
    for round in 0..ROUNDS {
        let name = name(round);
        bed.await_reason(&name, "DevicesReady", "Unschedulable")?;
        for (kind, end) in [
            ("service", "viewers"),
            ("networkpolicy", "desktop"),
            ("secret", "viewer"),
            ("secret", "host-agent"),
        ] {
            bed.await_object(kind, &format!("{name}-{end}"))?;
        }
    }
    let counts = count(bed, None)?;
    let expected = KINDS.map(|kind| if kind == "secrets" { 2 * ROUNDS } else { ROUNDS });
    ensure!(counts == expected, "two Secrets and one of each other kind per stream: {counts:?}");
    let all: Vec<String> = (0..ROUNDS).map(name).collect();
    bed.delete_streams(&all.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Waits until at least `least` objects of a stream exist. Looks without a pause, to kill the operator between two of them.
fn await_objects(bed: &Installed, name: &str, least: usize) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    while count(bed, Some(name))?.iter().sum::<usize>() < least {
        ensure!(Instant::now() < deadline, "{name} has fewer than {least} objects\n{}", bed.logs());
    }
    Ok(())
}

/// Number of streams' objects of each of [`KINDS`].
fn count(bed: &Installed, stream: Option<&str>) -> Result<[usize; KINDS.len()]> {
    let label = "desktopstream.dev/stream";
    let labels = stream.map_or_else(|| label.to_owned(), |name| format!("{label}={name}"));
    let mut counts = [0; KINDS.len()];
    for (count, kind) in counts.iter_mut().zip(KINDS) {
        *count = bed.api.list("default", kind, &labels)?.len();
    }
    Ok(counts)
}

/// The outage lasts until the operator has lost its Lease.
pub fn operator_resumes_after_an_apiserver_outage(bed: &mut Installed) -> Result<()> {
    bed.apply_stream("early", &spec_without_gpu())?;
    bed.await_object("pod", "early-desktop")?;
    let pods = bed.operator_pods()?;
    let pod = pods.first().context("no operator")?;
    let address = pod["status"]["podIP"].as_str().context("the pod has no address")?;
    let metrics = bed.cluster.forward(SocketAddr::new(address.parse()?, METRICS_PORT))?;
    bed.cluster.stop(Daemon::Apiserver)?;
    await_lost_lease(metrics.address())?;
    bed.cluster.start(Daemon::Apiserver)?;
    let back = Instant::now();
    bed.eventually("a stream is accepted", || bed.apply_stream("late", &spec_without_gpu()))?;
    bed.await_object("pod", "late-desktop")?;
    println!(
        "         the pod was created {:.1} s after the apiserver's start",
        back.elapsed().as_secs_f64()
    );
    let pods = bed.operator_pods()?;
    let restarts = &pods[0]["status"]["containerStatuses"][0]["restartCount"];
    ensure!(*restarts == 0, "the operator restarted {restarts} times, and its webhook with it");
    bed.delete_streams(&["early", "late"])
}

fn await_lost_lease(metrics: SocketAddr) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let found =
            http::get(metrics, "/metrics", None).map(|(_, body)| String::from_utf8_lossy(&body).into_owned());
        match found {
            Ok(text) if text.contains("desktopstream_operator_leader 0") => return Ok(()),
            found if Instant::now() > deadline => bail!("the operator still leads: {found:?}"),
            _ => std::thread::sleep(Duration::from_millis(250)),
        }
    }
}

/// Injection fails open.
pub fn foreign_pods_start_without_the_webhook(bed: &Installed) -> Result<()> {
    with_injection(bed, || {
        bed.scale(0)?;
        bed.cluster.apply(&labelled_pod("free", "missing").to_string())?;
        bed.cluster.wait("default", "pod/free", "condition=Ready", TIMEOUT)?;
        bed.cluster.kubectl(&["delete", "pod", "free"])?;
        bed.reinstall()
    })
}

/// Validation fails closed.
pub fn streams_are_refused_without_the_webhook(bed: &Installed) -> Result<()> {
    bed.scale(0)?;
    let refused = bed.apply_stream("refused", &spec_without_gpu());
    let error = refused.err().context("the stream was accepted")?;
    ensure!(format!("{error:#}").contains("validate.desktopstream.dev"), "{error:#}");
    bed.reinstall()
}
