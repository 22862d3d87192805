//! Injects the input of viewers into a desktop, and shares the clipboard of the viewer in control.
//!
//! ```text
//!  viewer ─▶ Session ─▶ control (permission) ─▶ held (pressed keys) ─▶ queue ─▶ backend thread
//!                                                                                      ├─ wayland: virtual-keyboard, virtual-pointer
//!                                                                                      └─ mutter: org.gnome.Mutter.RemoteDesktop
//! ```
//!
//! Viewers are untrusted. Events are bounded by their types ([`contract::input`]), a session without control injects none,
//! and the end of a session releases all that it holds, so that no key stays pressed. The backend thread connects to the
//! compositor again when it restarts; until then events are discarded.

mod action;
mod backend;
pub mod clipboard;
mod control;
mod held;
mod keymap;
mod modifiers;
mod mutter;
mod queue;
mod wayland;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use contract::clipboard::ClipboardPolicy;
use contract::input::{ControlPolicy, InputEvent};
use parking_lot::Mutex;
use tokio::sync::watch;

use self::clipboard::Clipboard;
use self::control::Control;
use self::held::Held;
use self::queue::Queue;

pub use self::control::{ControlState, Role};

/// Desktop to inject into, and limits.
#[derive(Debug, Clone)]
pub struct InputOptions {
    /// Runtime directory of the desktop, with its Wayland socket and session bus.
    pub runtime_dir: PathBuf,
    /// Name of the Wayland socket; the first one of the directory if `None`.
    pub wayland_display: Option<String>,
    /// Number of viewers that may control the desktop at the same time.
    pub control: ControlPolicy,
    /// Directions of the clipboard.
    pub clipboard: ClipboardPolicy,
}

/// Connection to the desktop's input.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InputState {
    /// Protocol in use; `None` while events cannot be injected.
    pub backend: Option<BackendKind>,
    /// Reason why there is no backend, with a remedy; empty if there is one, or if control is disabled.
    pub error: String,
}

/// Looks for a protocol by which events can be injected, without a trace on the desktop.
pub async fn probe(options: &InputOptions) -> InputState {
    match backend::probe(options).await {
        Ok(kind) => InputState { backend: Some(kind), error: String::new() },
        Err(error) => InputState { backend: None, error: error.to_string() },
    }
}

/// Protocol by which events are injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendKind {
    /// `zwp_virtual_keyboard_v1` and `zwlr_virtual_pointer_v1`.
    Wayland,
    /// Methods of `org.gnome.Mutter.RemoteDesktop.Session`.
    Mutter,
}

impl BackendKind {
    /// Name in status and log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wayland => "virtual-keyboard-v1, virtual-pointer-v1",
            Self::Mutter => "org.gnome.Mutter.RemoteDesktop",
        }
    }
}

/// Reason why a session's events are not injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The session's token does not allow control, or control of this desktop is disabled.
    #[error("this viewer may not control the desktop")]
    NotAllowed,
    /// Another session has control.
    #[error("another viewer has control")]
    NotInControl,
    /// The desktop accepts events more slowly than the viewer sends them.
    #[error("the desktop does not accept events fast enough")]
    TooFast,
}

/// Identifies a session among those of one [`Input`]; never reused.
pub type SessionId = u64;

/// Input of one desktop; clones share it. The backend thread ends with the last clone.
#[derive(Debug, Clone)]
pub struct Input {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    queue: Arc<Queue>,
    control: watch::Sender<ControlState>,
    backend: watch::Receiver<InputState>,
    clipboard: Clipboard,
}

#[derive(Debug)]
struct State {
    next: SessionId,
    control: Control,
    held: Held,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Input {
    /// Starts the backend thread.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(options: InputOptions) -> std::io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let (sender, backend) = watch::channel(InputState::default());
        let policy = options.control;
        let (clipboard, mut desktop) = clipboard::ends(options.clipboard, policy);
        if policy != ControlPolicy::None {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let queue = Arc::clone(&queue);
            thread::Builder::new()
                .name("input".to_owned())
                .spawn(move || runtime.block_on(backend::run(&options, &queue, &sender, &mut desktop)))?;
        }
        Ok(Self::new(policy, queue, backend, clipboard))
    }

