//! Creation times of streams and their objects, from watches of the apiserver: one clock, independent of the operator.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use cluster::product::Testbed;
use serde_json::{Value, json};

/// Kinds of a stream's objects, and the suffix of their names.
const DESIRED: [(&str, &str); 4] =
    [("pods", "-desktop"), ("services", "-viewers"), ("networkpolicies", "-desktop"), ("secrets", "-viewer")];

/// The watches.
pub struct Seen {
    events: Receiver<(usize, String, Instant)>,
    watches: Vec<Child>,
}

impl Seen {
    /// Starts the watches.
    pub fn watch(bed: &Testbed) -> Result<Self> {
        let (sender, events) = channel();
        let mut watches = Vec::new();
        // Streams have the index after the last kind of objects.
        let kinds = DESIRED.iter().map(|(kind, _)| *kind).chain(["desktopstreams"]);
        for (at, kind) in kinds.enumerate() {
            let mut command = bed.cluster.command("kubectl")?;
            command.args(["get", kind, "--watch", "--no-headers", "-o", "custom-columns=N:.metadata.name"]);
            let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
            let lines = BufReader::new(child.stdout.take().context("stdout is a pipe")?).lines();
            let sender = sender.clone();
            thread::spawn(move || {
                for line in lines.map_while(Result::ok) {
                    if sender.send((at, line.trim().to_owned(), Instant::now())).is_err() {
                        break;
                    }
                }
            });
            watches.push(child);
        }
        Ok(Self { events, watches })
    }

    /// Waits until `streams` streams have all their objects.
    pub fn await_all(&self, streams: usize, limit: Duration) -> Result<Times> {
        let deadline = Instant::now() + limit;
        let (mut created, mut objects) =
            (HashMap::new(), HashMap::<String, [Option<Instant>; DESIRED.len()]>::new());
        let mut complete = 0;
        while complete < streams || created.len() < streams {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok((kind, name, at)) = self.events.recv_timeout(left) else {
                bail!("{complete} of {streams} streams have all objects after {} s", limit.as_secs());
            };
            let Some((_, end)) = DESIRED.get(kind) else {
                created.entry(name).or_insert(at);
                continue;
            };
            let Some(stream) = name.strip_suffix(end) else { continue };
            let entry = objects.entry(stream.to_owned()).or_default();
            if entry[kind].is_none() {
                entry[kind] = Some(at);
                complete += usize::from(entry.iter().all(Option::is_some));
            }
        }
        let first = created.values().min().context("no stream was created")?;
        let mut times: Vec<(Duration, Duration)> = Vec::new();
        for (name, at) in &created {
            let last = objects.get(name).and_then(|all| all.iter().flatten().max());
            let last = last.with_context(|| format!("{name} has no objects"))?;
            times.push((at.duration_since(*first), last.saturating_duration_since(*at)));
        }
        times.sort();
        Ok(Times(times))
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        for watch in &mut self.watches {
            // The process may have ended already.
            let _ = watch.kill();
            let _ = watch.wait();
        }
    }
}

/// For each stream, the time of its creation since the first stream's, and the time from then until its last object.
pub struct Times(pub Vec<(Duration, Duration)>);

impl Times {
    /// Time from the first stream's creation to the last object.
    pub fn last(&self) -> Duration {
        self.0.iter().map(|(created, took)| *created + *took).max().unwrap_or_default()
    }

    /// Quantiles of the time to the last object, in ms.
    pub fn quantiles(&self) -> Value {
        let mut took: Vec<f64> = self.0.iter().map(|(_, took)| took.as_secs_f64() * 1000.0).collect();
        took.sort_by(f64::total_cmp);
        let at = |part: f64| took.get((took.len() as f64 * part) as usize).or_else(|| took.last()).copied();
        json!({"p50": at(0.5), "p99": at(0.99), "max": took.last()})
    }
}
