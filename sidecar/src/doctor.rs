//! `sidecar doctor`: walks the path of a frame leg by leg, with the real parts, and says which leg fails and
//! what to do. It changes nothing, and may run beside a sidecar that streams: it has a GPU context and, if
//! the host-agent lets it, a session of its own.

mod legs;

use std::process::ExitCode;

use doctor::Report;

use crate::cli::Doctor;

/// Runs all legs and prints them.
pub async fn run(options: Doctor) -> ExitCode {
    let Doctor { desktop, host_agent, json } = options;
    Report::new(legs::walk(&desktop, &host_agent).await).print(json)
}
