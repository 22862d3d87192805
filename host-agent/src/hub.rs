//! Sessions, taps, and which session is bound to which context of which VM: the one place that pairs them.
//!
//! ```text
//!   session:  unbound --Bind with its nonce--> bound --context or tap gone, other session--> unbound
//!   ring:     attached exactly while the session is bound and configured for resource IDs; made anew
//!             when the size of a picture changes
//! ```
//!
//! A nonce is good for one context at a time and dies with its session, so that a replayed bind from
//! another context is refused while the first one lives. One context serves one session: the newest that
//! it bound. All of it is decided under one lock, in which nothing waits: messages go to queues.

mod session;
mod vm;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::link::{Context, ToTap};
use protocol::stream::{Config, DOCTOR, ErrorCode, Path, ServerMessage};
use frame_ring::Ring;

use crate::inbox::RingEnd;
use crate::meter::Numbers;
pub use session::Session;
pub use vm::{Outgoing, Vm, VmDescription};

/// A session's nonce.
pub type Nonce = [u8; 16];

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{limit} {what} are served already; end one, or raise {flag}")]
pub struct Full {
    what: &'static str,
    limit: usize,
    flag: &'static str,
}

/// Counted for `/metrics`.
#[derive(Debug, Default)]
pub struct HubCounts {
    /// Sessions that began.
    pub sessions: AtomicU64,
    /// Sessions that a newer one of the same stream replaced.
    pub replaced: AtomicU64,
    /// Binds that found their session.
    pub binds: AtomicU64,
    /// Binds with a nonce of no session, or of one that is bound elsewhere.
    pub binds_refused: AtomicU64,
}

/// See the module.
#[derive(Debug)]
pub struct Hub {
    state: Mutex<State>,
    max_sessions: usize,
    max_taps: usize,
    /// Numbers of all sessions, also of those that ended.
    pub totals: Arc<Numbers>,
    /// What happened here.
    pub counts: HubCounts,
}

#[derive(Debug, Default)]
struct State {
    sessions: HashMap<u64, Entry>,
    vms: HashMap<u64, Arc<Vm>>,
    last_session: u64,
    last_vm: u64,
}

/// A session and what it is paired with.
#[derive(Debug)]
struct Entry {
    session: Arc<Session>,
    config: Option<Config>,
    binding: Option<Binding>,
    /// Bytes of a slot of the ring that the tap has, if it has one.
    attached: Option<usize>,
}

#[derive(Debug, Clone)]
struct Binding {
    vm: Arc<Vm>,
    context: Context,
    name: String,
}

/// A session as `/status` shows it.
#[derive(Debug, Clone)]
pub struct SessionView {
    /// The session.
    pub session: Arc<Session>,
    /// How it is configured.
    pub config: Option<Config>,
    /// VM, context and the context's name, if it is bound.
    pub binding: Option<(String, Context, String)>,
}

impl Hub {
    /// An empty one.
    pub fn new(max_sessions: usize, max_taps: usize) -> Self {
        Self {
            state: Mutex::default(),
            max_sessions,
            max_taps,
            totals: Arc::default(),
            counts: HubCounts::default(),
        }
    }

    /// Each change below leaves a whole state before it calls anything that may panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sessions and taps now.
    pub fn view(&self) -> (Vec<SessionView>, Vec<Arc<Vm>>) {
        let state = self.lock();
        let view = |entry: &Entry| SessionView {
            session: Arc::clone(&entry.session),
            config: entry.config,
            binding: entry
                .binding
                .as_ref()
                .map(|b| (b.vm.description.name.clone(), b.context, b.name.clone())),
        };
        let mut sessions: Vec<_> = state.sessions.values().map(view).collect();
        sessions.sort_unstable_by_key(|view| view.session.id);
        let mut vms: Vec<_> = state.vms.values().cloned().collect();
        vms.sort_unstable_by_key(|vm| vm.id);
        (sessions, vms)
    }

    /// Taps connected now.
    pub fn taps(&self) -> usize {
        self.lock().vms.len()
    }

    /// Takes a session in. One of the same stream is replaced by it, and makes room; a doctor's is beside its sidecar's.
    pub fn add_session(&self, make: impl FnOnce(u64) -> Arc<Session>) -> Result<Arc<Session>, Full> {
        let mut state = self.lock();
        state.last_session += 1;
        let session = make(state.last_session);
        let of_doctor = |session: &Session| session.client.starts_with(DOCTOR);
        let older = state.sessions.values().find(|Entry { session: other, .. }| {
            other.stream == session.stream && of_doctor(other) == of_doctor(&session)
        });
        if let Some(older) = older.map(|entry| entry.session.id) {
            self.counts.replaced.fetch_add(1, Ordering::Relaxed);
            if let Some(entry) = state.sessions.remove(&older) {
                release(&entry);
                entry.session.end(ErrorCode::Replaced, "a newer session of the same stream took over");
            }
        } else if state.sessions.len() >= self.max_sessions {
            return Err(Full { what: "sessions", limit: self.max_sessions, flag: "--max-sessions" });
        }
        self.counts.sessions.fetch_add(1, Ordering::Relaxed);
        let entry = Entry { session: Arc::clone(&session), config: None, binding: None, attached: None };
        state.sessions.insert(session.id, entry);
        Ok(session)
    }

    /// A session is over. Its context is told to stop, if it is still its own.
    pub fn remove_session(&self, id: u64) {
        if let Some(entry) = self.lock().sessions.remove(&id) {
            release(&entry);
        }
    }

    /// Ends all sessions with this error.
    pub fn end_all(&self, code: ErrorCode, message: &str) {
        for entry in self.lock().sessions.values() {
            entry.session.end(code, message);
        }
    }

