//! `./x bench control`: the operator with many streams, against a real apiserver. No pod runs: the scheduler is stopped, as it
//! and the kubelet would take the processors that are measured.

mod report;
mod seen;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use cluster::product::{Operator, SYSTEM, Testbed, http, stream};
use cluster::{Cluster, Daemon};
use serde_json::{Value, json};

use seen::Seen;

/// Number of parallel `kubectl create`: each sends a bounded number of requests per second.
const CREATORS: usize = 8;
/// Limit of each phase.
const PHASE_TIMEOUT: Duration = Duration::from_secs(400);
/// The operator is settled when it sent no request for this long.
const SETTLED: Duration = Duration::from_secs(5);

#[derive(Parser)]
struct Arguments {
    /// Folder for control.json, control.md and control.svg
    #[arg(long, default_value = "bench")]
    out: PathBuf,
    /// Number of streams
    #[arg(long, default_value_t = 1000)]
    streams: usize,
    /// Length of the steady phase, in which nothing changes, in seconds
    #[arg(long, default_value_t = 60)]
    steady: u64,
}

fn main() -> Result<()> {
    let Arguments { out, streams, steady } = Arguments::parse();
    fs::create_dir_all(&out).with_context(|| format!("creating {}", out.display()))?;
    let bed = Testbed::control_plane("bench")?;
    bed.apply_manifests(&["--replicas=0"])?;
    for kind in ["validatingwebhookconfiguration", "mutatingwebhookconfiguration"] {
        bed.cluster.kubectl(&["delete", kind, "desktopstream"])?;
    }
    bed.cluster.kubectl(&["-n", SYSTEM, "delete", "daemonset", "desktopstream-node"])?;
    bed.cluster.stop(Daemon::Scheduler)?;

    let seen = Seen::watch(&bed)?;
    let operator = start(&bed)?;
    let idle = Counts::of(&operator)?;
    let daemons_idle = daemons_cpu(&bed.cluster)?;
    progress("creating streams");
    let begin = Instant::now();
    create(&bed, streams)?;
    let created = begin.elapsed();
    let times = seen.await_all(streams, PHASE_TIMEOUT)?;
    let all = times.last();
    let busy = Counts::of(&operator)?.since(&idle);
    progress("waiting until the operator is settled");
    settle(&operator)?;
    let settled = Counts::of(&operator)?.since(&idle);
    let daemons = daemons_cpu(&bed.cluster)?.into_iter().map(|(name, seconds)| {
        (name.clone(), seconds - daemons_idle.get(&name).copied().unwrap_or_default())
    });
    let daemons: BTreeMap<String, f64> = daemons.collect();

    progress("measuring the steady state");
    let before = Counts::of(&operator)?;
    sleep(Duration::from_secs(steady));
    let calm = Counts::of(&operator)?.since(&before);
    let rss = memory(&operator)?;
    drop(operator);

    progress("restarting the operator with all streams");
    bed.cluster.kubectl(&["-n", SYSTEM, "delete", "lease", "desktopstream-operator"])?;
    let again = start(&bed)?;
    let restart = Instant::now();
    let (mut after, mut took) = (Counts::of(&again)?, Duration::ZERO);
    while after.reconciles < streams as f64 {
        ensure!(restart.elapsed() < PHASE_TIMEOUT, "only {} streams were reconciled", after.reconciles);
        sleep(Duration::from_millis(100));
        took = restart.elapsed();
        after = Counts::of(&again)?;
    }
    drop(again);

    let per_minute = |calls: f64| calls * 60.0 / steady as f64;
    let report = json!({
        "host": host()?,
        "streams": streams,
        "burst_seconds": {"operator": all.as_secs_f64()},
        "create_seconds": created.as_secs_f64(),
        "create_to_desired_ms": {"operator": times.quantiles()},
        "reconciles_per_second": busy.reconciles / all.as_secs_f64(),
        "calls_per_stream": settled.work() / streams as f64,
        "writes_per_stream": settled.write / streams as f64,
        "steady_calls_per_minute": per_minute(calm.work()),
        "steady_lease_calls_per_minute": per_minute(calm.lease),
        "restart": {
            "seconds": took.as_secs_f64(), "reconciles_per_second": after.reconciles / took.as_secs_f64(),
            "writes": after.write,
        },
        "operator": {
            "cpu_seconds": settled.cpu, "cpu_ms_per_stream": settled.cpu * 1000.0 / streams as f64,
            "steady_cpu_percent": calm.cpu / steady as f64 * 100.0,
            "rss_mb": rss.0, "peak_rss_mb": rss.1,
        },
        "daemons_cpu_seconds": daemons,
    });
    fs::write(out.join("control.json"), serde_json::to_string_pretty(&report)? + "\n")?;
    fs::write(out.join("control.svg"), report::svg(&times))?;
    let table = report::markdown(&report);
    fs::write(out.join("control.md"), &table)?;
    println!("{table}");
    Ok(())
}

