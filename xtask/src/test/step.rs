//! Steps of a suite: a check that passes as a whole, or tests whose names can be filtered.

use std::process::Command;

use anyhow::Result;

use super::{libtest, nextest};

/// Part of a suite.
pub struct Step {
    /// Name on the command line: `./x test SUITE NAME`.
    pub name: &'static str,
    work: Work,
}

enum Work {
    Check(fn() -> Result<()>),
    Libtest(fn() -> Result<Command>),
    Nextest(fn() -> Result<Command>),
}

/// Result of a step.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Number of tests or checks that passed.
    pub passed: u32,
    /// Tests and checks that failed.
    pub failures: Vec<Failure>,
}

/// A failed test or check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The test, the check, or why tests could not run.
    pub what: String,
    /// Words after `./x test SUITE` that repeat it.
    pub filter: Vec<String>,
    /// Lines of the error, where they are known.
    pub error: Vec<String>,
}

impl Failure {
    pub fn new(what: impl Into<String>, filter: Vec<String>) -> Self {
        Self { what: what.into(), filter, error: Vec::new() }
    }

    /// A test, by its whole name.
    pub fn of_test(what: impl Into<String>, name: &str) -> Self {
        Self::new(what, vec![name.to_owned(), "--exact".to_owned()])
    }
}

impl Step {
    /// A step that passes or fails as a whole and counts as one test.
    pub const fn check(name: &'static str, run: fn() -> Result<()>) -> Self {
        Self { name, work: Work::Check(run) }
    }

    /// Tests that `cargo test` runs. Filter words go to the end of the command, which has a `--`.
    pub const fn libtest(name: &'static str, command: fn() -> Result<Command>) -> Self {
        Self { name, work: Work::Libtest(command) }
    }

    /// Tests that `cargo nextest` runs. Filter words go to the end of the command, which has a `--`.
    pub const fn nextest(name: &'static str, command: fn() -> Result<Command>) -> Self {
        Self { name, work: Work::Nextest(command) }
    }

    /// True if the step's tests can be selected by name.
    pub const fn takes_a_filter(&self) -> bool {
        !matches!(self.work, Work::Check(_))
    }

    /// Runs the step and prints why it failed.
    pub fn run(&self, filter: &[String]) -> Outcome {
        println!("x: {}", self.name);
        let result = match self.work {
            Work::Check(run) => run().map(|()| Outcome { passed: 1, failures: Vec::new() }),
            Work::Libtest(command) => command().and_then(|mut command| libtest::run(command.args(filter))),
            Work::Nextest(command) => command().and_then(|mut command| nextest::run(command.args(filter))),
        };
        result.unwrap_or_else(|error| {
            eprintln!("x: {} failed: {error:#}", self.name);
            let failure = Failure::new(format!("{}: {error:#}", self.name), vec![self.name.to_owned()]);
            Outcome { passed: 0, failures: vec![failure] }
        })
    }
}
