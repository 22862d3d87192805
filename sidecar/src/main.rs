//! The `sidecar` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    sidecar::run::main()
}
