//! host-agent: see [`host_agent::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    host_agent::cli::Cli::parse_and_run()
}
