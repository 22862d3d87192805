//! `sidecar doctor`: walks the path of a frame leg by leg, with the real parts, and says which leg fails and
//! what to do. It changes nothing, and may run beside a sidecar that streams: it has a GPU context and, if
//! the host-agent lets it, a session of its own.

mod legs;

use std::process::ExitCode;

use serde::Serialize;

use crate::cli::Doctor;

/// How a leg went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It works.
    Ok,
    /// It does not; the rung it is for can't be used.
    Failed,
    /// An earlier leg failed, or nobody asked for it.
    Skipped,
}

/// One leg of the path.
#[derive(Debug, Clone, Serialize)]
pub struct Leg {
    /// What was tried.
    pub leg: &'static str,
    /// How it went.
    pub outcome: Outcome,
    /// What was seen.
    pub detail: String,
    /// What to do; empty unless it failed.
    pub remedy: String,
}

impl Leg {
    /// A leg that works.
    pub fn ok(leg: &'static str, detail: impl Into<String>) -> Self {
        Self { leg, outcome: Outcome::Ok, detail: detail.into(), remedy: String::new() }
    }

    /// A leg that does not.
    pub fn failed(leg: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { leg, outcome: Outcome::Failed, detail: detail.into(), remedy: remedy.into() }
    }

    /// A leg that was not tried.
    pub fn skipped(leg: &'static str, why: impl Into<String>) -> Self {
        Self { leg, outcome: Outcome::Skipped, detail: why.into(), remedy: String::new() }
    }
}

/// Runs all legs and prints them.
pub async fn run(options: Doctor) -> anyhow::Result<ExitCode> {
    let Doctor { desktop, host_agent, json } = options;
    let legs = legs::walk(&desktop, &host_agent).await;
    let failed = legs.iter().any(|leg| leg.outcome == Outcome::Failed);
    if json {
        println!("{}", serde_json::to_string_pretty(&serde_json::json!({"ok": !failed, "legs": legs}))?);
    } else {
        for Leg { leg, outcome, detail, remedy } in &legs {
            let mark = match outcome {
                Outcome::Ok => "ok     ",
                Outcome::Failed => "FAILED ",
                Outcome::Skipped => "skipped",
            };
            println!("{mark}  {leg:<14} {detail}");
            if !remedy.is_empty() {
                println!("         {:<14} → {remedy}", "");
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
