//! `./x check-macos`.

use std::process::ExitCode;

use anyhow::Result;

pub fn run() -> Result<ExitCode> {
    crate::programs::run("check-macos", [""; 0])
}
