//! Guards between the C entry points and [`Vmm`]: thread ownership, nesting and panics.
//!
//! - The thread that last called `virgl_renderer_init` owns the recorded state. Calls on other threads are
//!   counted and otherwise ignored: virglrenderer is not thread-safe, so a VMM makes none.
//! - virglrenderer calls some of its own functions through the dynamic symbol table
//!   (`context_create` → `context_create_with_flags`), so only the outermost entry records.
//! - A panic while state is recorded could leave a page that the VMM is about to unmap, so all state is
//!   dropped and the tap is disabled. Panics while a request is served are caught in [`Vmm`].

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use frame_ring::clock::monotonic_ns;

use crate::reader::CopyReader;
use crate::shared::Shared;
use crate::vmm::Vmm;
use crate::{VERSION, link, log, settings};

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static OWNED: RefCell<Option<Owned>> = const { RefCell::new(None) };
}

/// Number of ownership changes so far; state with an earlier number is void.
static OWNERSHIP: AtomicU64 = AtomicU64::new(0);
static SHARED: OnceLock<Option<Arc<Shared>>> = OnceLock::new();

/// The state of the owning thread.
struct Owned {
    ownership: u64,
    vmm: Vmm<CopyReader>,
}

/// Marks that one of the tap's entry points is on the stack.
#[derive(Debug)]
pub struct Entry {
    outermost: bool,
}

impl Entry {
    /// Enters. On a thread whose thread-locals are destroyed, the entry counts as nested and records
    /// nothing.
    pub fn enter() -> Self {
        let depth = DEPTH.try_with(|depth| depth.replace(depth.get().saturating_add(1)));
        Self { outermost: depth == Ok(0) }
    }

    /// Records an event, if this is the outermost entry and its thread owns the state.
    pub fn record(&self, event: impl FnOnce(&mut Vmm<CopyReader>)) {
        if !self.outermost {
            return;
        }
        let _thread_ends = OWNED.try_with(|owned| {
            let Ok(mut owned) = owned.try_borrow_mut() else { return };
            if owned.as_ref().is_some_and(|owned| owned.ownership == OWNERSHIP.load(Ordering::Acquire)) {
                guard(&mut owned, |owned| event(&mut owned.vmm));
            } else if let Some(Some(shared)) = SHARED.get() {
                shared.counters.foreign_calls.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    /// Makes this thread the owner of the state, after `virgl_renderer_init` succeeded on it. `abi` is
    /// the version of the VMM's callbacks structure.
    pub fn take_ownership(&self, abi: u32) {
        if !self.outermost {
            return;
        }
        let _panicked = catch_unwind(|| {
            let Some(shared) = SHARED.get_or_init(|| start(abi)) else { return };
            shared.abi.store(abi, Ordering::Relaxed);
            let _thread_ends = OWNED.try_with(|owned| {
                let Ok(mut owned) = owned.try_borrow_mut() else { return };
                let ownership = OWNERSHIP.fetch_add(1, Ordering::AcqRel) + 1;
                if let Some(owned) = &mut *owned {
                    // The renderer restarts: all objects are gone, context generations continue.
                    owned.vmm.reset();
                    owned.ownership = ownership;
                } else {
                    let vmm = Vmm::new(Arc::clone(shared), CopyReader, monotonic_ns);
                    *owned = Some(Owned { ownership, vmm });
                }
            });
        });
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let _thread_ends = DEPTH.try_with(|depth| depth.set(depth.get().saturating_sub(1)));
    }
}

/// Runs `event`. If it panics, drops all state and disables the tap.
fn guard(owned: &mut Option<Owned>, event: impl FnOnce(&mut Owned)) {
    let Some(state) = owned.as_mut() else { return };
    let shared = Arc::clone(state.vmm.shared());
    if catch_unwind(AssertUnwindSafe(|| event(state))).is_err() {
        shared.counters.fault();
        shared.counters.disable();
        let _panicked_again = catch_unwind(AssertUnwindSafe(|| *owned = None));
    }
}

/// Starts the link thread. `None` if that fails; then the tap does nothing.
fn start(abi: u32) -> Option<Arc<Shared>> {
    log_panics();
    let settings = settings::Settings::from_environment();
    log::line(format_args!(
        "started: version {VERSION}, VM \"{}\", callbacks version {abi}, link {}",
        settings.vm,
        settings.link.display()
    ));
    match link::start(settings, abi) {
        Ok(shared) => Some(shared),
        Err(error) => {
            log::line(format_args!("disabled: {error}"));
            None
        }
    }
}

/// Sends this library's panic messages to the log instead of the VMM's stderr. The hook belongs to this
/// library's copy of the standard library; a VMM written in Rust has another.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| log::line(format_args!("{panic}"))));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned() -> (Option<Owned>, Arc<Shared>) {
        let (_wake_fd, waker) = frame_ring::wake::pair().expect("pair");
        let shared = Arc::new(Shared::new(waker));
        let vmm = Vmm::new(Arc::clone(&shared), CopyReader, monotonic_ns);
        (Some(Owned { ownership: 1, vmm }), shared)
    }

    #[test]
    fn panic_while_recording_drops_the_state_and_disables_the_tap() {
        let (mut state, shared) = owned();
        guard(&mut state, |owned| owned.vmm.context_create(1, String::new()));
        assert!(state.is_some() && !shared.counters.is_disabled());
        guard(&mut state, |_| panic!("while recording"));
        assert!(state.is_none() && shared.counters.is_disabled());
        guard(&mut state, |_| panic!("never reached"));
        assert_eq!(shared.counters.snapshot().faults, 1);
    }

    #[test]
    fn only_the_outermost_entry_of_the_owner_records() {
        let (state, _shared) = owned();
        OWNED.with(|owned| *owned.borrow_mut() = state);
        OWNERSHIP.store(1, Ordering::Release);
        let recorded = Cell::new(0);
        let count = |entry: &Entry| entry.record(|_| recorded.set(recorded.get() + 1));
        {
            let outer = Entry::enter();
            let inner = Entry::enter();
            count(&inner);
            assert_eq!(recorded.get(), 0);
            drop(inner);
            count(&outer);
            assert_eq!(recorded.get(), 1);
            outer.record(|_| count(&Entry::enter()));
        }
        count(&Entry::enter());
        assert_eq!(recorded.get(), 2);
        OWNERSHIP.store(2, Ordering::Release);
        count(&Entry::enter());
        assert_eq!(recorded.get(), 2, "another thread owns the state");
    }
}
