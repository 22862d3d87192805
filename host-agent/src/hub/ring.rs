//! The rings of sessions: which one a session needs, and what limits it.
//!
//! ```text
//!   none --needed, within the limits--> attached, unanswered --RingReady--> attached
//!                                            |                                 |
//!                                            +--RingRefused--> unbound         +--other size needed--> none
//! ```
//!
//! A tap maps every ring with all pages present, so rings are what a session can make a VMM spend. Four
//! limits hold for any sidecar:
//! - A session has one ring, and no other is made before the tap answered it. A configuration that arrives
//!   meanwhile replaces the one that waits.
//! - The rings of a VM's sessions take at most [`MAX_VM_RING_BYTES`]. A session that does not fit is unbound,
//!   with the reason, and its sidecar uses another frame path; all others are unaffected. The session is
//!   bound again once its frames fit.
//! - A stream makes a limited number per second, also if its sidecar reconnects. Further ones wait (`limits`).
//! - The tap has limits of its own ([`MAX_RING_BYTES`]).

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use frame_ring::{Ring, wake};
use protocol::link::{MAX_RING_BYTES, RingRefusal, ToTap};
use protocol::stream::{Config, ErrorCode, Path};

use super::{Entry, Hub, State};
use crate::inbox::RingReader;

/// Largest total size of the rings of one VM's sessions in bytes: twenty-four 4K sessions. Below the tap's
/// limit by the largest ring, because the tap may still use a ring that was replaced.
pub(super) const MAX_VM_RING_BYTES: u64 = 3 << 30;
const _: () = assert!(
    MAX_VM_RING_BYTES + (frame_ring::SLOTS * frame_ring::layout::MAX_SLOT_BYTES) as u64 <= MAX_RING_BYTES
);
/// Interval at which rings that wait for the rate limit are tried again.
const DEFERRED_INTERVAL: Duration = Duration::from_millis(100);

/// Reason why a session gets no ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum RingError {
    #[error(
        "the VM's sessions would need {needed} MiB of ring memory, more than {limit} MiB; use fewer or smaller \
         desktops in this VM"
    )]
    Budget { needed: u64, limit: u64 },
    #[error("the VM's tap refused the ring: {}", remedy(*.0))]
    Refused(RingRefusal),
}

fn remedy(refusal: RingRefusal) -> &'static str {
    match refusal {
        RingRefusal::Memory => "too much ring memory is mapped; use fewer or smaller desktops in this VM",
        RingRefusal::Sessions => "too many sessions; use fewer desktops in this VM",
        RingRefusal::Memfd => "it cannot map the memory; raise the memory limits of the VM's process",
        RingRefusal::WakeFd => "its wake fd is closed; bind again",
    }
}

/// State of a session's ring.
#[derive(Debug, Default)]
pub(super) struct RingState {
    /// The ring that the tap has or is about to map.
    attached: Option<AttachedRing>,
    /// The tap's number and the ring's, while the tap has not answered.
    unanswered: Option<(u64, u64)>,
    /// Another ring is needed and waits for the rate limit.
    deferred: bool,
    /// The last ring was refused for lack of memory.
    refused: bool,
}

#[derive(Debug, Clone, Copy)]
struct AttachedRing {
    number: u64,
    slot_bytes: usize,
}

impl RingState {
    /// A tap disconnected and answers no more.
    pub(super) fn forget_vm(&mut self, vm: u64) {
        self.unanswered = self.unanswered.filter(|(of, _)| *of != vm);
    }
}

/// Size in bytes of a ring.
fn ring_bytes(slot_bytes: usize) -> u64 {
    frame_ring::SLOTS as u64 * slot_bytes as u64
}

fn slot_bytes(config: Config) -> usize {
    4 * usize::from(config.width) * usize::from(config.height)
}

impl State {
    /// Checks that a ring of `slot_bytes` for a session fits into the budget of a VM.
    fn check_budget(&self, id: u64, vm: u64, slot_bytes: usize) -> Result<(), RingError> {
        let others = self.sessions.values().filter(|entry| entry.session.info.id != id);
        let attached = others.filter(|entry| entry.is_bound_to(vm, None)).filter_map(|it| it.ring.attached);
        let used: u64 = attached.map(|ring| ring_bytes(ring.slot_bytes)).sum();
        let needed = used + ring_bytes(slot_bytes);
        if needed <= MAX_VM_RING_BYTES {
            return Ok(());
        }
        Err(RingError::Budget { needed: needed >> 20, limit: MAX_VM_RING_BYTES >> 20 })
    }

    /// Whether a session that lacked memory for its ring would have it in this VM now. Without this check
    /// its sidecar would change the frame path with each attempt to bind.
    pub(super) fn fits(&self, id: u64, vm: u64) -> Result<(), RingError> {
        let Some(entry) = self.sessions.get(&id).filter(|entry| entry.ring.refused) else { return Ok(()) };
        entry.config.map_or(Ok(()), |config| self.check_budget(id, vm, slot_bytes(config)))
    }
}

