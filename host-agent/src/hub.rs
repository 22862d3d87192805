//! Sessions of sidecars, taps of VMs, and the bindings between them.
//!
//! ```text
//!   session:  unbound --Bind with its nonce--> bound --context or tap gone, other session--> unbound
//!   ring:     attached while the session is bound and configured for resource IDs; recreated when the
//!             frame size changes (see `ring`)
//! ```
//!
//! A nonce binds one context at a time and is invalid after its session ended, so a bind that another
//! context replays is refused. A context serves one session: the newest that it bound. All of this is
//! decided under one lock, which is never held across a blocking call: messages go to queues.

mod limits;
mod ring;
mod session;
mod vm;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use frame_ring::clock::monotonic_ns;
use parking_lot::Mutex;
use protocol::link::{Context, MAX_EXPECT, ToTap, nonce_prefix};
use protocol::stream::{Config, DOCTOR, ErrorCode, ServerMessage};
use tokio::sync::Notify;

use crate::meter::Numbers;
use limits::Limits;
pub use limits::StreamLimits;
use ring::RingState;
pub use session::{Nonce, Session, SessionInfo};
pub use vm::{Outgoing, Vm, VmDescription};

/// A limit on sessions or taps is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the limit of {limit} {kind} is reached; end one, or raise {flag}")]
pub struct LimitReached {
    kind: &'static str,
    limit: usize,
    flag: &'static str,
}

/// Event counters.
#[derive(Debug, Default)]
pub struct HubCounts {
    /// Sessions started.
    pub sessions: AtomicU64,
    /// Sessions that a newer one of the same stream replaced.
    pub replaced: AtomicU64,
    /// Accepted binds.
    pub binds: AtomicU64,
    /// Refused binds: the nonce is of no session, or its session is bound to another context.
    pub binds_refused: AtomicU64,
    /// Rings made.
    pub rings: AtomicU64,
    /// Rings that a VM's budget or its tap refused.
    pub rings_refused: AtomicU64,
}

/// All sessions and taps of the process.
#[derive(Debug)]
pub struct Hub {
    state: Mutex<State>,
    max_sessions: usize,
    max_taps: usize,
    /// The host's `CLOCK_MONOTONIC`, ns.
    clock: fn() -> u64,
    /// Notified when a ring must wait for the rate limit.
    deferred: Notify,
    /// Frame counters and durations of all sessions since start.
    pub totals: Arc<Numbers>,
    /// Event counters since start.
    pub counts: HubCounts,
}

#[derive(Debug, Default)]
struct State {
    sessions: HashMap<u64, Entry>,
    vms: HashMap<u64, Arc<Vm>>,
    last_session: u64,
    last_vm: u64,
    last_ring: u64,
    /// Rate limits by stream.
    limits: Limits,
}

/// A session with its configuration and binding.
#[derive(Debug)]
struct Entry {
    session: Arc<Session>,
    config: Option<Config>,
    binding: Option<Binding>,
    ring: RingState,
}

/// The context that a session is bound to.
#[derive(Debug, Clone)]
struct Binding {
    vm: Arc<Vm>,
    context: Context,
}

/// A session at one moment, for `/status`.
#[derive(Debug, Clone)]
pub struct SessionView {
    /// The session.
    pub session: Arc<Session>,
    /// Its configuration; `None` before `Configure`.
    pub config: Option<Config>,
    /// Name of the VM and the context in it; `None` if unbound.
    pub binding: Option<(String, Context)>,
}

impl Hub {
    /// An empty hub with limits on sessions and taps.
    pub fn new(max_sessions: usize, max_taps: usize) -> Self {
        Self {
            state: Mutex::default(),
            max_sessions,
            max_taps,
            clock: monotonic_ns,
            deferred: Notify::new(),
            totals: Arc::default(),
            counts: HubCounts::default(),
        }
    }

    /// All sessions and taps, oldest first.
    pub fn view(&self) -> (Vec<SessionView>, Vec<Arc<Vm>>) {
        let state = self.state.lock();
        let mut sessions: Vec<_> = state.sessions.values().map(Entry::view).collect();
        sessions.sort_unstable_by_key(|view| view.session.info.id);
        let mut vms: Vec<_> = state.vms.values().cloned().collect();
        vms.sort_unstable_by_key(|vm| vm.id);
        (sessions, vms)
    }

