//! `./x test`: every suite, or the ones named. A suite that ran no test has failed.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};

/// A suite
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// Format, lints, unit and property tests
    Unit,
    /// The whole path in real VMs
    Lab,
    /// The same as seen by a real Chromium
    Browser,
    /// What ships on a Mac: linted, linked, inspected, and each of its checks seen to fail
    Macos,
    /// The operator in a real Kubernetes: needs root
    Cluster,
    /// The same with a VM as a node, from kubectl apply to the browser: needs root; not part of the default yet
    Topology,
    /// A real Docker Engine, the newest and the oldest, our images and the compose file: needs root; in a VM, too, when it is
    /// named; not part of the default yet
    Docker,
    /// Long extras: an arm64 guest, and our images for it; a newer QEMU, two VMs in a cluster, fuzzers; not part of the default
    Slow,
}

/// Run test suites
#[derive(Args)]
pub struct Arguments {
    /// Which [default: unit, lab, browser, macos, cluster]
    suites: Vec<Suite>,
}

/// A suite that ended.
type Done = (Suite, u32, Duration);

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let done = match arguments.suites.as_slice() {
        [] => all()?,
        named => in_turn(named)?,
    };
    println!();
    for (suite, passed, time) in &done {
        println!("x: suite {suite:?}: {passed} tests in {:.0} s", time.as_secs_f64());
    }
    println!("{} passed, 0 failed", done.iter().map(|(_, passed, _)| passed).sum::<u32>());
    Ok(ExitCode::SUCCESS)
}

/// A cluster mostly waits, an emulated VM is one busy thread: they share two processors well.
fn all() -> Result<Vec<Done>> {
    let mut done = in_turn(&[Suite::Unit])?;
    std::thread::scope(|scope| {
        let beside = scope.spawn(|| in_turn(&[Suite::Cluster]));
        done.extend(in_turn(&[Suite::Lab, Suite::Browser, Suite::Macos])?);
        let beside = beside.join().map_err(|_| anyhow::anyhow!("suite Cluster panicked"))?;
        done.extend(beside?);
        Ok::<_, anyhow::Error>(())
    })?;
    crate::crates::keep()?;
    Ok(done)
}

fn in_turn(suites: &[Suite]) -> Result<Vec<Done>> {
    let mut done = Vec::new();
    for suite in suites {
        let begin = Instant::now();
        let passed = match suite {
            Suite::Unit => unit(),
            Suite::Lab => e2e(&["path", "rights", "ladder", "recovery", "gst"], &[]),
            Suite::Browser => browser(),
            Suite::Macos => macos(),
            Suite::Cluster => in_a_cluster(&["chart", "cluster", "desktop", "operator"], &[]),
            Suite::Topology => in_a_cluster(&["topology"], &[]),
            Suite::Docker => in_a_cluster(&["engines", "operator_docker", "compose", "lab_docker"], &[]),
            Suite::Slow => slow(),
        }
        .with_context(|| format!("suite {suite:?}"))?;
        ensure!(passed > 0, "suite {suite:?} ran no test");
        println!("x: suite {suite:?} passed in {:.0} s", begin.elapsed().as_secs_f64());
        done.push((*suite, passed, begin.elapsed()));
    }
    Ok(done)
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(lab::repository()).args(arguments).stdin(Stdio::null());
    command
}

fn check(what: &str, arguments: &[&str]) -> Result<()> {
    println!("x: {what}");
    let status = cargo(arguments).status().with_context(|| format!("cargo {}", arguments.join(" ")))?;
    ensure!(status.success(), "{what} failed: cargo {}", arguments.join(" "));
    Ok(())
}

/// What one compilation of the workspace is for.
const WORKSPACE: [&str; 5] = ["--workspace", "--exclude", "e2e", "--exclude", "check-macos"];

