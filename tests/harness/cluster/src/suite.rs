//! Test binaries whose tests share a fixture: a cluster, an engine, a topology.
//!
//! The fixture comes up with the first test that uses it and ends after the last one, so that every test can also be run
//! alone: `cargo test … -- --ignored --exact NAME`. All tests are ignored by default, as they need root and take minutes.
//!
//! ```no_run
//! # use cluster::{suite::{Fixture, Suite}, tests, Cluster, Config, Result};
//! # struct Smoke(Cluster);
//! # impl Fixture for Smoke {}
//! # fn node_is_listed(_: &Smoke) -> Result<()> { Ok(()) }
//! # fn kubelet_restarts(_: &mut Smoke) -> Result<()> { Ok(()) }
//! fn main() -> std::process::ExitCode {
//!     let up = || Ok(Smoke(Cluster::up(&Config::new("smoke"))?));
//!     Suite::new().fixture(up, tests![node_is_listed, kubelet_restarts]).main()
//! }
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use libtest_mimic::{Arguments, Failed, Trial};

use crate::instance::keep_folders;

/// State that tests share.
pub trait Fixture: Send + Sync + 'static {
    /// Checks after a test that it left nothing behind.
    ///
    /// # Errors
    /// With the objects that the test should have removed.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Returns the fixture to its initial state. Called before the next test when a test failed.
    fn restore(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A test of a fixture.
///
/// A test that takes `&F` may run beside others, a test that takes `&mut F` runs alone, and a test that takes `F` ends the
/// fixture: the next test brings up another one.
pub struct Test<F> {
    name: &'static str,
    run: Run<F>,
}

type SharedTest<F> = Box<dyn Fn(&F) -> Result<()> + Send + Sync>;
type ExclusiveTest<F> = Box<dyn Fn(&mut F) -> Result<()> + Send + Sync>;
type ConsumingTest<F> = Box<dyn Fn(F) -> Result<()> + Send + Sync>;

enum Run<F> {
    Shared(SharedTest<F>),
    Exclusive(ExclusiveTest<F>),
    Consuming(ConsumingTest<F>),
}

/// Signatures of tests.
pub mod signature {
    /// `fn(&F) -> Result<()>`
    #[derive(Debug)]
    pub struct Shared;
    /// `fn(&mut F) -> Result<()>`
    #[derive(Debug)]
    pub struct Exclusive;
    /// `fn(F) -> Result<()>`
    #[derive(Debug)]
    pub struct Consuming;
}

/// Functions that are tests of the fixture `F`.
pub trait IntoTest<F, Signature> {
    /// The test of that name.
    fn into_test(self, name: &'static str) -> Test<F>;
}

impl<F, T: Fn(&F) -> Result<()> + Send + Sync + 'static> IntoTest<F, signature::Shared> for T {
    fn into_test(self, name: &'static str) -> Test<F> {
        Test { name, run: Run::Shared(Box::new(self)) }
    }
}

impl<F, T: Fn(&mut F) -> Result<()> + Send + Sync + 'static> IntoTest<F, signature::Exclusive> for T {
    fn into_test(self, name: &'static str) -> Test<F> {
        Test { name, run: Run::Exclusive(Box::new(self)) }
    }
}

impl<F, T: Fn(F) -> Result<()> + Send + Sync + 'static> IntoTest<F, signature::Consuming> for T {
    fn into_test(self, name: &'static str) -> Test<F> {
        Test { name, run: Run::Consuming(Box::new(self)) }
    }
}

/// A list of tests, each named by its path.
#[macro_export]
macro_rules! tests {
    ($($test:path),* $(,)?) => {
        vec![$($crate::suite::IntoTest::into_test($test, stringify!($test))),*]
    };
}

/// The tests of a binary.
pub struct Suite {
    trials: Vec<Trial>,
    /// Functions that end the fixtures.
    ends: Vec<Box<dyn FnOnce()>>,
    threads: usize,
}

impl Default for Suite {
    fn default() -> Self {
        Self::new()
    }
}

impl Suite {
    /// A suite without tests, which runs one test at a time.
    pub fn new() -> Self {
        Self { trials: Vec::new(), ends: Vec::new(), threads: 1 }
    }

    /// Runs up to `threads` tests that take `&F` at a time, whatever `--test-threads` says.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Adds tests that share the fixture that `up` creates.
    #[must_use]
    pub fn fixture<F: Fixture>(
        self,
        up: impl Fn() -> Result<F> + Send + Sync + 'static,
        tests: Vec<Test<F>>,
    ) -> Self {
        self.named_fixture("", up, tests)
    }

    /// The same, with a prefix of the tests' names.
    #[must_use]
    pub fn named_fixture<F: Fixture>(
        mut self,
        prefix: &str,
        up: impl Fn() -> Result<F> + Send + Sync + 'static,
        tests: Vec<Test<F>>,
    ) -> Self {
        let slot = Arc::new(Slot::new(up));
        for test in tests {
            let slot = Arc::clone(&slot);
            let name = format!("{prefix}{}", test.name.replace(' ', ""));
            let trial = move || slot.run(&test).map_err(|error| Failed::from(format!("{error:?}")));
            self.trials.push(Trial::test(name, trial).with_ignored_flag(true));
        }
        self.ends.push(Box::new(move || slot.end()));
        self
    }

    /// Adds a test without a fixture.
    #[must_use]
    pub fn test(mut self, name: &str, test: impl FnOnce() -> Result<()> + Send + 'static) -> Self {
        let trial = move || test().map_err(|error| Failed::from(format!("{error:?}")));
        self.trials.push(Trial::test(name, trial).with_ignored_flag(true));
        self
    }

