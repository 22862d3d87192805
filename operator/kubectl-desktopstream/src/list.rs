//! `list`: one line per stream, and what to do about those that don't stream.

use std::fmt::Write as _;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::find::KIND;
use super::kubectl::Kubectl;
use operator_api::{DesktopStream, conditions};

/// What is said of a stream.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Where it is.
    pub namespace: String,
    /// Which it is.
    pub name: String,
    /// `status.phase`; empty before the operator has seen it.
    pub phase: String,
    /// `status.capture.rung`.
    pub rung: String,
    /// Frames per second.
    pub fps: Option<u32>,
    /// How many watch.
    pub viewers: Option<u32>,
    /// Where its pod runs.
    pub node: String,
    /// Who encodes.
    pub host_agent: String,
    /// Where to watch, inside the cluster or by the Ingress; without the token.
    pub url: String,
    /// The first condition that doesn't hold: why, and what to do. Empty if all is well.
    pub problem: String,
}

#[derive(Deserialize)]
struct List {
    items: Vec<Value>,
}

/// Prints it.
pub fn run(kubectl: &Kubectl, all: bool, json: bool) -> Result<()> {
    let mut words = vec!["get", KIND];
    if all {
        words.push("--all-namespaces");
    }
    let list: List = kubectl.ask(&words)?;
    let rows: Vec<Row> = list.items.into_iter().map(read).collect();
    if json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else if rows.is_empty() {
        eprintln!("no streams; docs/samples has some to begin with");
    } else {
        print!("{}", table(&rows, all));
    }
    Ok(())
}

/// One that we can't read spoils no list.
fn read(object: Value) -> Row {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (text("namespace"), text("name"));
    match serde_json::from_value(object) {
        Ok(stream) => row(&stream),
        Err(error) => Row { namespace, name, problem: format!("can't be read: {error}"), ..Row::default() },
    }
}

/// What is said of it.
pub fn row(stream: &DesktopStream) -> Row {
    let status = stream.status.clone().unwrap_or_default();
    let word = |value: Option<Value>| match value {
        Some(Value::String(word)) => word,
        _ => String::new(),
    };
    let capture = status.capture.unwrap_or_default();
    let waits = conditions::reasons::WAITING.name;
    let wrong = |it: &&k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
        it.status == "False" && it.reason != waits
    };
    let problem = status
        .conditions
        .iter()
        .find(wrong)
        .map(|it| if it.message.is_empty() { it.reason.clone() } else { it.message.clone() });
    Row {
        namespace: stream.metadata.namespace.clone().unwrap_or_default(),
        name: stream.metadata.name.clone().unwrap_or_default(),
        phase: word(status.phase.and_then(|phase| serde_json::to_value(phase).ok())),
        rung: word(capture.rung.and_then(|rung| serde_json::to_value(rung).ok())),
        fps: status.stats.as_ref().map(|stats| stats.fps),
        viewers: status.stats.as_ref().map(|stats| stats.viewers),
        node: status.node.unwrap_or_default(),
        host_agent: status.host_agent.unwrap_or_default(),
        url: status.viewer_url.unwrap_or_default(),
        problem: problem.unwrap_or_default(),
    }
}

pub(crate) fn table(rows: &[Row], all: bool) -> String {
    let mut heads = vec!["NAME", "PHASE", "RUNG", "FPS", "VIEWERS", "HOST-AGENT", "NODE", "PROBLEM"];
    if all {
        heads.insert(0, "NAMESPACE");
    }
    let number = |value: Option<u32>| value.map_or_else(String::new, |value| value.to_string());
    let mut lines = vec![heads.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    lines.extend(rows.iter().map(|row| {
        let mut cells = vec![row.name.clone(), row.phase.clone(), row.rung.clone(), number(row.fps)];
        cells.extend([number(row.viewers), row.host_agent.clone(), row.node.clone(), row.problem.clone()]);
        if all {
            cells.insert(0, row.namespace.clone());
        }
        cells
    }));
    let columns = lines[0].len();
    let widths: Vec<usize> = (0..columns)
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default())
        .collect();
    let mut text = String::new();
    for line in lines {
        let mut out = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            // Writing to a String can't fail.
            let _infallible = write!(out, "{:<width$}   ", if cell.is_empty() { "-" } else { cell });
        }
        text.push_str(out.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_thing_that_is_wrong_is_said() {
        let condition = |kind: &str, status: &str, message: &str| {
            json!({"type": kind, "status": status, "reason": "R", "message": message,
                   "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        let good = json!({"metadata": {"namespace": "a", "name": "good"}, "spec": {"desktop": {"image": "i"}}, "status": {
            "phase": "Streaming", "capture": {"rung": "Local"}, "stats": {"fps": 30, "viewers": 2}, "node": "n1",
            "conditions": [condition("Ready", "True", "")]}});
        let bad = json!({"metadata": {"namespace": "a", "name": "bad"}, "spec": {"desktop": {"image": "i"}}, "status": {
            "phase": "Failed", "conditions": [condition("DevicesReady", "True", ""),
                condition("Paired", "False", "start host-agent"), condition("Ready", "False", "later")]}});
        let odd = json!({"metadata": {"namespace": "b", "name": "odd"}, "spec": {"desktop": 7}});
        let rows: Vec<Row> = [good, bad, odd].into_iter().map(read).collect();
        assert_eq!((rows[0].fps, rows[0].viewers, rows[0].problem.as_str()), (Some(30), Some(2), ""));
        assert_eq!(rows[1].problem, "start host-agent");
        assert!(rows[2].problem.starts_with("can't be read"));
        let table = table(&rows, true);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[0].starts_with("NAMESPACE   NAME   PHASE"), "{table}");
        let words: Vec<&str> = lines[1].split_whitespace().collect();
        assert_eq!(words, ["a", "good", "Streaming", "Local", "30", "2", "-", "n1", "-"]);
        assert!(lines[2].ends_with("start host-agent"));
    }
}
