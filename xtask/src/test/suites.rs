//! The suites and their steps.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;

use super::step::Step;
use super::{libtest, nextest};
use crate::workspace::{self, cargo};
use crate::{fuzz, tidy, tools};

/// A suite
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// Format, lints, dependency policy, unit and property tests
    Unit,
    /// The whole frame path in real VMs
    Lab,
    /// Viewers in a real Chromium
    Browser,
    /// macOS artifacts: linted, linked, inspected; VideoToolbox over its simulator
    Macos,
    /// The operator in a real Kubernetes (needs root)
    Cluster,
    /// A Kubernetes whose node is a VM, from kubectl apply to the browser (needs root)
    Topology,
    /// A real Docker Engine, newest and oldest, with our images and the Compose file (needs root)
    Docker,
    /// arm64 guest and images, a newer QEMU, two VMs in a cluster, fuzz targets (needs root)
    Slow,
}

/// List of the suites for `--help`.
pub fn help() -> String {
    let values = Suite::value_variants().iter().filter_map(ValueEnum::to_possible_value);
    let line = |value: clap::builder::PossibleValue| {
        format!(
            "\n  {:<9} {}",
            value.get_name(),
            value.get_help().map(ToString::to_string).unwrap_or_default()
        )
    };
    "Suites:".to_owned() + &values.map(line).collect::<String>()
}

impl Suite {
    /// Name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Parts of the suite, in the order in which they run.
    pub fn steps(self) -> Vec<Step> {
        match self {
            Self::Unit => {
                let mut steps = vec![
                    Step::check("format", || check(&["fmt", "--all", "--check"])),
                    Step::check("tidy", tidy::run),
                    Step::check("deny", deny),
                    Step::check("lints", lints),
                    Step::nextest("tests", || nextest::command(&WORKSPACE)),
                ];
                // Starting rustdoc for every crate takes a minute.
                if tidy::has_doctests().unwrap_or(true) {
                    steps.push(Step::libtest("doctests", || Ok(workspace_tests(&["--doc"], &[]))));
                }
                steps
            }
            Self::Lab => vec![
                Step::libtest("smoke", || {
                    let selection = ["-p", "e2e", "-p", "lab", "--test", "smoke"];
                    Ok(tests(&selection, &["--ignored", "--nocapture", "--test-threads=1"]))
                }),
                Step::libtest("vms", || {
                    Ok(e2e(
                        &names(&workspace::integration_tests(
                            "e2e",
                            &["arm64", "browser", "cursor", "interaction", "pointer", "window"],
                        )?),
                        &[],
                    ))
                }),
            ],
            Self::Browser => vec![
                Step::libtest("vms", || {
                    Ok(e2e(&["browser", "cursor", "interaction", "pointer", "window"], &[]))
                }),
                Step::check("page", page_in_chromium),
                Step::check("rebuilt-stream", rebuilt_stream_in_chromium),
            ],
            Self::Macos => vec![
                Step::check("soak", || valgrind("soak_without_encoder_loses_and_leaks_nothing", &[])),
                Step::check("leak", valgrind_finds_a_leak),
                Step::libtest("loom", || {
                    Ok(workspace_tests(&["--features", "videotoolbox/loom", "--test", "loom"], &[]))
                }),
                Step::check("check-macos", || check(&["run", "--release", "-p", "check-macos"])),
                // The host-agent's judgement of the files that check-macos linked.
                Step::libtest("macho", || Ok(workspace_tests(&["--test", "macho"], &["--ignored"]))),
                Step::libtest("rules", || Ok(tests(&["-p", "check-macos"], &[]))),
            ],
            Self::Cluster => vec![
                // Tests of the chart in package `operator` that need helm; package `cluster` has a file of that name too.
                Step::libtest("chart", || programs_and_tests(&["chart"], &[])),
                Step::libtest("cluster", || with_programs("cluster", &["chart"])),
            ],
            Self::Topology => vec![Step::libtest("topology", || with_programs("topology", &["two_vms"]))],
            Self::Docker => vec![Step::libtest("docker", || with_programs("engine", &["arm64_images"]))],
            Self::Slow => vec![
                Step::libtest("vms", || {
                    Ok(e2e(&names(&workspace::integration_tests("e2e", &[])?), &["--ignored"]))
                }),
                Step::libtest("containers", || programs_and_tests(&["two_vms", "arm64_images"], &[])),
                Step::check("oldest-docker", oldest_docker),
                Step::check("fuzz", || fuzz::run(Duration::from_secs(10 * 60))),
            ],
        }
    }
}

/// Packages of the unit tests. Other suites select the same ones, so that cargo compiles each dependency once, with one
/// set of features. Package `e2e` boots VMs, `check-macos` links for another system.
const WORKSPACE: [&str; 5] = ["--workspace", "--exclude", "e2e", "--exclude", "check-macos"];

fn names(strings: &[String]) -> Vec<&str> {
    strings.iter().map(String::as_str).collect()
}