    /// Runs the tests that the command line selects, and ends the fixtures.
    pub fn main(self) -> ExitCode {
        let mut arguments = Arguments::from_args();
        arguments.test_threads = Some(self.threads);
        let conclusion = libtest_mimic::run(&arguments, self.trials);
        if conclusion.has_failed() {
            keep_folders();
        }
        self.ends.into_iter().for_each(|end| end());
        conclusion.exit_code()
    }
}

/// A fixture that comes up when it is needed.
struct Slot<F> {
    up: Box<dyn Fn() -> Result<F> + Send + Sync>,
    state: RwLock<State<F>>,
    /// True after a failed test: the fixture is restored before the next one.
    dirty: AtomicBool,
}

enum State<F> {
    Down,
    Up(F),
    /// Bringing the fixture up failed, with this error. It is not tried again.
    Failed(String),
}

impl<F: Fixture> Slot<F> {
    fn new(up: impl Fn() -> Result<F> + Send + Sync + 'static) -> Self {
        Self { up: Box::new(up), state: RwLock::new(State::Down), dirty: AtomicBool::new(false) }
    }

    fn run(&self, test: &Test<F>) -> Result<()> {
        let result = self.run_once(test);
        if result.is_err() {
            self.dirty.store(true, Ordering::Release);
            keep_folders();
        }
        result
    }

    fn run_once(&self, test: &Test<F>) -> Result<()> {
        self.prepare()?;
        let began = Instant::now();
        match &test.run {
            Run::Shared(run) => {
                let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
                let State::Up(fixture) = &*state else { bail!("another test ended the fixture") };
                catch(|| run(fixture))?;
                fixture.check()?;
            }
            Run::Exclusive(run) => {
                let mut state = self.write();
                let State::Up(fixture) = &mut *state else { bail!("another test ended the fixture") };
                catch(|| run(fixture))?;
                fixture.check()?;
            }
            Run::Consuming(run) => {
                let state = std::mem::replace(&mut *self.write(), State::Down);
                let State::Up(fixture) = state else { bail!("another test ended the fixture") };
                catch(|| run(fixture))?;
            }
        }
        println!("{:6.1} s  {}", began.elapsed().as_secs_f64(), test.name);
        Ok(())
    }

    /// Brings the fixture up, or restores it after a failed test.
    fn prepare(&self) -> Result<()> {
        let is_up = matches!(*self.state.read().unwrap_or_else(PoisonError::into_inner), State::Up(_));
        if is_up && !self.dirty.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut state = self.write();
        match &mut *state {
            State::Down => match catch(&self.up) {
                Ok(fixture) => *state = State::Up(fixture),
                Err(error) => {
                    *state = State::Failed(format!("{error:#}"));
                    return Err(error.context("bringing the fixture up"));
                }
            },
            State::Up(fixture) => {
                if self.dirty.load(Ordering::Acquire) {
                    catch(|| fixture.restore()).context("restoring the fixture after a failed test")?;
                }
            }
            State::Failed(error) => bail!("the fixture did not come up: {error}"),
        }
        self.dirty.store(false, Ordering::Release);
        Ok(())
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<F>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        *self.write() = State::Down;
    }
}

/// Turns a panic into an error.
fn catch<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(anyhow!("the test panicked: {}", text.unwrap_or("no message")))
    })
}

#[cfg(test)]
#[expect(
    clippy::unnecessary_wraps,
    clippy::needless_pass_by_value,
    reason = "tests of a suite have these signatures"
)]
mod unit_tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    static UPS: AtomicUsize = AtomicUsize::new(0);

    #[derive(Default)]
    struct Counted {
        left_behind: AtomicBool,
        restored: usize,
    }

    impl Fixture for Counted {
        fn check(&self) -> Result<()> {
            anyhow::ensure!(!self.left_behind.load(Ordering::Relaxed), "something is left");
            Ok(())
        }

        fn restore(&mut self) -> Result<()> {
            self.left_behind = AtomicBool::new(false);
            self.restored += 1;
            Ok(())
        }
    }

    fn passes(_: &Counted) -> Result<()> {
        Ok(())
    }

    fn leaves_something(fixture: &Counted) -> Result<()> {
        fixture.left_behind.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn was_restored_once(fixture: &mut Counted) -> Result<()> {
        anyhow::ensure!(fixture.restored == 1, "restored {} times", fixture.restored);
        Ok(())
    }

    fn ends(fixture: Counted) -> Result<()> {
        fixture.check()
    }

    #[test]
    fn fixture_is_shared_restored_after_a_failure_and_replaced_after_its_end() {
        let slot = Slot::new(|| {
            UPS.fetch_add(1, Ordering::Relaxed);
            Ok(Counted::default())
        });
        let tests: Vec<Test<Counted>> =
            crate::tests![passes, leaves_something, was_restored_once, ends, passes];
        let results: Vec<bool> = tests.iter().map(|test| slot.run(test).is_ok()).collect();
        assert_eq!(results, [true, false, true, true, true]);
        assert_eq!(UPS.load(Ordering::Relaxed), 2);
        assert_eq!(tests[1].name, "leaves_something");
    }

    #[test]
    fn fixture_that_fails_to_come_up_fails_all_tests_and_is_tried_once() {
        let tries = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&tries);
        let slot: Slot<Counted> = Slot::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            bail!("no root")
        });
        let tests: Vec<Test<Counted>> = crate::tests![passes, was_restored_once];
        for test in &tests {
            let error = slot.run(test).expect_err("no fixture");
            assert!(format!("{error:#}").contains("no root"), "{error:#}");
        }
        assert_eq!(tries.load(Ordering::Relaxed), 1);
    }
}
