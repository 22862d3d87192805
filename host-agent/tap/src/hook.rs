//! Between the C entries and [`Vmm`]: which thread may, whether the call is the outermost, and what
//! happens when something panics.
//!
//! - The thread that called `virgl_renderer_init` last owns the tables. Calls on others are counted and
//!   otherwise ignored; virglrenderer is not made for two threads, so there should be none.
//! - virglrenderer calls some of its own functions through the same table that the VMM uses
//!   (`context_create` → `context_create_with_flags`), so only the outermost entry is booked.
//! - A panic while tables are changed may leave a page behind that the VMM is about to unmap: then all
//!   of the state is thrown away at once and the tap is off. Panics while a request is served are milder;
//!   [`Vmm`] catches those itself.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::reader::Copy;
use crate::shared::Shared;
use crate::vmm::Vmm;
use crate::{VERSION, link, log, settings};

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static OWNED: RefCell<Option<Owned>> = const { RefCell::new(None) };
}

/// Counts changes of owner; the tables of an earlier one are void.
static OWNER: AtomicU64 = AtomicU64::new(0);
static SHARED: OnceLock<Option<Arc<Shared>>> = OnceLock::new();

struct Owned {
    turn: u64,
    vmm: Vmm<Copy>,
}

/// Held while one of our entries is on the stack.
#[derive(Debug)]
pub struct Entry {
    outermost: bool,
}

impl Entry {
    /// Enters. On a thread that is ending it counts as nested: nothing is booked any more.
    pub fn enter() -> Self {
        let depth = DEPTH.try_with(|depth| depth.replace(depth.get().saturating_add(1)));
        Self { outermost: depth == Ok(0) }
    }

    /// Books what happened, on the owning thread and for the outermost entry only.
    pub fn book(&self, what: impl FnOnce(&mut Vmm<Copy>)) {
        if !self.outermost {
            return;
        }
        let _ended = OWNED.try_with(|owned| {
            let Ok(mut owned) = owned.try_borrow_mut() else { return };
            if owned.as_ref().is_some_and(|owned| owned.turn == OWNER.load(Ordering::Acquire)) {
                guard(&mut owned, |owned| what(&mut owned.vmm));
            } else if let Some(Some(shared)) = SHARED.get() {
                shared.counters.foreign_calls.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    /// The renderer was initialised on this thread: it owns the tables from now on.
    pub fn own(&self, abi: u32) {
        if !self.outermost {
            return;
        }
        let _panicked = catch_unwind(|| {
            let Some(shared) = SHARED.get_or_init(|| start(abi)) else { return };
            shared.abi.store(abi, Ordering::Relaxed);
            let _ended = OWNED.try_with(|owned| {
                let Ok(mut owned) = owned.try_borrow_mut() else { return };
                let turn = OWNER.fetch_add(1, Ordering::AcqRel) + 1;
                match &mut *owned {
                    // A new start of the renderer: what was is gone, the generations go on.
                    Some(owned) => {
                        owned.vmm.reset();
                        owned.turn = turn;
                    }
                    None => *owned = Some(Owned { turn, vmm: Vmm::new(Arc::clone(shared), Copy) }),
                }
            });
        });
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let _ended = DEPTH.try_with(|depth| depth.set(depth.get().saturating_sub(1)));
    }
}

/// Runs `what`; after a panic nothing of the state is left, and the tap is off.
fn guard(owned: &mut Option<Owned>, what: impl FnOnce(&mut Owned)) {
    let Some(state) = owned.as_mut() else { return };
    let shared = Arc::clone(state.vmm.shared());
    if catch_unwind(AssertUnwindSafe(|| what(state))).is_err() {
        shared.counters.fault();
        shared.counters.disable();
        let _panicked_again = catch_unwind(AssertUnwindSafe(|| *owned = None));
    }
}

/// First start: the link thread. `None` if it can't be had; then there is no tap.
fn start(abi: u32) -> Option<Arc<Shared>> {
    quiet_panics();
    let settings = settings::Settings::from_environment();
    log::line(format_args!(
        "version {VERSION}, VM \"{}\", callbacks version {abi}, link {}",
        settings.vm,
        settings.link.display()
    ));
    match link::start(settings, abi) {
        Ok(shared) => Some(shared),
        Err(error) => {
            log::line(format_args!("off: {error}"));
            None
        }
    }
}

/// Panics of this library are counted, not printed on the VMM's output. The hook is that of our own
/// copy of the standard library; one that a Rust VMM has set is another.
fn quiet_panics() {
    std::panic::set_hook(Box::new(|panic| log::line(format_args!("{panic}"))));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned() -> (Option<Owned>, Arc<Shared>) {
        let (_listen, fd) = frame_ring::doorbell::pair().expect("pair");
        let shared = Arc::new(Shared::new(frame_ring::doorbell::Bell::new(fd).expect("bell")));
        (Some(Owned { turn: 1, vmm: Vmm::new(Arc::clone(&shared), Copy) }), shared)
    }

    #[test]
    fn a_fault_in_the_tables_ends_the_tap_and_nothing_else() {
        let (mut state, shared) = owned();
        guard(&mut state, |owned| owned.vmm.context_create(1, String::new()));
        assert!(state.is_some() && !shared.counters.is_disabled());
        guard(&mut state, |_| panic!("tables"));
        assert!(state.is_none() && shared.counters.is_disabled());
        guard(&mut state, |_| panic!("never reached"));
        assert_eq!(shared.counters.snapshot().faults, 1);
    }

    #[test]
    fn only_the_outermost_entry_is_booked() {
        let (state, _shared) = owned();
        OWNED.with(|owned| *owned.borrow_mut() = state);
        OWNER.store(1, Ordering::Release);
        let booked = Cell::new(0);
        let count = |entry: &Entry| entry.book(|_| booked.set(booked.get() + 1));
        {
            let outer = Entry::enter();
            let inner = Entry::enter();
            count(&inner);
            assert_eq!(booked.get(), 0);
            drop(inner);
            count(&outer);
            assert_eq!(booked.get(), 1);
            outer.book(|_| count(&Entry::enter()));
        }
        count(&Entry::enter());
        assert_eq!(booked.get(), 2);
        OWNER.store(2, Ordering::Release);
        count(&Entry::enter());
        assert_eq!(booked.get(), 2, "another thread has taken over");
    }
}
