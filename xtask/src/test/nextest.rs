//! Results of tests under cargo-nextest, from its JSON messages.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::libtest;
use super::step::{Failure, Outcome};
use crate::{tools, workspace};

/// `cargo nextest run` with these arguments, in release, going on after failures, with JSON messages on standard output.
/// The format is libtest's; nextest calls it experimental, and the version is pinned.
///
/// # Errors
/// If cargo-nextest does not compile.
pub fn command(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(tools::NEXTEST.program()?);
    command
        .current_dir(workspace::root()?)
        .args(["nextest", "run", "--release", "--no-fail-fast", "--no-tests=pass"])
        .args(["--message-format", "libtest-json"])
        .args(arguments)
        .arg("--")
        .env("NEXTEST_EXPERIMENTAL_LIBTEST_JSON", "1")
        .stdin(Stdio::null());
    Ok(command)
}

/// Runs a [`command`]; nextest prints its progress on stderr.
///
/// # Errors
/// If nextest fails without a failed test: the tests did not compile.
pub fn run(command: &mut Command) -> Result<Outcome> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("starting cargo-nextest")?;
    let messages = child.stdout.take().context("cargo-nextest has no standard output")?;
    let mut outcome = Outcome::default();
    for line in BufReader::new(messages).lines() {
        add(&mut outcome, &line?)?;
    }
    let status = child.wait()?;
    ensure!(status.success() || !outcome.failures.is_empty(), "cargo-nextest ended with {status}; see above");
    Ok(outcome)
}

/// A message of libtest's JSON format.
#[derive(Deserialize)]
struct Message {
    #[serde(rename = "type")]
    kind: String,
    event: String,
    /// Test name: `PACKAGE::PROGRAM$TEST`
    #[serde(default)]
    name: String,
    /// Output of a failed test.
    #[serde(default)]
    stdout: String,
}

fn add(outcome: &mut Outcome, line: &str) -> Result<()> {
    let message: Message =
        serde_json::from_str(line).with_context(|| format!("cargo-nextest printed {line:?}"))?;
    match (message.kind.as_str(), message.event.as_str()) {
        ("test", "ok") => outcome.passed += 1,
        ("test", "failed" | "timeout") => {
            let (program, test) = message.name.split_once('$').unwrap_or(("", &message.name));
            let error = libtest::error_of(test, &message.stdout);
            outcome.failures.push(Failure { error, ..Failure::of_test(format!("{program} {test}"), test) });
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_counted_and_failures_named() {
        let mut outcome = Outcome::default();
        for line in [
            r#"{"type":"suite","event":"started","test_count":3}"#,
            r#"{"type":"test","event":"started","name":"toy::toy$tests::good"}"#,
            r#"{"type":"test","event":"ok","name":"toy::toy$tests::good","exec_time":0.02}"#,
            r#"{"type":"test","event":"failed","name":"toy::toy$tests::bad","exec_time":0.2,"stdout":"a\nError: no\n"}"#,
            r#"{"type":"test","event":"ignored","name":"toy::toy$tests::slow"}"#,
            r#"{"type":"suite","event":"failed","passed":1,"failed":1,"ignored":1,"measured":0,"filtered_out":0}"#,
        ] {
            add(&mut outcome, line).expect("valid");
        }
        let failure = Failure::of_test("toy::toy tests::bad", "tests::bad");
        let failures = vec![Failure { error: vec!["Error: no".to_owned()], ..failure }];
        assert_eq!(outcome, Outcome { passed: 1, failures });
        assert!(add(&mut outcome, "text").is_err());
    }
}
