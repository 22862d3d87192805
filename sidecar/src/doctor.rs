//! `sidecar doctor`: checks a frame's path step by step with the real parts, and prints remedies.
//!
//! It may run beside a streaming sidecar: it opens a GPU context of its own, and the host-agent gives it a session
//! that does not replace the sidecar's.

mod checks;

use std::process::ExitCode;

use contract::doctor::Report;

use crate::cli::Doctor;

/// Runs all checks and prints the report.
pub async fn run(options: Doctor) -> ExitCode {
    let Doctor { desktop, host_agent, json } = options;
    let report = Report::new(checks::run(&desktop, &host_agent).await);
    if json {
        // Cannot fail: a report has no value without a JSON form.
        println!("{}", serde_json::to_string_pretty(&report).unwrap_or_default());
    } else {
        println!("{report}");
    }
    report.exit_code()
}