    /// Number of connected taps.
    pub fn taps(&self) -> usize {
        self.state.lock().vms.len()
    }

    /// Rate limits of a stream.
    pub fn limits(&self, stream: &str) -> Arc<StreamLimits> {
        self.state.lock().limits.of(stream, (self.clock)())
    }

    /// Counts a session that a stream is about to start, and returns how long it must wait before.
    pub fn session_delay(&self, stream: &str) -> Duration {
        self.limits(stream).session_delay((self.clock)())
    }

    /// Adds a session, made by `make` from its number. It replaces an older session of the same stream;
    /// sessions of a doctor and of a sidecar do not replace each other.
    ///
    /// # Errors
    /// The limit on sessions is reached, and no session is replaced.
    pub fn add_session(&self, make: impl FnOnce(u64) -> Arc<Session>) -> Result<Arc<Session>, LimitReached> {
        let mut state = self.state.lock();
        state.last_session += 1;
        let session = make(state.last_session);
        let is_doctor = |session: &Session| session.info.client.starts_with(DOCTOR);
        let older = state.sessions.values().map(|entry| &entry.session).find(|other| {
            other.info.stream == session.info.stream && is_doctor(other) == is_doctor(&session)
        });
        if let Some(older) = older.map(|session| session.info.id) {
            self.counts.replaced.fetch_add(1, Ordering::Relaxed);
            if let Some(entry) = state.remove_session(older) {
                entry
                    .session
                    .end(ErrorCode::Replaced, "a newer session of the same stream replaced this one");
            }
        } else if state.sessions.len() >= self.max_sessions {
            return Err(LimitReached { kind: "sessions", limit: self.max_sessions, flag: "--max-sessions" });
        }
        self.counts.sessions.fetch_add(1, Ordering::Relaxed);
        let expect = ToTap::Expect(vec![nonce_prefix(&session.info.nonce)]);
        state.vms.values().for_each(|vm| vm.send(expect.clone(), None));
        let entry =
            Entry { session: Arc::clone(&session), config: None, binding: None, ring: RingState::default() };
        state.sessions.insert(session.info.id, entry);
        Ok(session)
    }

    /// Removes a session and detaches its ring from the tap. An unknown number is ignored: the session was
    /// replaced.
    pub fn remove_session(&self, id: u64) {
        self.state.lock().remove_session(id);
    }

    /// Ends all sessions with an error.
    pub fn end_all(&self, code: ErrorCode, message: &str) {
        for entry in self.state.lock().sessions.values() {
            entry.session.end(code, message);
        }
    }

    /// Configures a session: attaches the ring that it needs, then passes the configuration to its worker.
    pub fn configure(&self, id: u64, config: Config) {
        let mut state = self.state.lock();
        let Some(entry) = state.sessions.get_mut(&id) else { return };
        entry.config = Some(config);
        self.update_ring(&mut state, id);
        if let Some(entry) = state.sessions.get(&id) {
            entry.session.inbox.configure(config);
        }
    }

    /// Adds a tap, made by `make` from its number.
    ///
    /// # Errors
    /// The limit on taps is reached.
    pub fn add_vm(&self, make: impl FnOnce(u64) -> Arc<Vm>) -> Result<Arc<Vm>, LimitReached> {
        let mut state = self.state.lock();
        if state.vms.len() >= self.max_taps {
            return Err(LimitReached { kind: "taps", limit: self.max_taps, flag: "--max-taps" });
        }
        state.last_vm += 1;
        let vm = make(state.last_vm);
        let prefix = |entry: &Entry| nonce_prefix(&entry.session.info.nonce);
        let prefixes: Vec<_> = state.sessions.values().map(prefix).collect();
        prefixes.chunks(MAX_EXPECT).for_each(|part| vm.send(ToTap::Expect(part.to_vec()), None));
        state.vms.insert(vm.id, Arc::clone(&vm));
        Ok(vm)
    }

    /// Removes a tap and all bindings to its VM.
    pub fn remove_vm(&self, id: u64) {
        let mut state = self.state.lock();
        state.vms.remove(&id);
        for entry in state.sessions.values_mut().filter(|entry| entry.is_bound_to(id, None)) {
            entry.unbind("the VM's tap disconnected; bind again when it reconnects");
        }
        // The tap answers no more.
        state.sessions.values_mut().for_each(|entry| entry.ring.forget_vm(id));
    }