    fn new(
        policy: ControlPolicy,
        queue: Arc<Queue>,
        backend: watch::Receiver<InputState>,
        clipboard: Clipboard,
    ) -> Self {
        let state = State { next: 1, control: Control::new(policy), held: Held::default() };
        let control = watch::Sender::new(state.control.state());
        Self { shared: Arc::new(Shared { state: Mutex::new(state), queue, control, backend, clipboard }) }
    }

    /// Opens a session for a viewer.
    pub fn open(&self, role: Role) -> Session {
        let mut state = self.shared.state.lock();
        let id = state.next;
        state.next += 1;
        state.control.join(id, role);
        self.shared.publish(&state.control);
        Session { input: self.clone(), id, role }
    }

    /// Holder of control and requests for it, as they change.
    pub fn control(&self) -> watch::Receiver<ControlState> {
        self.shared.control.subscribe()
    }

    /// Connection to the desktop, as it changes.
    pub fn state(&self) -> watch::Receiver<InputState> {
        self.shared.backend.clone()
    }
}

impl Shared {
    /// Publishes who has control, if that changed. The caller holds the lock, so that changes are published in order.
    fn publish(&self, control: &Control) {
        let new = control.state();
        self.control.send_if_modified(|current| std::mem::replace(current, new.clone()) != new);
    }

    /// Permission for an act of control. A session gets control by it if control is free.
    fn claim(&self, id: SessionId) -> Result<(), Refused> {
        let mut state = self.state.lock();
        if state.control.claim(id)? {
            self.publish(&state.control);
        }
        Ok(())
    }

    /// Changes control; releases what sessions hold that lose it.
    fn change(&self, change: impl FnOnce(&mut Control) -> Result<(), Refused>) -> Result<(), Refused> {
        let mut state = self.state.lock();
        let before = state.control.controllers();
        let result = change(&mut state.control);
        for id in before {
            if !state.control.controls(id) {
                let actions = state.held.release(id);
                self.queue.push_all(actions);
            }
        }
        self.publish(&state.control);
        result
    }
}

/// One viewer's access to the input. Dropping it releases what it holds, and its control.
#[derive(Debug)]
pub struct Session {
    input: Input,
    id: SessionId,
    role: Role,
}

impl Session {
    /// Identifies the session in [`ControlState`].
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// Right of the viewer.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// Injects events in order. A session gets control by its first event if control is free, but not by a layout or a release.
    ///
    /// # Errors
    /// [`Refused`]: no further event was injected.
    pub fn inject(&self, events: &[InputEvent]) -> Result<(), Refused> {
        let shared = &self.input.shared;
        let mut state = shared.state.lock();
        let State { control, held, .. } = &mut *state;
        // Pages send layouts and releases unasked: these take no control.
        let is_act =
            |event: &InputEvent| !matches!(event, InputEvent::Layout { .. } | InputEvent::Release {});
        if !events.iter().any(is_act) && !control.controls(self.id) {
            return Err(Refused::NotInControl);
        }
        if control.claim(self.id)? {
            shared.publish(control);
        }
        for action in events.iter().flat_map(|event| held.apply(self.id, event)) {
            if !shared.queue.push(action) {
                return Err(Refused::TooFast);
            }
        }
        Ok(())
    }

    /// True if the desktop follows the size of this viewer's window.
    pub fn may_resize(&self) -> bool {
        self.input.shared.state.lock().control.may_resize(self.id)
    }

    /// Takes control, from another session if need be.
    ///
    /// # Errors
    /// [`Refused::NotAllowed`].
    pub fn take_control(&self) -> Result<(), Refused> {
        self.input.shared.change(|control| control.take(self.id))
    }

    /// Asks the session that has control to give it; takes control if it is free.
    ///
    /// # Errors
    /// [`Refused::NotAllowed`].
    pub fn request_control(&self) -> Result<(), Refused> {
        self.input.shared.change(|control| control.request(self.id))
    }

    /// Gives control to another session, or up if `to` is `None`.
    ///
    /// # Errors
    /// This session has no control, or the other one may not have it.
    pub fn give_control(&self, to: Option<SessionId>) -> Result<(), Refused> {
        self.input.shared.change(|control| control.give(self.id, to))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Cannot fail: leaving needs no permission.
        let _left = self.input.shared.change(|control| {
            control.leave(self.id);
            Ok(())
        });
    }
}

#[cfg(test)]
mod tests;
