//! `./x bench control`: how the operator does with many streams, against a real apiserver. No pod runs: the scheduler is
//! stopped, as it and the kubelet would want the processors that are measured.

mod report;
mod seen;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use cluster::Daemon;
use cluster::product::{Bed, Outside, SYSTEM, http, stream};
use serde_json::{Value, json};

use seen::Seen;

/// How many `kubectl create` at once: each asks a bounded number of times a second.
const CREATORS: usize = 8;
/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(400);

#[derive(Parser)]
struct Arguments {
    /// Folder for control.json, control.md and control.svg
    #[arg(long, default_value = "bench")]
    out: PathBuf,
    /// How many streams
    #[arg(long, default_value_t = 1000)]
    streams: usize,
    /// Seconds during which nothing changes
    #[arg(long, default_value_t = 60)]
    steady: u64,
}

fn main() -> Result<()> {
    let Arguments { out, streams, steady } = Arguments::parse();
    fs::create_dir_all(&out).with_context(|| format!("creating {}", out.display()))?;
    let mut bed = Bed::control_plane("bench")?;
    bed.apply_manifests(&["--replicas=0"])?;
    for kind in ["validatingwebhookconfiguration", "mutatingwebhookconfiguration"] {
        bed.cluster.kubectl(&["delete", kind, "desktopstream"])?;
    }
    bed.cluster.kubectl(&["-n", SYSTEM, "delete", "daemonset", "desktopstream-node"])?;
    bed.cluster.stop(Daemon::Scheduler)?;

    let seen = Seen::watch(&bed)?;
    let operator = start(&bed)?;
    let idle = Numbers::of(&operator)?;
    say("creating streams");
    let begin = Instant::now();
    create(&bed, streams)?;
    let created = begin.elapsed();
    let times = seen.await_all(streams, PATIENCE)?;
    let all = times.last();
    let busy = Numbers::of(&operator)?.since(&idle);
    say("waiting for peace");
    settle(&operator)?;
    let settled = Numbers::of(&operator)?.since(&idle);

    say("watching nothing happen");
    let before = Numbers::of(&operator)?;
    sleep(Duration::from_secs(steady));
    let calm = Numbers::of(&operator)?.since(&before);
    let rss = memory(&operator)?;
    drop(operator);

    say("starting again, with all of them there");
    bed.cluster.kubectl(&["-n", SYSTEM, "delete", "lease", "desktopstream-operator"])?;
    let again = start(&bed)?;
    let restart = Instant::now();
    let (mut after, mut took) = (Numbers::of(&again)?, Duration::ZERO);
    while after.reconciles < streams as f64 {
        ensure!(restart.elapsed() < PATIENCE, "only {} were reconciled", after.reconciles);
        sleep(Duration::from_millis(100));
        took = restart.elapsed();
        after = Numbers::of(&again)?;
    }
    drop(again);

    let per_minute = |calls: f64| calls * 60.0 / steady as f64;
    let report = json!({
        "host": host()?,
        "streams": streams,
        "seconds": {"creating": created.as_secs_f64(), "all": all.as_secs_f64()},
        "reconciles_per_s": busy.reconciles / all.as_secs_f64(),
        "streams_per_s": streams as f64 / all.as_secs_f64(),
        "create_to_desired_ms": times.quantiles(),
        "api_calls_per_stream": settled.work() / streams as f64,
        "steady_calls_per_minute": per_minute(calm.work()),
        "steady_lease_calls_per_minute": per_minute(calm.lease),
        "restart": {"seconds": took.as_secs_f64(), "reconciles_per_s": after.reconciles / took.as_secs_f64(), "writes": after.write},
        "operator": {
            "cpu_seconds": settled.cpu, "cpu_ms_per_stream": settled.cpu * 1000.0 / streams as f64,
            "steady_cpu_percent": calm.cpu / steady as f64 * 100.0,
            "rss_mb": rss.0, "peak_rss_mb": rss.1,
        },
    });
    fs::write(out.join("control.json"), serde_json::to_string_pretty(&report)? + "\n")?;
    fs::write(out.join("control.svg"), report::svg(&times))?;
    let table = report::markdown(&report);
    fs::write(out.join("control.md"), &table)?;
    println!("{table}");
    Ok(())
}

fn say(what: &str) {
    eprintln!("x: {what}");
}