fn succeed(mut command: Command) -> Result<()> {
    let status = command.status().with_context(|| format!("starting {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

fn check(arguments: &[&str]) -> Result<()> {
    let mut command = cargo();
    command.args(arguments);
    succeed(command)
}

fn lints() -> Result<()> {
    // The fuzz targets are a workspace of their own, whose lock file no other command checks.
    check(&["tree", "--locked", "--quiet", "--depth", "0", "--manifest-path", "fuzz/Cargo.toml"])?;
    check(&["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"])
}

/// `cargo test --release SELECTION -- ARGUMENTS`, ready for a filter at its end.
fn tests(selection: &[&str], arguments: &[&str]) -> Command {
    let mut command = cargo();
    command.args(["test", "--release", "--no-fail-fast"]).args(selection).arg("--").args(arguments);
    command
}

fn workspace_tests(selection: &[&str], arguments: &[&str]) -> Command {
    tests(&[&WORKSPACE[..], selection].concat(), arguments)
}

fn targets<'a>(flag: &'a str, names: &[&'a str]) -> Vec<&'a str> {
    names.iter().flat_map(|name| [flag, name]).collect()
}

/// Licences, sources and bans; advisories too if their database can be fetched or was fetched before.
fn deny() -> Result<()> {
    let deny = |checks: &[&str]| -> Result<Command> {
        let mut command = Command::new(tools::DENY.program()?);
        command.current_dir(workspace::root()?).args(["--color", "never", "check", "--hide-inclusion-graph"]);
        command.args(checks).stdin(Stdio::null());
        Ok(command)
    };
    succeed(deny(&["bans", "licenses", "sources"])?)?;
    let fetched = Command::new(tools::DENY.program()?)
        .current_dir(workspace::root()?)
        .args(["fetch", "db"])
        .stdin(Stdio::null())
        .output()
        .context("starting cargo-deny")?;
    if !fetched.status.success() {
        let reason = String::from_utf8_lossy(&fetched.stderr);
        let reason = reason.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
        println!(
            "x: ADVISORIES NOT CHECKED: the database of RustSec could not be fetched: {}",
            reason.trim()
        );
        return Ok(());
    }
    succeed(deny(&["advisories"])?)
}

/// Tests of package `e2e`, which boot VMs: one after the other, each file in a process of its own.
fn e2e(files: &[&str], more: &[&str]) -> Command {
    let arguments = [&["--nocapture", "--test-threads=1"], more].concat();
    tests(&[&["-p", "e2e"], &targets("--test", files)[..]].concat(), &arguments)
}

/// The viewer page in Chromium, served by the example `viewer` of crate `viewers`.
fn page_in_chromium() -> Result<()> {
    check(&[&["build", "--release"], &WORKSPACE[..], &["--example", "viewer"]].concat())?;
    e2e::browser::install()?;
    let mut node = Command::new("node");
    node.current_dir(lab::repository().join("tests/browser"))
        .args(["--test", "page.test.mjs", "clipboard.test.mjs"])
        .env("VIEWER_EXAMPLE", workspace::target()?.join("release/examples/viewer"))
        .stdin(Stdio::null());
    succeed(node)
}

/// Chromium's decoder on a stream whose encoder was replaced, which a test of crate `videotoolbox` writes.
fn rebuilt_stream_in_chromium() -> Result<()> {
    let written = libtest::run(&mut workspace_tests(&["--test", "replaced_session"], &[]))?;
    ensure!(written.failures.is_empty() && written.passed > 0, "test `rebuilt` failed");
    e2e::browser::install()?;
    let stream = workspace::target()?.join("tmp/rebuilt.stream");
    let mut node = Command::new("node");
    node.current_dir(lab::repository().join("tests/browser"))
        .args(["--test", "rebuilt.test.mjs"])
        .env("REBUILT_STREAM", stream)
        .stdin(Stdio::null());
    succeed(node)
}

/// One test of the VideoToolbox soak under valgrind.
fn valgrind(test: &str, more: &[&str]) -> Result<()> {
    let runner = "target.'cfg(unix)'.runner=['valgrind', '--quiet', '--leak-check=full', \
                  '--show-leak-kinds=definite,indirect', '--errors-for-leak-kinds=definite,indirect', \
                  '--error-exitcode=9']";
    let selection = [&["--config", runner], &WORKSPACE[..], &["--test", "soak"]].concat();
    let outcome = libtest::run(&mut tests(&selection, &[&[test, "--exact"], more].concat()))?;
    ensure!(outcome.failures.is_empty() && outcome.passed > 0, "{test} failed or did not run");
    Ok(())
}

fn valgrind_finds_a_leak() -> Result<()> {
    println!("x: the next test leaks on purpose: valgrind must report it");
    ensure!(
        valgrind("deliberate_leak_is_found_by_valgrind", &["--ignored"]).is_err(),
        "valgrind did not report the leak"
    );
    Ok(())
}

/// Ignored tests of a package that need a cluster or a Docker Engine, except some files.
fn with_programs(package: &str, except: &[&str]) -> Result<Command> {
    programs_and_tests(&names(&workspace::integration_tests(package, except)?), &[])
}

/// Compiles the programs that the tests install, then selects the tests by file. The test selection in the first command
/// makes cargo use the features of the second, so that nothing is compiled twice.
fn programs_and_tests(files: &[&str], arguments: &[&str]) -> Result<Command> {
    const PROGRAMS: [&str; 5] = ["operator", "kubectl-desktopstream", "host-agent", "sidecar", "pattern"];
    let files = targets("--test", files);
    check(&[&["build", "--release"], &WORKSPACE[..], &targets("--bin", &PROGRAMS), &files].concat())?;
    let ignored = [&["--ignored", "--nocapture", "--test-threads=1"], arguments].concat();
    let mut command = workspace_tests(&files, &ignored);
    command.env("DESKTOPSTREAM_PROGRAMS", workspace::target()?.join("release"));
    Ok(command)
}

/// The tests of `operator docker` for the current Docker Engine again, on Debian's.
fn oldest_docker() -> Result<()> {
    let mut command = programs_and_tests(&["operator_docker"], &["--skip=oldest::"])?;
    let outcome = libtest::run(command.env("DESKTOPSTREAM_DOCKER_DEBIAN", "1"))?;
    ensure!(
        outcome.failures.is_empty() && outcome.passed > 0,
        "operator_docker failed on Debian's Docker Engine"
    );
    Ok(())
}
