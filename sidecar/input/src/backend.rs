//! Connects to the desktop, applies actions, and connects again when the desktop restarts.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;

use crate::action::Action;
use crate::clipboard::{DesktopEnd, PipeError, Target};
use crate::mutter::Mutter;
use crate::queue::Queue;
use crate::wayland::Wayland;
use crate::{BackendKind, InputOptions, InputState};

/// Delay after a failed connection; doubles up to the maximum.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(8);
/// Time limit for GNOME Shell's reply to a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(15);

/// Reason why events cannot be injected.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// No socket of a compositor.
    #[error("no Wayland socket in {0}: start the desktop with this folder as its XDG_RUNTIME_DIR")]
    NoSocket(PathBuf),
    /// The socket refuses connections.
    #[error("cannot connect to {path}: {source}")]
    Connect {
        /// Path of the socket.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// The compositor has not all protocols.
    #[error("the compositor lacks {0}: use a wlroots compositor or GNOME Shell")]
    NoProtocol(&'static str),
    /// No reply in time.
    #[error("the {0} did not reply in time")]
    Timeout(&'static str),
    /// The connection ended.
    #[error("the connection to the {peer} ended: {reason}")]
    Disconnected {
        /// Name of the other end.
        peer: &'static str,
        /// Reason as the other end gave it.
        reason: String,
    },
    /// Mutter refused a call.
    #[error("{call} failed: {reason}")]
    Call {
        /// Method of the D-Bus interface.
        call: &'static str,
        /// Reason as the other end gave it.
        reason: String,
    },
    /// The content of the clipboard was not transferred.
    #[error("transferring the clipboard: {0}")]
    Pipe(PipeError),
    /// A keymap cannot be written.
    #[error("cannot write the keymap: {0}")]
    Keymap(std::io::Error),
}

/// A connected backend.
enum Backend {
    Wayland(Box<Wayland>),
    Mutter(Box<Mutter>),
}

impl Backend {
    /// Connects by the first protocol that the desktop has.
    async fn connect(options: &InputOptions) -> Result<Self, BackendError> {
        let wayland = match Wayland::connect(options).await {
            Ok(wayland) => return Ok(Self::Wayland(Box::new(wayland))),
            Err(error) => error,
        };
        match Mutter::connect(options).await {
            Ok(mutter) => Ok(Self::Mutter(Box::new(mutter))),
            Err(mutter) => Err(reported(wayland, mutter)),
        }
    }

    const fn kind(&self) -> BackendKind {
        match self {
            Self::Wayland(_) => BackendKind::Wayland,
            Self::Mutter(_) => BackendKind::Mutter,
        }
    }

    /// Clipboard of the same desktop.
    fn clipboard(&self) -> Target {
        match self {
            Self::Wayland(wayland) => Target::Wayland(wayland.path().to_owned()),
            Self::Mutter(mutter) => {
                let (connection, path) = mutter.session();
                Target::Mutter { connection: connection.clone(), path: path.clone() }
            }
        }
    }

    async fn apply(&mut self, actions: Vec<Action>) -> Result<(), BackendError> {
        match self {
            Self::Wayland(wayland) => wayland.apply(actions),
            Self::Mutter(mutter) => mutter.apply(actions).await,
        }
    }

    /// Processes the desktop's messages until the connection ends. Cancel safe.
    async fn until_end(&mut self) -> BackendError {
        match self {
            Self::Wayland(wayland) => wayland.until_end().await,
            Self::Mutter(mutter) => mutter.until_end().await,
        }
    }
}

/// The error to report of both protocols: the compositor's, unless it is GNOME Shell, which has no Wayland protocols for input.
fn reported(wayland: BackendError, mutter: BackendError) -> BackendError {
    match mutter {
        BackendError::Call { .. } | BackendError::Timeout(_) => mutter,
        _ => wayland,
    }
}

/// Looks for a protocol that [`Backend::connect`] would use, without devices and sessions, which users of the desktop notice.
pub async fn probe(options: &InputOptions) -> Result<BackendKind, BackendError> {
    let wayland = match Wayland::probe(options).await {
        Ok(()) => return Ok(BackendKind::Wayland),
        Err(error) => error,
    };
    match tokio::time::timeout(PROBE_TIMEOUT, Mutter::probe(options)).await {
        Ok(Ok(())) => Ok(BackendKind::Mutter),
        Ok(Err(mutter)) => Err(reported(wayland, mutter)),
        Err(_) => Err(reported(wayland, BackendError::Timeout("GNOME Shell"))),
    }
}

/// Runs until the queue is closed.
pub async fn run(
    options: &InputOptions,
    queue: &Queue,
    state: &watch::Sender<InputState>,
    clipboard: &mut DesktopEnd,
) {
    let mut delay = RETRY_MIN;
    let mut logged = String::new();
    loop {
        let error = match Backend::connect(options).await {
            Ok(backend) => {
                delay = RETRY_MIN;
                logged.clear();
                let kind = backend.kind();
                tracing::info!(protocol = kind.name(), "input connected");
                // Events from before the connection would surprise: their pictures are gone.
                queue.clear();
                state.send_replace(InputState { backend: Some(kind), error: String::new() });
                let target = backend.clipboard();
                let end = tokio::select! {
                    end = apply_all(backend, queue) => end,
                    never = clipboard.serve(&target) => match never {},
                };
                match end {
                    Some(error) => error,
                    None => return,
                }
            }
            Err(error) => error,
        };
        let error = error.to_string();
        if error != logged {
            tracing::info!(error, "no input");
            logged.clone_from(&error);
        }
        clipboard.unavailable(&error);
        state.send_replace(InputState { backend: None, error });
        if wait(queue, delay).await.is_none() {
            return;
        }
        delay = (delay * 2).min(RETRY_MAX);
    }
}

/// Applies actions until the connection ends (`Some`) or the queue is closed (`None`).
async fn apply_all(mut backend: Backend, queue: &Queue) -> Option<BackendError> {
    loop {
        let actions = tokio::select! {
            actions = queue.next() => actions?,
            error = backend.until_end() => return Some(error),
        };
        if let Err(error) = backend.apply(actions).await {
            return Some(error);
        }
    }
}

/// Waits for `delay` and discards actions meanwhile; `None` if the queue is closed.
async fn wait(queue: &Queue, delay: Duration) -> Option<()> {
    let discard = async { while queue.next().await.is_some() {} };
    tokio::select! {
        () = tokio::time::sleep(delay) => Some(()),
        () = discard => None,
    }
}

#[cfg(test)]
mod tests;
