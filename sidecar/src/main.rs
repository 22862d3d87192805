//! Wiring only: see the library's `cli` and `run`.

use std::process::ExitCode;

fn main() -> ExitCode {
    sidecar::run::main()
}