impl Entry {
    /// Slot size in bytes of the ring that the session needs; `None` if it needs none.
    fn needed_slot_bytes(&self) -> Option<usize> {
        self.binding.as_ref()?;
        self.config.filter(|config| config.path == Path::ResourceId).map(slot_bytes)
    }

    /// Takes the session's ring away and tells the tap to stop writing it.
    pub(super) fn detach(&mut self) {
        self.ring.deferred = false;
        if let (Some(_), Some(binding)) = (self.ring.attached.take(), &self.binding) {
            binding.vm.send(ToTap::Detach { session: self.session.info.id }, None);
            self.session.inbox.set_ring(None);
        }
    }

    fn refuse(&mut self, error: RingError) {
        self.ring.refused = true;
        self.unbind(&error.to_string());
    }
}

impl Hub {
    /// Attaches the ring that the session needs, in place of one of another size, within the limits.
    pub(super) fn update_ring(&self, state: &mut State, id: u64) {
        let Some(entry) = state.sessions.get_mut(&id) else { return };
        let needed = entry.needed_slot_bytes();
        if entry.ring.attached.map(|ring| ring.slot_bytes) == needed {
            entry.ring.deferred = false;
            return;
        }
        let (Some(slot_bytes), Some(binding)) = (needed, entry.binding.clone()) else {
            entry.detach();
            return;
        };
        // The tap's answer calls this again.
        if entry.ring.unanswered.is_some() {
            return;
        }
        let budget = state.check_budget(id, binding.vm.id, slot_bytes);
        let State { sessions, limits, last_ring, .. } = state;
        let Some(entry) = sessions.get_mut(&id) else { return };
        if let Err(error) = budget {
            self.counts.rings_refused.fetch_add(1, Ordering::Relaxed);
            entry.refuse(error);
            return;
        }
        let now_ns = (self.clock)();
        if !limits.of(&entry.session.info.stream, now_ns).try_ring(now_ns) {
            entry.ring.deferred = true;
            self.deferred.notify_one();
            return;
        }
        entry.detach();
        match create_ring(slot_bytes) {
            Ok((reader, descriptors)) => {
                *last_ring += 1;
                let number = *last_ring;
                self.counts.rings.fetch_add(1, Ordering::Relaxed);
                entry.session.inbox.set_ring(Some(reader));
                let message = ToTap::Attach { session: id, ring: number, context: binding.context };
                binding.vm.send(message, Some(descriptors));
                entry.ring.attached = Some(AttachedRing { number, slot_bytes });
                entry.ring.unanswered = Some((binding.vm.id, number));
            }
            Err(error) => {
                tracing::error!(session = id, slot_bytes, error, "cannot create the ring");
                entry.session.end(ErrorCode::Capacity, error);
            }
        }
    }

    /// Handles a tap's answer to an attached ring.
    pub fn ring_answered(&self, vm: u64, session: u64, ring: u64, answer: Result<(), RingRefusal>) {
        let mut state = self.state.lock();
        let Some(entry) = state.sessions.get_mut(&session) else { return };
        // An answer that was not expected has no effect.
        if entry.ring.unanswered != Some((vm, ring)) {
            return;
        }
        entry.ring.unanswered = None;
        let is_current = entry.ring.attached.is_some_and(|attached| attached.number == ring);
        match answer {
            Err(refusal) => {
                self.counts.rings_refused.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(session, ?refusal, "the tap refused the ring");
                if is_current {
                    entry.refuse(RingError::Refused(refusal));
                    return;
                }
            }
            Ok(()) if is_current => entry.ring.refused = false,
            Ok(()) => {}
        }
        self.update_ring(&mut state, session);
    }

    /// Makes the rings that waited for the rate limit. Returns whether some still wait.
    pub(super) fn make_deferred_rings(&self) -> bool {
        let mut state = self.state.lock();
        let is_deferred = |entry: &&Entry| entry.ring.deferred;
        let ids: Vec<_> =
            state.sessions.values().filter(is_deferred).map(|entry| entry.session.info.id).collect();
        for id in ids {
            self.update_ring(&mut state, id);
        }
        state.sessions.values().any(|entry| entry.ring.deferred)
    }

    /// Makes rings that wait for the rate limit, when they are due. Does not return.
    pub async fn pace_rings(&self) -> std::convert::Infallible {
        loop {
            self.deferred.notified().await;
            loop {
                tokio::time::sleep(DEFERRED_INTERVAL).await;
                if !self.make_deferred_rings() {
                    break;
                }
            }
        }
    }
}

/// Creates a ring: the reader's end, and the descriptors for the tap (memory and waker).
fn create_ring(slot_bytes: usize) -> Result<(RingReader, [OwnedFd; 2]), String> {
    let (consumer, memory) =
        Ring::create(frame_ring::SLOTS, slot_bytes).map_err(|error| error.to_string())?;
    let (wake_fd, waker) =
        wake::pair().map_err(|error| format!("cannot create the ring's socket pair: {error}"))?;
    Ok((RingReader { consumer, wake_fd }, [memory, waker.into()]))
}

#[cfg(test)]
mod tests;
