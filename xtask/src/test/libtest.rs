//! Results of tests under libtest, from the text that it prints: its JSON format is not stable.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::step::{Failure, Outcome};

/// Most lines of an error that the list of failures repeats.
const MOST_LINES: usize = 12;

/// Runs tests by `cargo test --no-fail-fast`, and prints their output.
///
/// # Errors
/// If cargo fails without a failed test: the tests did not compile.
pub fn run(command: &mut Command) -> Result<Outcome> {
    // One pipe, so that an error stays before the result of its test.
    let (output, writer) = std::io::pipe()?;
    let mut child = command.stdout(writer.try_clone()?).stderr(writer).spawn().context("starting cargo")?;
    // Else the pipe would stay open after the end of cargo.
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut parser = Parser::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        println!("{line}");
        parser.line(&line);
    }
    let status = child.wait()?;
    let outcome = parser.finish();
    ensure!(
        status.success() || !outcome.failures.is_empty(),
        "cargo test ended with {status} before any test ran"
    );
    Ok(outcome)
}

#[derive(Default)]
struct Parser {
    outcome: Outcome,
    /// Inside a test program: between "running N tests" and "test result".
    running: bool,
    /// The test that started last in this program.
    current: Option<String>,
    /// Names in the list of failures that is being read.
    listed: Option<Vec<String>>,
    /// Inside an error or a panic of the current test.
    in_error: bool,
    /// Lines of the newest error of each test, by the test's name.
    errors: BTreeMap<String, Vec<String>>,
}

impl Parser {
    fn line(&mut self, line: &str) {
        self.error_line(line);
        if is_start(line) {
            self.end_of_program();
            self.running = true;
        } else if let Some((passed, failed)) = counts(line) {
            self.outcome.passed += passed;
            let names = self.listed.take().unwrap_or_default();
            let unnamed = (failed as usize).saturating_sub(names.len());
            self.outcome.failures.extend(names.iter().map(|name| {
                let error = self.errors.remove(name).unwrap_or_default();
                Failure { error, ..Failure::of_test(name, name) }
            }));
            self.outcome.failures.extend((0..unnamed).map(|_| Failure::new("a test without a name", vec![])));
            self.running = false;
        } else if line == "failures:" {
            self.listed = Some(Vec::new());
        } else if let Some(name) = line.strip_prefix("    ").filter(|name| !name.contains(' ')) {
            self.listed.iter_mut().for_each(|names| names.push(name.to_owned()));
        } else if !line.is_empty() {
            self.listed = None;
        }
    }

    /// Keeps the lines of an error for the test that printed it.
    fn error_line(&mut self, line: &str) {
        let captured = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"));
        let started = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "));
        let text = started.map_or(line, |(_, rest)| rest);
        if let Some(name) = captured.or_else(|| started.map(|(name, _)| name)) {
            self.current = Some(name.to_owned());
            self.in_error = false;
        }
        let Some(current) = self.current.clone() else { return };
        if text.starts_with("Error: ") || (text.starts_with("thread '") && text.contains("panicked at")) {
            self.errors.insert(current, vec![text.to_owned()]);
            self.in_error = true;
        } else if ["FAILED", "ok"].contains(&text)
            || ["Stack backtrace:", "stack backtrace:", "note: ", "failures:"]
                .iter()
                .any(|it| text.starts_with(it))
        {
            self.in_error = false;
        } else if self.in_error && !text.trim().is_empty() {
            let lines = self.errors.entry(current).or_default();
            if lines.len() < MOST_LINES {
                lines.push(text.to_owned());
            }
        }
    }

    /// A program without a result line crashed in the test that started last.
    fn end_of_program(&mut self) {
        let current = self.current.take();
        self.listed = None;
        if std::mem::take(&mut self.running) {
            self.outcome.failures.push(match current {
                Some(name) => Failure::of_test(format!("{name}: the test program ended early"), &name),
                None => Failure::new("a test program ended before its first test", vec![]),
            });
        }
    }

    fn finish(mut self) -> Outcome {
        self.end_of_program();
        self.outcome
    }
}

/// Lines of the newest error in the output of one test.
pub fn error_of(test: &str, output: &str) -> Vec<String> {
    let mut parser = Parser { current: Some(test.to_owned()), ..Parser::default() };
    output.lines().for_each(|line| parser.error_line(line));
    parser.errors.remove(test).unwrap_or_default()
}

/// `running 12 tests`
fn is_start(line: &str) -> bool {
    let words: Vec<&str> = line.split(' ').collect();
    matches!(words.as_slice(), ["running", count, "test" | "tests"] if count.parse::<u32>().is_ok())
}

/// Passed and failed tests in `test result: FAILED. 12 passed; 1 failed; …`
fn counts(line: &str) -> Option<(u32, u32)> {
    let rest = line.strip_prefix("test result: ")?;
    let rest = rest.strip_prefix("ok. ").or_else(|| rest.strip_prefix("FAILED. "))?;
    let (passed, rest) = rest.split_once(" passed; ")?;
    let (failed, _) = rest.split_once(" failed")?;
    Some((passed.parse().ok()?, failed.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Outcome {
        let mut parser = Parser::default();
        text.lines().for_each(|line| parser.line(line));
        parser.finish()
    }

    #[test]
    fn passed_tests_of_all_programs_are_added() {
        let text = "running 2 tests\ntest a ... ok\ntest b ... ok\n\n\
                    test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s\n\n\
                    running 1 test\ntest c ... ok\n\ntest result: ok. 1 passed; 0 failed; 0 ignored\n";
        assert_eq!(parse(text), Outcome { passed: 3, failures: vec![] });
    }

    #[test]
    fn failed_tests_are_named() {
        let text = "running 3 tests\ntest a ... ok\ntest m::b ... FAILED\ntest c ... FAILED\n\nfailures:\n\n\
                    ---- m::b stdout ----\n    indented\nthread 'm::b' panicked at x.rs:1:\nwhy\n\n\nfailures:\n    m::b\n    c\n\n\
                    test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out\n";
        let mut failures = ["m::b", "c"].map(|name| Failure::of_test(name, name)).to_vec();
        failures[0].error = vec!["thread 'm::b' panicked at x.rs:1:".to_owned(), "why".to_owned()];
        assert_eq!(parse(text), Outcome { passed: 1, failures });
    }

    #[test]
    fn errors_of_failed_tests_are_kept() {
        let text = "running 3 tests\ntest a ... Error: first\n\nCaused by:\n    second\n\nStack backtrace:\n  0: x\n\
                    FAILED\ntest b ... Error: of b\nFAILED\ntest c ... ok\n\nfailures:\n\nfailures:\n    a\n    b\n\n\
                    test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out\n";
        let errors: Vec<Vec<String>> = parse(text).failures.into_iter().map(|it| it.error).collect();
        assert_eq!(errors, [vec!["Error: first", "Caused by:", "    second"], vec!["Error: of b"]]);
    }

    #[test]
    fn program_that_crashes_is_a_failure_of_its_last_test() {
        let text = "running 2 tests\ntest a ... ok\ntest b ... some output\n\
                    running 1 test\ntest c ... ok\n\ntest result: ok. 1 passed; 0 failed; 0 ignored\n";
        let failures = vec![Failure::of_test("b: the test program ended early", "b")];
        assert_eq!(parse(text), Outcome { passed: 1, failures });
    }
}