fn progress(phase: &str) {
    eprintln!("x: {phase}");
}

/// Starts an operator; returns when it leads.
fn start(bed: &Testbed) -> Result<Operator> {
    let operator = bed.start_operator("bench", &[])?;
    operator.await_leading(bed)?;
    Ok(operator)
}

/// Creates the streams with `kubectl create -f FILE`.
fn create(bed: &Testbed, streams: usize) -> Result<()> {
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
        ensure!(child.wait()?.success(), "kubectl create failed; see its messages above");
    }
    Ok(())
}

/// Waits until the operator sent no request for [`SETTLED`].
fn settle(operator: &Operator) -> Result<()> {
    let begin = Instant::now();
    let mut last = Counts::of(operator)?;
    let mut quiet = Instant::now();
    while quiet.elapsed() < SETTLED {
        ensure!(begin.elapsed() < PHASE_TIMEOUT, "the operator keeps sending requests");
        sleep(Duration::from_millis(500));
        let now = Counts::of(operator)?;
        if now.since(&last).work() > 0.0 {
            quiet = Instant::now();
        }
        last = now;
    }
    Ok(())
}

/// Counters of the operator and the kernel.
#[derive(Debug, Clone, Copy)]
struct Counts {
    reconciles: f64,
    lease: f64,
    watch: f64,
    read: f64,
    write: f64,
    /// Processor time in seconds.
    cpu: f64,
}

impl Counts {
    fn of(operator: &Operator) -> Result<Self> {
        let (_, body) = http::get(operator.metrics, "/metrics", None)?;
        let text = String::from_utf8(body)?;
        let number = |name: &str| -> Result<Option<f64>> {
            let prefix = format!("desktopstream_operator_{name} ");
            let value = text.lines().find_map(|line| line.strip_prefix(&prefix));
            value.map(str::parse).transpose().with_context(|| format!("metric {name} is not a number"))
        };
        // A label appears with its first request.
        let calls = |kind: &str| -> Result<f64> {
            Ok(number(&format!("api_requests_total{{kind=\"{kind}\"}}"))?.unwrap_or_default())
        };
        Ok(Self {
            reconciles: number("reconcile_seconds_count")?.context("no metric reconcile_seconds_count")?,
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

    /// Requests without those for the Lease, which do not depend on the number of streams.
    fn work(&self) -> f64 {
        self.watch + self.read + self.write
    }
}

/// Processor time of the cluster's running daemons so far, in seconds.
fn daemons_cpu(cluster: &Cluster) -> Result<BTreeMap<String, f64>> {
    let mut all = BTreeMap::new();
    for (daemon, processes) in cluster.daemons() {
        for pid in processes {
            *all.entry(daemon.to_string()).or_default() += cpu(pid)?;
        }
    }
    Ok(all)
}

/// Processor time of a process in seconds: fields 14 and 15 of `/proc/PID/stat`, in hundredths.
fn cpu(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(')').context("no process name in stat")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |at: usize| {
        fields.get(at).context("stat is short")?.parse::<f64>().context("a field is not a number")
    };
    Ok((field(11)? + field(12)?) / 100.0)
}

/// Resident memory of the operator, now and at most, in MB.
fn memory(operator: &Operator) -> Result<(f64, f64)> {
    let status = fs::read_to_string(format!("/proc/{}/status", operator.child.id()))?;
    let field = |name: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let line = line.with_context(|| format!("no {name} in the process's status"))?;
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