    /// A session is configured: its worker is told after its ring is right.
    pub fn configure(&self, id: u64, config: Config) {
        let mut state = self.lock();
        let Some(entry) = state.sessions.get_mut(&id) else { return };
        entry.config = Some(config);
        attach(entry);
        entry.session.inbox.configure(config);
    }

    /// Takes a tap in.
    pub fn add_vm(&self, make: impl FnOnce(u64) -> Arc<Vm>) -> Result<Arc<Vm>, Full> {
        let mut state = self.lock();
        if state.vms.len() >= self.max_taps {
            return Err(Full { what: "taps", limit: self.max_taps, flag: "--max-taps" });
        }
        state.last_vm += 1;
        let vm = make(state.last_vm);
        state.vms.insert(vm.id, Arc::clone(&vm));
        Ok(vm)
    }

    /// A tap's connection is gone, and all bindings with it.
    pub fn remove_vm(&self, id: u64) {
        let mut state = self.lock();
        state.vms.remove(&id);
        for entry in state.sessions.values_mut().filter(|entry| entry.is_bound_to(id, None)) {
            unbind(entry, "the VM's tap disconnected; bind again when it is back");
        }
    }

    /// A context is gone.
    pub fn context_gone(&self, vm: u64, context: Context) {
        let mut state = self.lock();
        for entry in state.sessions.values_mut().filter(|entry| entry.is_bound_to(vm, Some(context))) {
            unbind(entry, "the GPU context that was bound is gone; bind again with the new one");
        }
    }

    /// A context rang with a nonce. Whether it found its session.
    pub fn bind(&self, vm: &Arc<Vm>, context: Context, nonce: &Nonce, name: String) -> bool {
        let mut state = self.lock();
        let wanted = state.sessions.values().find(|entry| entry.session.nonce == *nonce);
        let allowed =
            wanted.filter(|entry| entry.binding.is_none() || entry.is_bound_to(vm.id, Some(context)));
        let Some(id) = allowed.map(|entry| entry.session.id) else {
            self.counts.binds_refused.fetch_add(1, Ordering::Relaxed);
            let replay = wanted.is_some();
            tracing::warn!(vm = vm.description.name, ?context, name, replay, "a bind was refused");
            return false;
        };
        let other = |entry: &&mut Entry| entry.session.id != id && entry.is_bound_to(vm.id, Some(context));
        for entry in state.sessions.values_mut().filter(other) {
            unbind(entry, "the GPU context was bound by another session");
        }
        let Some(entry) = state.sessions.get_mut(&id) else { return false };
        if entry.binding.is_none() {
            self.counts.binds.fetch_add(1, Ordering::Relaxed);
            tracing::info!(
                session = id,
                stream = entry.session.stream,
                vm = vm.description.name,
                ?context,
                name,
                "bound"
            );
            entry.binding = Some(Binding { vm: Arc::clone(vm), context, name });
            attach(entry);
        }
        // Said again to a sidecar that rings again because it missed it.
        entry.session.outbox.push(&ServerMessage::Bound {
            context: context.id,
            tap_version: vm.description.tap_version,
            vm: vm.description.name.clone(),
        });
        true
    }
}

impl Entry {
    fn is_bound_to(&self, vm: u64, context: Option<Context>) -> bool {
        let matches = |b: &Binding| b.vm.id == vm && context.is_none_or(|context| b.context == context);
        self.binding.as_ref().is_some_and(matches)
    }
}

/// Bytes of a slot that the session needs now.
fn wanted_slot(entry: &Entry) -> Option<usize> {
    entry.binding.as_ref()?;
    let config = entry.config.filter(|config| config.path == Path::ResourceId)?;
    Some(4 * usize::from(config.width) * usize::from(config.height))
}

/// Gives the tap the ring that the session needs, or takes it away.
fn attach(entry: &mut Entry) {
    let wanted = wanted_slot(entry);
    if entry.attached == wanted {
        return;
    }
    release(entry);
    entry.attached = None;
    entry.session.inbox.set_ring(None);
    let (Some(bytes), Some(binding)) = (wanted, &entry.binding) else { return };
    match make_ring(bytes) {
        Ok((end, memory, bell)) => {
            entry.session.inbox.set_ring(Some(end));
            let message = ToTap::Attach { session: entry.session.id, context: binding.context };
            binding.vm.send(message, Some([memory, bell]));
            entry.attached = Some(bytes);
        }
        Err(error) => {
            tracing::error!(%error, bytes, "no ring for a session");
            entry.session.end(ErrorCode::Capacity, error);
        }
    }
}

fn make_ring(slot_bytes: usize) -> Result<(RingEnd, OwnedFd, OwnedFd), String> {
    let (consumer, memory) = Ring::create(frame_ring::SLOTS, slot_bytes).map_err(|error| error.to_string())?;
    let (bell, rings) = frame_ring::wake::pair().map_err(|error| format!("no socket for the ring: {error}"))?;
    Ok((RingEnd { consumer, bell }, memory, rings.into()))
}

/// Tells the tap to stop writing the session's ring.
fn release(entry: &Entry) {
    if let (Some(_), Some(binding)) = (entry.attached, &entry.binding) {
        binding.vm.send(ToTap::Detach { session: entry.session.id }, None);
    }
}

fn unbind(entry: &mut Entry, reason: &str) {
    release(entry);
    entry.attached = None;
    entry.binding = None;
    entry.session.inbox.set_ring(None);
    tracing::info!(session = entry.session.id, stream = entry.session.stream, reason, "unbound");
    entry.session.outbox.push(&ServerMessage::Unbound { reason: reason.to_owned() });
}

#[cfg(test)]
mod tests;
