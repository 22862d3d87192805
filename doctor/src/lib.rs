//! What every doctor says: the legs of a path in order, how each fared, and what to do about those that failed. The same
//! words, JSON and exit status for all programs. It knows no leg.
//!
//! ```text
//! {"ok": false, "legs": [{"leg": "tap", "outcome": "ok" | "failed" | "skipped", "detail": "…", "remedy": "…"}]}
//! ```

#![forbid(unsafe_code)]

use std::fmt;
use std::process::ExitCode;

use serde::Serialize;

/// How a leg fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It works.
    Ok,
    /// It does not.
    Failed,
    /// It could not be tried, or need not work.
    Skipped,
}

/// One leg of the path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leg {
    /// Which.
    pub leg: String,
    /// How it fared.
    pub outcome: Outcome,
    /// What was seen.
    pub detail: String,
    /// What to do; empty if nothing.
    pub remedy: String,
}

impl Leg {
    /// A leg that works.
    pub fn ok(leg: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { leg: leg.into(), outcome: Outcome::Ok, detail: detail.into(), remedy: String::new() }
    }

    /// A leg that does not, and what to do.
    pub fn failed(leg: impl Into<String>, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { leg: leg.into(), outcome: Outcome::Failed, detail: detail.into(), remedy: remedy.into() }
    }

    /// A leg that was not tried, and why.
    pub fn skipped(leg: impl Into<String>, why: impl Into<String>) -> Self {
        Self { leg: leg.into(), outcome: Outcome::Skipped, detail: why.into(), remedy: String::new() }
    }

    /// What to do, for a leg that need not work but might.
    #[must_use]
    pub fn but(self, remedy: impl Into<String>) -> Self {
        Self { remedy: remedy.into(), ..self }
    }
}

/// All legs, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether none failed.
    pub ok: bool,
    /// The legs.
    pub legs: Vec<Leg>,
}

impl Report {
    /// What these legs come to.
    pub fn new(legs: Vec<Leg>) -> Self {
        Self { ok: legs.iter().all(|leg| leg.outcome != Outcome::Failed), legs }
    }

    /// Prints it for a person or a program. The exit status is success if no leg failed.
    pub fn print(&self, json: bool) -> ExitCode {
        if json {
            // A report is strings, a bool and an enum: it has no value that JSON lacks.
            println!("{}", serde_json::to_string_pretty(self).unwrap_or_default());
        } else {
            println!("{self}");
        }
        if self.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widest = self.legs.iter().map(|leg| leg.leg.chars().count()).max().unwrap_or(0);
        for Leg { leg, outcome, detail, remedy } in &self.legs {
            let mark = match outcome {
                Outcome::Ok => "ok",
                Outcome::Failed => "FAILED",
                Outcome::Skipped => "skipped",
            };
            writeln!(f, "{mark:<7}  {leg:<widest$}  {detail}")?;
            if !remedy.is_empty() {
                writeln!(f, "{:<7}  {:<widest$}  → {remedy}", "", "")?;
            }
        }
        match self.legs.iter().filter(|leg| leg.outcome == Outcome::Failed).count() {
            0 => write!(f, "nothing failed"),
            failed => write!(f, "{failed} failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_leg_fails_the_report_and_brings_its_remedy() {
        let report = Report::new(vec![
            Leg::ok("node", "there"),
            Leg::failed("tap", "no answer", "load it"),
            Leg::skipped("bind", "needs the tap"),
        ]);
        assert!(!report.ok);
        let text = report.to_string();
        assert!(
            text.contains("FAILED   tap") && text.contains("→ load it") && text.ends_with("1 failed"),
            "{text}"
        );
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!(json["legs"][2]["outcome"], "skipped");
        assert!(Report::new(vec![Leg::skipped("bind", "needs the tap").but("load it")]).ok);
    }
}