/// An operator that works.
fn start(bed: &Bed) -> Result<Outside> {
    let operator = bed.operator_outside("bench", &[])?;
    bed.eventually("it leads", || {
        let (status, body) = http::get(operator.metrics, "/metrics", None)?;
        let text = String::from_utf8(body)?;
        ensure!(status == 200 && text.contains("desktopstream_operator_leader 1"), "not yet");
        ensure!(http::get(operator.metrics, "/readyz", None)?.0 == 200, "reads what is there");
        Ok(())
    })?;
    Ok(operator)
}

/// Creates them as a person with a big file would.
fn create(bed: &Bed, streams: usize) -> Result<()> {
    let spec = json!({
        "desktop": {"image": "desktopstream/desktop-sway"}, "capture": {"width": 1280, "height": 720},
    });
    let names: Vec<String> = (0..streams).map(|number| format!("s{number}")).collect();
    let mut children = Vec::new();
    for (at, names) in names.chunks(streams.div_ceil(CREATORS)).enumerate() {
        let items: Vec<Value> = names.iter().map(|name| stream(name, &spec)).collect();
        let file = bed.cluster.folder()?.join(format!("streams-{at}.json"));
        fs::write(&file, json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())?;
        let mut command = bed.cluster.command("kubectl")?;
        command.args(["create", "-f"]).arg(file).stdout(Stdio::null());
        children.push(command.spawn()?);
    }
    for mut child in children {
        ensure!(child.wait()?.success(), "kubectl create failed; its words are above");
    }
    Ok(())
}

/// Until nothing is asked for some seconds.
fn settle(operator: &Outside) -> Result<()> {
    let begin = Instant::now();
    let mut last = Numbers::of(operator)?;
    let mut quiet = Instant::now();
    while quiet.elapsed() < Duration::from_secs(5) {
        ensure!(begin.elapsed() < PATIENCE, "it never rests");
        sleep(Duration::from_millis(500));
        let now = Numbers::of(operator)?;
        if now.since(&last).work() > 0.0 {
            quiet = Instant::now();
        }
        last = now;
    }
    Ok(())
}

/// What the operator and the kernel count.
#[derive(Debug, Clone, Copy)]
struct Numbers {
    reconciles: f64,
    lease: f64,
    watch: f64,
    read: f64,
    write: f64,
    cpu: f64,
}

impl Numbers {
    fn of(operator: &Outside) -> Result<Self> {
        let (_, body) = http::get(operator.metrics, "/metrics", None)?;
        let text = String::from_utf8(body)?;
        let number = |name: &str| -> Result<f64> {
            let line =
                text.lines().find_map(|line| line.strip_prefix(&format!("desktopstream_operator_{name} ")));
            Ok(line.with_context(|| format!("no {name} in its metrics"))?.parse()?)
        };
        let calls = |kind: &str| number(&format!("api_requests_total{{kind=\"{kind}\"}}"));
        Ok(Self {
            reconciles: number("reconcile_seconds_count")?,
            lease: calls("lease")?,
            watch: calls("watch")?,
            read: calls("read")?,
            write: calls("write")?,
            cpu: cpu(operator.child.id())?,
        })
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            reconciles: self.reconciles - before.reconciles,
            lease: self.lease - before.lease,
            watch: self.watch - before.watch,
            read: self.read - before.read,
            write: self.write - before.write,
            cpu: self.cpu - before.cpu,
        }
    }

    /// All but the Lease, which costs the same with no stream at all.
    fn work(&self) -> f64 {
        self.watch + self.read + self.write
    }
}

/// Seconds of processor that a process has used: fields 14 and 15 of its stat, in hundredths.
fn cpu(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(')').context("no process name")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field =
        |at: usize| fields.get(at).context("a short stat line")?.parse::<f64>().context("not a number");
    Ok((field(11)? + field(12)?) / 100.0)
}

/// Resident now and at most, MB.
fn memory(operator: &Outside) -> Result<(f64, f64)> {
    let status = fs::read_to_string(format!("/proc/{}/status", operator.child.id()))?;
    let field = |name: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
        Ok(line.trim_end_matches("kB").trim().parse::<f64>()? / 1024.0)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

fn host() -> Result<Value> {
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let revision =
        Command::new("git").args(["rev-parse", "--short", "HEAD"]).current_dir(lab::repository()).output();
    Ok(json!({
        "cpu": model.trim_start_matches([' ', '\t', ':']),
        "cpus": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "revision": revision.map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned()).unwrap_or_default(),
    }))
}
