//! When streams and their objects appeared, as a watch of the apiserver tells: one clock, and nothing of the operator's.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use cluster::product::Bed;
use serde_json::{Value, json};

/// Kinds, and what a stream's object is called behind the stream's name.
const DESIRED: [(&str, &str); 4] =
    [("pods", "-desktop"), ("services", "-viewers"), ("networkpolicies", "-desktop"), ("secrets", "-viewer")];

/// The watches.
pub struct Seen {
    told: Receiver<(usize, String, Instant)>,
    watches: Vec<Child>,
}

impl Seen {
    /// Starts them.
    pub fn watch(bed: &Bed) -> Result<Self> {
        let (tell, told) = channel();
        let mut watches = Vec::new();
        // The streams themselves come last in the list.
        let kinds = DESIRED.iter().map(|(kind, _)| *kind).chain(["desktopstreams"]);
        for (at, kind) in kinds.enumerate() {
            let mut command = bed.cluster.command("kubectl")?;
            command.args(["get", kind, "--watch", "--no-headers", "-o", "custom-columns=N:.metadata.name"]);
            let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
            let lines = BufReader::new(child.stdout.take().context("it has a stdout")?).lines();
            let tell = tell.clone();
            thread::spawn(move || {
                for line in lines.map_while(Result::ok) {
                    if tell.send((at, line.trim().to_owned(), Instant::now())).is_err() {
                        break;
                    }
                }
            });
            watches.push(child);
        }
        Ok(Self { told, watches })
    }

    /// Waits until that many streams have all that they should.
    pub fn await_all(&self, streams: usize, patience: Duration) -> Result<Times> {
        let deadline = Instant::now() + patience;
        let (mut born, mut objects) =
            (HashMap::new(), HashMap::<String, [Option<Instant>; DESIRED.len()]>::new());
        let mut complete = 0;
        while complete < streams || born.len() < streams {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok((kind, name, at)) = self.told.recv_timeout(left) else {
                bail!("{complete} of {streams} streams had all objects after {} s", patience.as_secs());
            };
            let Some((_, end)) = DESIRED.get(kind) else {
                born.entry(name).or_insert(at);
                continue;
            };
            let Some(stream) = name.strip_suffix(end) else { continue };
            let entry = objects.entry(stream.to_owned()).or_default();
            if entry[kind].is_none() {
                entry[kind] = Some(at);
                complete += usize::from(entry.iter().all(Option::is_some));
            }
        }
        let first = born.values().min().context("none was born")?;
        let mut times: Vec<(Duration, Duration)> = Vec::new();
        for (name, born) in &born {
            let last = objects.get(name).and_then(|all| all.iter().flatten().max());
            let last = last.with_context(|| format!("{name} has nothing"))?;
            times.push((born.duration_since(*first), last.saturating_duration_since(*born)));
        }
        times.sort();
        Ok(Times(times))
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        for watch in &mut self.watches {
            // They end with the cluster at the latest.
            let _ = watch.kill();
            let _ = watch.wait();
        }
    }
}

/// For each stream when it was created, from the first on, and how long it then took.
pub struct Times(pub Vec<(Duration, Duration)>);

impl Times {
    /// From the first stream's creation to the last object.
    pub fn last(&self) -> Duration {
        self.0.iter().map(|(born, took)| *born + *took).max().unwrap_or_default()
    }

    /// p50, p99 and the longest, ms.
    pub fn quantiles(&self) -> Value {
        let mut took: Vec<f64> = self.0.iter().map(|(_, took)| took.as_secs_f64() * 1000.0).collect();
        took.sort_by(f64::total_cmp);
        let at = |part: f64| took.get((took.len() as f64 * part) as usize).or_else(|| took.last()).copied();
        json!({"p50": at(0.5), "p99": at(0.99), "max": took.last()})
    }
}