    /// Removes the binding to a destroyed context.
    pub fn context_destroyed(&self, vm: u64, context: Context) {
        let mut state = self.state.lock();
        for entry in state.sessions.values_mut().filter(|entry| entry.is_bound_to(vm, Some(context))) {
            entry.unbind("the bound GPU context was destroyed; bind again with a new one");
        }
    }

    /// Binds the session of a nonce to the context that sent it. Returns whether the bind was accepted; a
    /// repeated bind is, and is confirmed again. `name` is the context's debug name, for logs.
    pub fn bind(&self, vm: &Arc<Vm>, context: Context, nonce: &Nonce, name: &str) -> bool {
        let mut state = self.state.lock();
        let wanted = state.sessions.values().find(|entry| entry.session.info.nonce == *nonce);
        let allowed =
            wanted.filter(|entry| entry.binding.is_none() || entry.is_bound_to(vm.id, Some(context)));
        let Some(id) = allowed.map(|entry| entry.session.info.id) else {
            self.counts.binds_refused.fetch_add(1, Ordering::Relaxed);
            let bound_elsewhere = wanted.is_some();
            tracing::warn!(vm = vm.description.name, ?context, name, bound_elsewhere, "bind refused");
            return false;
        };
        if let Err(refusal) = state.fits(id, vm.id) {
            let Some(entry) = state.sessions.get(&id) else { return false };
            entry.session.outbox.push(&ServerMessage::Unbound { reason: refusal.to_string() });
            return false;
        }
        let displaced =
            |entry: &&mut Entry| entry.session.info.id != id && entry.is_bound_to(vm.id, Some(context));
        for entry in state.sessions.values_mut().filter(displaced) {
            entry.unbind("another session bound the GPU context");
        }
        let Some(entry) = state.sessions.get_mut(&id) else { return false };
        if entry.binding.is_none() {
            self.counts.binds.fetch_add(1, Ordering::Relaxed);
            let (stream, vm_name) = (&entry.session.info.stream, &vm.description.name);
            tracing::info!(session = id, stream, vm = vm_name, ?context, name, "session bound");
            entry.binding = Some(Binding { vm: Arc::clone(vm), context });
        }
        self.update_ring(&mut state, id);
        // Not if the session was unbound at once, for lack of ring memory.
        let Some(entry) = state.sessions.get(&id).filter(|entry| entry.binding.is_some()) else {
            return false;
        };
        // Also for a repeated bind: the sidecar missed the first confirmation.
        entry.session.outbox.push(&ServerMessage::Bound {
            context: context.id,
            tap_version: vm.description.tap_version,
            vm: vm.description.name.clone(),
        });
        true
    }
}

impl State {
    /// Removes a session, detaches its ring, and tells the taps to forget its nonce.
    fn remove_session(&mut self, id: u64) -> Option<Entry> {
        let mut entry = self.sessions.remove(&id)?;
        entry.detach();
        let prefix = nonce_prefix(&entry.session.info.nonce);
        self.vms.values().for_each(|vm| vm.send(ToTap::Forget(prefix), None));
        Some(entry)
    }
}

impl Entry {
    fn view(&self) -> SessionView {
        let binding = self.binding.as_ref();
        SessionView {
            session: Arc::clone(&self.session),
            config: self.config,
            binding: binding.map(|binding| (binding.vm.description.name.clone(), binding.context)),
        }
    }

    /// Whether the session is bound to this context, or with `None` to any context of this VM.
    fn is_bound_to(&self, vm: u64, context: Option<Context>) -> bool {
        self.binding.as_ref().is_some_and(|binding| {
            binding.vm.id == vm && context.is_none_or(|context| binding.context == context)
        })
    }

    fn unbind(&mut self, reason: &str) {
        self.detach();
        self.binding = None;
        let (session, stream) = (self.session.info.id, &self.session.info.stream);
        tracing::info!(session, stream, reason, "session unbound");
        self.session.outbox.push(&ServerMessage::Unbound { reason: reason.to_owned() });
    }
}

#[cfg(test)]
mod tests;
