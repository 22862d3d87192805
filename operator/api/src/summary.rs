//! One-line summary of a stream, as `kubectl desktopstream list` and `operator docker status` print it.

use std::fmt::Write as _;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Serialize;

use crate::{DesktopStream, conditions};

/// Summary of a stream. Texts are empty where the status has no value.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Namespace of the stream.
    pub namespace: String,
    /// Name of the stream.
    pub name: String,
    /// `status.phase`; empty before the first reconciliation.
    pub phase: String,
    /// Frame path in use, from `status.capture.framePath`.
    pub frame_path: String,
    /// Encoded frames per second.
    pub fps: Option<u32>,
    /// Number of connected viewers.
    pub viewers: Option<u32>,
    /// Node that the pod runs on.
    pub node_name: String,
    /// Host-agent that the stream is paired with.
    pub host_agent_name: String,
    /// Viewer URL without the token.
    #[serde(rename = "viewerURL")]
    pub viewer_url: String,
    /// Message of the first false condition, with its remedy, or how to resume a stopped stream. Empty if there is none.
    pub problem: String,
}

impl Summary {
    /// Summarizes a stream.
    pub fn of(stream: &DesktopStream) -> Self {
        let status = stream.status.clone().unwrap_or_default();
        let capture = status.capture.unwrap_or_default();
        // A stopped stream is ready; its message says how to resume it.
        let stopped = [conditions::reasons::SUSPENDED.name, conditions::reasons::IDLE.name];
        let is_problem = |it: &&Condition| {
            let is_stopped = it.type_ == conditions::READY && stopped.contains(&it.reason.as_str());
            is_stopped || (it.status == "False" && it.reason != conditions::reasons::WAITING.name)
        };
        let problem = status
            .conditions
            .iter()
            .find(is_problem)
            .map(|it| if it.message.is_empty() { it.reason.clone() } else { it.message.clone() });
        Self {
            namespace: stream.metadata.namespace.clone().unwrap_or_default(),
            name: stream.metadata.name.clone().unwrap_or_default(),
            phase: status.phase.map_or_else(String::new, |phase| format!("{phase:?}")),
            frame_path: capture.frame_path.map_or_else(String::new, |path| path.to_string()),
            fps: status.stats.as_ref().map(|stats| stats.fps),
            viewers: status.stats.as_ref().map(|stats| stats.viewers),
            node_name: status.node_name.unwrap_or_default(),
            host_agent_name: status.host_agent_name.unwrap_or_default(),
            viewer_url: status.viewer_url.unwrap_or_default(),
            problem: problem.unwrap_or_default(),
        }
    }
}

/// Formats summaries as a table with a header line. Empty cells are printed as `-`.
pub fn table(rows: &[Summary], with_namespace: bool) -> String {
    let mut header = vec!["NAME", "PHASE", "FRAME-PATH", "FPS", "VIEWERS", "HOST-AGENT", "NODE", "PROBLEM"];
    if with_namespace {
        header.insert(0, "NAMESPACE");
    }
    let number = |value: Option<u32>| value.map_or_else(String::new, |value| value.to_string());
    let mut lines = vec![header.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    lines.extend(rows.iter().map(|row| {
        let mut cells = vec![row.name.clone(), row.phase.clone(), row.frame_path.clone(), number(row.fps)];
        cells.extend([
            number(row.viewers),
            row.host_agent_name.clone(),
            row.node_name.clone(),
            row.problem.clone(),
        ]);
        if with_namespace {
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
            // Writing to a String cannot fail.
            let _infallible = write!(out, "{:<width$}   ", if cell.is_empty() { "-" } else { cell });
        }
        text.push_str(out.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn summary(object: Value) -> Summary {
        Summary::of(&serde_json::from_value(object).expect("a stream"))
    }

    fn condition(kind: &str, status: &str, message: &str) -> Value {
        json!({"type": kind, "status": status, "reason": "R", "message": message,
               "lastTransitionTime": "2026-01-01T00:00:00Z"})
    }

    fn streaming() -> Summary {
        summary(
            json!({"metadata": {"namespace": "a", "name": "good"}, "spec": {"desktop": {"image": "i"}}, "status": {
            "phase": "Streaming", "capture": {"framePath": "Local"}, "stats": {"fps": 30, "viewers": 2}, "nodeName": "n1",
            "conditions": [condition("Ready", "True", "")]}}),
        )
    }

    fn failed() -> Summary {
        summary(
            json!({"metadata": {"namespace": "a", "name": "bad"}, "spec": {"desktop": {"image": "i"}}, "status": {
            "phase": "Failed", "conditions": [condition("DevicesReady", "True", ""),
                condition("Paired", "False", "start host-agent"), condition("Ready", "False", "later")]}}),
        )
    }

    #[test]
    fn problem_is_the_message_of_the_first_false_condition() {
        let good = streaming();
        assert_eq!((good.fps, good.viewers, good.problem.as_str()), (Some(30), Some(2), ""));
        assert_eq!(failed().problem, "start host-agent");
    }

    #[test]
    fn table_aligns_columns_and_marks_empty_cells() {
        let table = table(&[streaming(), failed()], true);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[0].starts_with("NAMESPACE   NAME   PHASE"), "{table}");
        let words: Vec<&str> = lines[1].split_whitespace().collect();
        assert_eq!(words, ["a", "good", "Streaming", "Local", "30", "2", "-", "n1", "-"]);
        assert!(lines[2].ends_with("start host-agent"));
    }
}
