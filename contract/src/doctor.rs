//! Report of a `doctor` command: the checks along the path of a frame, in order, with remedies.
//!
//! ```text
//! {"ok": false, "checks": [{"name": "tap", "outcome": "ok" | "failed" | "skipped", "detail": "…", "remedy": "…"}]}
//! ```

pub mod checks;

use std::fmt;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

/// Outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The check passed.
    Ok,
    /// The check failed.
    Failed,
    /// Not run, or not required to pass.
    Skipped,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Check name, see [`checks`].
    pub name: String,
    /// Outcome of this run.
    pub outcome: Outcome,
    /// Observation that led to the outcome.
    pub detail: String,
    /// Action that would make the check pass; empty if none is needed.
    #[serde(default)]
    pub remedy: String,
}

impl Check {
    /// A check that passed.
    pub fn ok(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { name: name.into(), outcome: Outcome::Ok, detail: detail.into(), remedy: String::new() }
    }

    /// A check that failed, with its remedy.
    pub fn failed(name: impl Into<String>, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name: name.into(), outcome: Outcome::Failed, detail: detail.into(), remedy: remedy.into() }
    }

    /// A check that was not run, with the reason.
    pub fn skipped(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { name: name.into(), outcome: Outcome::Skipped, detail: reason.into(), remedy: String::new() }
    }

    /// Adds a remedy to a check that is not required to pass.
    #[must_use]
    pub fn with_remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: remedy.into(), ..self }
    }
}

/// All checks of a run, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// True if no check failed.
    pub ok: bool,
    /// Checks in the order in which a frame passes them.
    pub checks: Vec<Check>,
}

impl Report {
    /// Summarizes `checks`.
    pub fn new(checks: Vec<Check>) -> Self {
        Self { ok: checks.iter().all(|check| check.outcome != Outcome::Failed), checks }
    }

    /// Exit status of the program: success if no check failed.
    pub fn exit_code(&self) -> ExitCode {
        if self.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
        for Check { name, outcome, detail, remedy } in &self.checks {
            let mark = match outcome {
                Outcome::Ok => "ok",
                Outcome::Failed => "FAILED",
                Outcome::Skipped => "skipped",
            };
            writeln!(f, "{mark:<7}  {name:<width$}  {detail}")?;
            if !remedy.is_empty() {
                writeln!(f, "{:<7}  {:<width$}  → {remedy}", "", "")?;
            }
        }
        match self.checks.iter().filter(|check| check.outcome == Outcome::Failed).count() {
            0 => write!(f, "no check failed"),
            1 => write!(f, "1 check failed"),
            failed => write!(f, "{failed} checks failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_with_one_failed_check_fails_and_shows_the_remedy() {
        let report = Report::new(vec![
            Check::ok("node", "present"),
            Check::failed("tap", "no answer", "load it"),
            Check::skipped("bind", "needs the tap"),
        ]);
        assert!(!report.ok);
        let text = report.to_string();
        assert!(
            text.contains("FAILED   tap") && text.contains("→ load it") && text.ends_with("1 check failed"),
            "{text}"
        );
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!(json["checks"][2]["outcome"], "skipped");
        assert!(Report::new(vec![Check::skipped("bind", "needs the tap").with_remedy("load it")]).ok);
    }
}