fn unit() -> Result<u32> {
    check("format", &["fmt", "--all", "--check"])?;
    crate::tidy::run()?;
    check("lints", &["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    counted(cargo(&[&["test", "--release"], &WORKSPACE[..]].concat()))
}

/// Suites that boot VMs: one after the other, each in a process of its own.
fn e2e(names: &[&str], more: &[&str]) -> Result<u32> {
    let mut arguments = vec!["test", "--release", "-p", "e2e"];
    for name in names {
        arguments.extend(["--test", name]);
    }
    arguments.extend(["--", "--nocapture", "--test-threads=1"]);
    arguments.extend(more);
    counted(cargo(&arguments))
}

/// The page on a VM's stream; then Chromium's decoder on a stream whose encoder lost its sessions.
fn browser() -> Result<u32> {
    let passed = e2e(&["browser"], &[])?;
    let made = counted(cargo(&[&["test", "--release"], &WORKSPACE[..], &["--test", "rebuilt"]].concat()))?;
    println!("x: the same stream in Chromium");
    let tests = lab::repository().join("tests/browser");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| lab::repository().join("target"), Into::into);
    let stream = std::path::absolute(target.join("tmp/rebuilt.stream"))?;
    let status = Command::new("node")
        .current_dir(tests)
        .args(["--test", "rebuilt.test.mjs"])
        .env("REBUILT_STREAM", stream)
        .stdin(Stdio::null())
        .status()
        .context("starting node")?;
    ensure!(status.success(), "node --test rebuilt.test.mjs failed");
    Ok(passed + made + 1)
}

/// The encoder of macOS over its simulator under valgrind and loom; then what ships.
fn macos() -> Result<u32> {
    let watched = valgrind("without_an_encoder", &[])?;
    println!("x: a leak on purpose, which valgrind must find");
    ensure!(valgrind("a_leak", &["--ignored"]).is_err(), "valgrind did not find a leak that is there");
    let seam = ["--features", "videotoolbox/loom", "--test", "loom"];
    let modelled = counted(cargo(&[&["test", "--release"], &WORKSPACE[..], &seam].concat()))?;
    check("what ships on a Mac", &["run", "--quiet", "--release", "-p", "check-macos"])?;
    // host-agent's judgement of the files that were just linked.
    let judged = ["--test", "macho", "--", "--ignored"];
    let judged = counted(cargo(&[&["test", "--release"], &WORKSPACE[..], &judged].concat()))?;
    Ok(watched + modelled + judged + counted(cargo(&["test", "--release", "-p", "check-macos"]))?)
}

/// One test of the soak, which must leave nothing behind.
fn valgrind(test: &str, more: &[&str]) -> Result<u32> {
    let runner = "target.'cfg(unix)'.runner=['valgrind', '--quiet', '--leak-check=full', \
                  '--show-leak-kinds=definite,indirect', '--errors-for-leak-kinds=definite,indirect', \
                  '--error-exitcode=9']";
    let of = [&["--config", runner, "test", "--release"], &WORKSPACE[..], &["--test", "soak"]].concat();
    counted(cargo(&[&of[..], &["--", test, "--exact"], more].concat()))
}

/// Those that need root, a cluster or helm, which are told apart from the unit tests by being ignored there. They are built
/// with the same features, so that nothing is compiled twice. The first three have no such test: for them cargo builds the
/// operator, host-agent and sidecar.
fn in_a_cluster(tests: &[&str], names: &[&str]) -> Result<u32> {
    counted(with_programs(tests, names, &[])?)
}

fn with_programs(tests: &[&str], names: &[&str], env: &[(&str, &str)]) -> Result<Command> {
    let mut arguments = [&["test", "--release"], &WORKSPACE[..]].concat();
    let programs = ["crds", "daemon", "viewers_http"];
    arguments.extend(programs.iter().chain(tests).flat_map(|test| ["--test", test]));
    // A bench of host-agent's, which is ignored, too.
    arguments.extend(["--", "--ignored", "--nocapture", "--test-threads=1", "--skip=overhead"]);
    arguments.extend(names);
    let mut command = cargo(&arguments);
    command.env("DESKTOPSTREAM_PROGRAMS", crate::crates::target()?.join("release")).envs(env.iter().copied());
    Ok(command)
}

/// The short one first: it fails sooner.
fn slow() -> Result<u32> {
    let vms = e2e(&["arm64", "path", "recovery", "rights"], &["--ignored"])?
        + in_a_cluster(&["two_vms", "arm64_images"], &[])?;
    let debian = [("DESKTOPSTREAM_DOCKER_DEBIAN", "1")];
    let oldest = counted(with_programs(&["operator_docker"], &["on_the_engine"], &debian)?)?;
    Ok(vms + oldest + crate::fuzz::run(Duration::from_secs(10 * 60))?)
}

/// Runs tests, shows what they print, and counts those that passed.
fn counted(mut command: Command) -> Result<u32> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("starting cargo")?;
    let Some(out) = child.stdout.take() else { bail!("cargo has no output") };
    let mut passed = 0;
    for line in BufReader::new(out).lines() {
        let line = line?;
        passed += passed_in(&line).unwrap_or(0);
        println!("{line}");
    }
    let status = child.wait()?;
    ensure!(status.success(), "{command:?} failed");
    Ok(passed)
}

/// `test result: ok. 12 passed; 0 failed; …`
fn passed_in(line: &str) -> Option<u32> {
    let rest = line.strip_prefix("test result: ok. ")?;
    rest.split_once(" passed")?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_tests_are_counted() {
        assert_eq!(passed_in("test result: ok. 12 passed; 0 failed; 1 ignored"), Some(12));
        assert_eq!(passed_in("test result: FAILED. 3 passed; 1 failed"), None);
        assert_eq!(passed_in("running 3 tests"), None);
    }
}
