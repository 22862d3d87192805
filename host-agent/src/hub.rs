//! Sessions of sidecars, taps of VMs, and the bindings between them.
//!
//! ```text
//!   session:  unbound --Bind with its nonce--> bound --context or tap gone, other session--> unbound
//!   ring:     attached while the session is bound and configured for resource IDs; recreated when the
//!             frame size changes
//! ```
//!
//! A nonce binds one context at a time and is invalid after its session ended, so a bind that another
//! context replays is refused. A context serves one session: the newest that it bound. All of this is
//! decided under one lock, which is never held across a blocking call: messages go to queues.

mod session;
mod vm;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use frame_ring::{Ring, wake};
use parking_lot::Mutex;
use protocol::link::{Context, ToTap};
use protocol::stream::{Config, DOCTOR, ErrorCode, Path, ServerMessage};

use crate::inbox::RingReader;
use crate::meter::Numbers;
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
}

/// All sessions and taps of the process.
#[derive(Debug)]
pub struct Hub {
    state: Mutex<State>,
    max_sessions: usize,
    max_taps: usize,
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
}

/// A session with its configuration and binding.
#[derive(Debug)]
struct Entry {
    session: Arc<Session>,
    config: Option<Config>,
    binding: Option<Binding>,
    /// Slot size in bytes of the ring that the tap has, if any.
    attached_slot_bytes: Option<usize>,
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
            if let Some(entry) = state.sessions.remove(&older) {
                entry.detach();
                entry
                    .session
                    .end(ErrorCode::Replaced, "a newer session of the same stream replaced this one");
            }
        } else if state.sessions.len() >= self.max_sessions {
            return Err(LimitReached { kind: "sessions", limit: self.max_sessions, flag: "--max-sessions" });
        }
        self.counts.sessions.fetch_add(1, Ordering::Relaxed);
        let entry =
            Entry { session: Arc::clone(&session), config: None, binding: None, attached_slot_bytes: None };
        state.sessions.insert(session.info.id, entry);
        Ok(session)
    }

    /// Removes a session and detaches its ring from the tap. An unknown number is ignored: the session was
    /// replaced.
    pub fn remove_session(&self, id: u64) {
        if let Some(entry) = self.state.lock().sessions.remove(&id) {
            entry.detach();
        }
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
        entry.update_ring();
        entry.session.inbox.configure(config);
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
            entry.update_ring();
        }
        // Also for a repeated bind: the sidecar missed the first confirmation.
        entry.session.outbox.push(&ServerMessage::Bound {
            context: context.id,
            tap_version: vm.description.tap_version,
            vm: vm.description.name.clone(),
        });
        true
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

    /// Slot size in bytes of the ring that the session needs; `None` if it needs none.
    fn needed_slot_bytes(&self) -> Option<usize> {
        self.binding.as_ref()?;
        let config = self.config.filter(|config| config.path == Path::ResourceId)?;
        Some(4 * usize::from(config.width) * usize::from(config.height))
    }

    /// Attaches the ring that the session needs, in place of one of another size.
    fn update_ring(&mut self) {
        let needed = self.needed_slot_bytes();
        if self.attached_slot_bytes == needed {
            return;
        }
        self.detach();
        self.attached_slot_bytes = None;
        self.session.inbox.set_ring(None);
        let (Some(slot_bytes), Some(binding)) = (needed, &self.binding) else { return };
        match create_ring(slot_bytes) {
            Ok((reader, descriptors)) => {
                self.session.inbox.set_ring(Some(reader));
                let message = ToTap::Attach { session: self.session.info.id, context: binding.context };
                binding.vm.send(message, Some(descriptors));
                self.attached_slot_bytes = Some(slot_bytes);
            }
            Err(error) => {
                tracing::error!(session = self.session.info.id, slot_bytes, error, "cannot create the ring");
                self.session.end(ErrorCode::Capacity, error);
            }
        }
    }

    /// Sends the tap the message to stop writing the session's ring.
    fn detach(&self) {
        if let (Some(_), Some(binding)) = (self.attached_slot_bytes, &self.binding) {
            binding.vm.send(ToTap::Detach { session: self.session.info.id }, None);
        }
    }

    fn unbind(&mut self, reason: &str) {
        self.detach();
        self.attached_slot_bytes = None;
        self.binding = None;
        self.session.inbox.set_ring(None);
        let (session, stream) = (self.session.info.id, &self.session.info.stream);
        tracing::info!(session, stream, reason, "session unbound");
        self.session.outbox.push(&ServerMessage::Unbound { reason: reason.to_owned() });
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
