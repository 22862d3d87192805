//! `./x test`: runs suites, goes on after failures, and ends with a list of them and the closing line.

mod libtest;
mod nextest;
mod step;
mod suites;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use step::{Failure, Step};
use suites::Suite;

/// Run test suites
///
/// The output ends with the failures, the command that repeats each of them, and the line "N passed, N failed". A check
/// such as `format` counts as one test. A suite that runs no test fails.
#[derive(Args)]
#[command(after_help = suites::help())]
pub struct Arguments {
    /// Suites to run [default: unit, lab, browser, macos, cluster]. After a single suite: the name of one of its steps, a
    /// part of a test's name, or a whole name and --exact
    #[arg(value_name = "SUITE|FILTER", trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

impl Arguments {
    /// # Errors
    /// If the first word is not a suite.
    #[cfg(test)]
    pub fn check(&self) -> Result<()> {
        parse(&self.words).map(|_| ())
    }
}

/// Result of a suite.
struct Report {
    suite: Suite,
    passed: u32,
    failures: Vec<Failure>,
    time: Duration,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let (suites, filter) = parse(&arguments.words)?;
    let reports = if suites.is_empty() {
        run_default()
    } else {
        suites.iter().map(|it| run_suite(*it, &filter)).collect()
    };
    println!("\n{}", summary(&reports));
    Ok(if reports.iter().all(|report| report.failures.is_empty()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Splits the words into suites and the filter behind a single suite.
fn parse(words: &[String]) -> Result<(Vec<Suite>, Vec<String>)> {
    let suites: Vec<Suite> = words.iter().map_while(|word| Suite::from_str(word, false).ok()).collect();
    let filter = words[suites.len()..].to_vec();
    if let Some(word) = filter.first()
        && suites.len() != 1
    {
        bail!("{word:?} is not a suite, and a filter must follow a single suite; see ./x test --help");
    }
    Ok((suites, filter))
}

/// All suites of a run without arguments. The cluster mostly waits and an emulated VM is one busy thread, so the two
/// share a machine well.
fn run_default() -> Vec<Report> {
    let mut reports = vec![run_suite(Suite::Unit, &[])];
    std::thread::scope(|scope| {
        let cluster = scope.spawn(|| run_suite(Suite::Cluster, &[]));
        reports.extend([Suite::Lab, Suite::Browser, Suite::Macos].map(|suite| run_suite(suite, &[])));
        reports.push(cluster.join().unwrap_or_else(|_| {
            let failure = Failure::new("suite panicked", vec!["cluster".to_owned()]);
            Report { suite: Suite::Cluster, passed: 0, failures: vec![failure], time: Duration::ZERO }
        }));
    });
    if reports.iter().all(|report| report.failures.is_empty())
        && let Err(error) = crate::crates::keep()
    {
        eprintln!("x: compiled dependencies were not cached: {error:#}");
    }
    reports
}

/// Runs the steps of a suite that the filter selects. Never stops at a failure.
fn run_suite(suite: Suite, filter: &[String]) -> Report {
    run_steps(suite, &suite.steps(), filter)
}

fn run_steps(suite: Suite, steps: &[Step], filter: &[String]) -> Report {
    let begin = Instant::now();
    let named: Vec<&Step> = steps.iter().filter(|step| filter == [step.name]).collect();
    let (selected, filter) = match named.as_slice() {
        [] if filter.is_empty() => (steps.iter().collect(), filter),
        [] => (steps.iter().filter(|step| step.takes_a_filter()).collect(), filter),
        _ => (named, &[][..]),
    };
    let mut report = Report { suite, passed: 0, failures: Vec::new(), time: Duration::ZERO };
    for step in selected {
        let outcome = step.run(filter);
        report.passed += outcome.passed;
        report.failures.extend(outcome.failures);
    }
    if report.passed == 0 && report.failures.is_empty() {
        report.failures.push(Failure::new("no test ran", filter.to_vec()));
    }
    report.time = begin.elapsed();
    println!("x: suite {}", line(&report));
    report
}

fn line(Report { suite, passed, failures, time }: &Report) -> String {
    format!("{}: {passed} passed, {} failed in {:.0} s", suite.name(), failures.len(), time.as_secs_f64())
}

/// Text at the end of a run: suites, failures, closing line.
fn summary(reports: &[Report]) -> String {
    let mut lines: Vec<String> = reports.iter().map(|report| format!("x: suite {}", line(report))).collect();
    let failures =
        || reports.iter().flat_map(|report| report.failures.iter().map(move |it| (report.suite, it)));
    if failures().next().is_some() {
        lines.push("x: failed, and the command to repeat each:".to_owned());
    }
    for (suite, failure) in failures() {
        lines.push(format!("  {}: {}", suite.name(), failure.what));
        lines.push(
            format!("      ./x test {} {}", suite.name(), failure.filter.join(" ")).trim_end().to_owned(),
        );
        lines.extend(failure.error.iter().map(|line| format!("      {line}")));
    }
    let passed: u32 = reports.iter().map(|report| report.passed).sum();
    lines.push(format!("{passed} passed, {} failed", failures().count()));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn words_are_suites_and_then_a_filter() {
        let parsed = |line: &str| parse(&words(line)).map_err(|error| error.to_string());
        assert_eq!(parsed(""), Ok((vec![], vec![])));
        assert_eq!(parsed("unit lab"), Ok((vec![Suite::Unit, Suite::Lab], vec![])));
        assert_eq!(parsed("unit a::b --exact"), Ok((vec![Suite::Unit], words("a::b --exact"))));
        for wrong in ["unitt", "unit lab a::b", "a::b unit"] {
            assert!(parsed(wrong).is_err_and(|error| error.contains("is not a suite")), "{wrong}");
        }
    }

    #[test]
    fn summary_lists_failures_and_ends_with_the_counts() {
        let failure = Failure::new("path::frames_arrive", words("frames_arrive --exact"));
        let reports = [
            Report { suite: Suite::Unit, passed: 7, failures: vec![], time: Duration::from_secs(3) },
            Report { suite: Suite::Lab, passed: 1, failures: vec![failure], time: Duration::from_secs(2) },
        ];
        let text = summary(&reports);
        let expected = "x: suite unit: 7 passed, 0 failed in 3 s\n\
                        x: suite lab: 1 passed, 1 failed in 2 s\n\
                        x: failed, and the command to repeat each:\n  \
                          lab: path::frames_arrive\n      \
                              ./x test lab frames_arrive --exact\n\
                        8 passed, 1 failed";
        assert_eq!(text, expected);
        assert!(summary(&reports[..1]).ends_with("\n7 passed, 0 failed"));
    }

    #[test]
    fn filter_selects_a_step_by_its_name() {
        let steps =
            || vec![Step::check("good", || Ok(())), Step::check("bad", || anyhow::bail!("it failed"))];
        let report = run_steps(Suite::Unit, &steps(), &words("good"));
        assert_eq!((report.passed, report.failures), (1, vec![]));
        let report = run_steps(Suite::Unit, &steps(), &[]);
        let failure = Failure::new("bad: it failed", words("bad"));
        assert_eq!((report.passed, report.failures), (1, vec![failure]));
    }

    #[test]
    fn filter_without_a_match_fails_the_suite() {
        let report = run_steps(Suite::Unit, &[Step::check("good", || Ok(()))], &words("no_such_test"));
        assert_eq!(
            (report.passed, report.failures),
            (0, vec![Failure::new("no test ran", words("no_such_test"))])
        );
    }
}
