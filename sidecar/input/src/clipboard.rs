//! The clipboard that viewers in control share with the desktop.
//!
//! ```text
//!  viewer ─▶ Session::transfer (permission, one at a time) ─▶ driver ─▶ peer ─▶ programs that paste
//!  viewer ◀─ Selections (sessions in control) ◀─ driver (limits, pauses) ◀─ peer ◀─ program that copies
//!                                                                           ├─ wayland: ext- or wlr-data-control
//!                                                                           └─ mutter: org.gnome.Mutter.RemoteDesktop
//! ```
//!
//! Programs of the desktop are untrusted: what they offer is limited in size, time and rate, only the formats of
//! [`contract::clipboard`] are read, and secrets of password managers are not. One content each way is stored.

mod content;
mod driver;
mod mutter;
mod pipe;
mod wayland;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use contract::clipboard::{ClipboardPolicy, ContentError};
use contract::input::ControlPolicy;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use zbus::{Connection, OwnedObjectPath};

use crate::backend::BackendError;
use crate::{Input, Refused, Role, Session, SessionId};

pub use self::content::Content;
pub(crate) use self::pipe::PipeError;

/// Delay after a failed connection; doubles up to the maximum.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_mins(1);
/// Time limit for the desktop to take a content. The driver has a shorter one for the compositor.
const TAKE_TIMEOUT: Duration = Duration::from_secs(8);

/// Connection to the desktop's clipboard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClipboardState {
    /// Protocol in use; `None` while the clipboard is not available.
    pub protocol: Option<&'static str>,
    /// Reason why it is not available, with a remedy; empty if it is.
    pub error: String,
}

/// Reason why a content is not put into the desktop's clipboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClipboardRefused {
    /// The session's token or the policy does not allow it.
    #[error("this viewer may not send its clipboard to the desktop")]
    NotAllowed,
    /// Another session has control.
    #[error("another viewer has control")]
    NotInControl,
    /// The desktop has no clipboard that is connected.
    #[error("the clipboard of the desktop is not available")]
    Unavailable,
    /// Another content is being transferred to the desktop.
    #[error("another clipboard is being sent to the desktop: try again")]
    Busy,
    /// The content is not accepted.
    #[error(transparent)]
    Content(#[from] ContentError),
}

/// A content on its way to the desktop.
#[derive(Debug)]
struct Request {
    content: Arc<Content>,
    /// Receives the result; closed if the viewer does not wait for it.
    done: oneshot::Sender<Result<(), ClipboardRefused>>,
}

/// The viewers' end of the clipboard.
#[derive(Debug)]
pub(crate) struct Clipboard {
    policy: ClipboardPolicy,
    state: watch::Receiver<ClipboardState>,
    /// Content that a program of the desktop copied last. Only sessions subscribe, so that the driver knows whether any does.
    selection: watch::Sender<Option<Arc<Content>>>,
    requests: mpsc::Sender<Request>,
    /// Permission to transfer a content to the desktop. One at a time, because each holds memory.
    transfer: Arc<Semaphore>,
}

/// The desktop's end of the clipboard.
#[derive(Debug)]
pub(crate) struct DesktopEnd {
    policy: ClipboardPolicy,
    state: watch::Sender<ClipboardState>,
    selection: watch::Sender<Option<Arc<Content>>>,
    requests: mpsc::Receiver<Request>,
}

/// Clipboard of a desktop that is connected.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// Compositor at a socket.
    Wayland(PathBuf),
    /// Remote desktop session of the input.
    Mutter {
        /// Connection that owns the session.
        connection: Connection,
        /// Path of the session.
        path: OwnedObjectPath,
    },
}

/// Creates both ends. With a policy that disables the clipboard, the reason is the state for good.
pub(crate) fn ends(policy: ClipboardPolicy, control: ControlPolicy) -> (Clipboard, DesktopEnd) {
    let error = match (policy, control) {
        (ClipboardPolicy::Off, _) => "disabled: enable it by --clipboard or viewers.clipboard",
        (_, ControlPolicy::None) => "control of this desktop is disabled",
        _ => "",
    };
    let (state, reader) = watch::channel(ClipboardState { protocol: None, error: error.to_owned() });
    let selection = watch::Sender::new(None);
    let (sender, requests) = mpsc::channel(1);
    let transfer = Arc::new(Semaphore::new(1));
    let viewers =
        Clipboard { policy, state: reader, selection: selection.clone(), requests: sender, transfer };
    (viewers, DesktopEnd { policy, state, selection, requests })
}

impl DesktopEnd {
    /// States the reason why there is no clipboard, and forgets the desktop's content.
    pub fn unavailable(&mut self, error: &str) {
        if self.policy != ClipboardPolicy::Off {
            self.state.send_replace(ClipboardState { protocol: None, error: error.to_owned() });
        }
        self.selection.send_replace(None);
        while self.requests.try_recv().is_ok() {}
    }

    /// Shares the clipboard of `target`; connects again when the connection ends. Cancel safe.
    pub async fn serve(&mut self, target: &Target) -> Infallible {
        if self.policy == ClipboardPolicy::Off {
            return std::future::pending().await;
        }
        let mut delay = RETRY_MIN;
        loop {
            let connected = match target {
                Target::Wayland(path) => {
                    wayland::Wayland::connect(path).await.map(|it| driver::Either::Wayland(Box::new(it)))
                }

                Target::Mutter { connection, path } => mutter::Mutter::connect(connection, path)
                    .await
                    .map(|it| driver::Either::Mutter(Box::new(it))),
            };
            let error = match connected {
                Ok(peer) => {
                    delay = RETRY_MIN;
                    let protocol = peer.protocol();
                    tracing::info!(protocol, "clipboard connected");
                    self.state
                        .send_replace(ClipboardState { protocol: Some(protocol), error: String::new() });
                    driver::drive(peer, self).await
                }
                Err(error) => error,
            };
            tracing::info!(%error, "no clipboard");
            self.unavailable(&error.to_string());
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(RETRY_MAX);
        }
    }
}

impl From<Refused> for ClipboardRefused {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NotAllowed => Self::NotAllowed,
            Refused::NotInControl => Self::NotInControl,
            Refused::TooFast => Self::Busy,
        }
    }
}

impl Input {
    /// Policy over the directions of the clipboard.
    pub fn clipboard_policy(&self) -> ClipboardPolicy {
        self.shared.clipboard.policy
    }

    /// Connection to the desktop's clipboard, as it changes.
    pub fn clipboard(&self) -> watch::Receiver<ClipboardState> {
        self.shared.clipboard.state.clone()
    }
}

impl Session {
    /// Begins to transfer a content to the desktop. A session gets control by it if control is free.
    ///
    /// # Errors
    /// [`ClipboardRefused`] if the session has no permission, or the desktop cannot take a content now.
    pub fn transfer(&self) -> Result<Transfer, ClipboardRefused> {
        let clipboard = &self.input.shared.clipboard;
        if !clipboard.policy.to_desktop() || self.role != Role::Controller {
            return Err(ClipboardRefused::NotAllowed);
        }
        if clipboard.state.borrow().protocol.is_none() {
            return Err(ClipboardRefused::Unavailable);
        }
        self.input.shared.claim(self.id)?;
        let permit =
            Arc::clone(&clipboard.transfer).try_acquire_owned().map_err(|_| ClipboardRefused::Busy)?;
        Ok(Transfer { input: self.input.clone(), id: self.id, _permit: permit })
    }

    /// Contents that programs of the desktop copy from now on; `None` if the session may not have them.
    pub fn selections(&self) -> Option<Selections> {
        let clipboard = &self.input.shared.clipboard;
        let allowed = clipboard.policy.from_desktop() && self.role == Role::Controller;
        allowed.then(|| Selections {
            input: self.input.clone(),
            id: self.id,
            contents: clipboard.selection.subscribe(),
        })
    }
}

/// Permission to put one content into the desktop's clipboard. Others are refused until it is dropped.
#[derive(Debug)]
pub struct Transfer {
    input: Input,
    id: SessionId,
    _permit: OwnedSemaphorePermit,
}

impl Transfer {
    /// Puts the content into the clipboard. Programs of the desktop can paste it once this returns.
    ///
    /// # Errors
    /// [`ClipboardRefused`] if the session has lost control, or the desktop does not take the content.
    pub async fn finish(self, content: Content) -> Result<(), ClipboardRefused> {
        self.input.shared.claim(self.id)?;
        let (done, result) = oneshot::channel();
        let requests = &self.input.shared.clipboard.requests;
        let request = Request { content: Arc::new(content), done };
        let taken = async {
            requests.send(request).await.map_err(|_| ClipboardRefused::Unavailable)?;
            result.await.map_err(|_| ClipboardRefused::Unavailable)?
        };
        tokio::time::timeout(TAKE_TIMEOUT, taken).await.map_err(|_| ClipboardRefused::Unavailable)?
    }
}

/// Contents that programs of the desktop copy while a session has control.
#[derive(Debug)]
pub struct Selections {
    input: Input,
    id: SessionId,
    contents: watch::Receiver<Option<Arc<Content>>>,
}

impl Selections {
    /// Waits for the next content; `None` once the input has ended. Cancel safe. It is weak, so that a viewer that reads slowly
    /// holds no former content in memory.
    pub async fn next(&mut self) -> Option<Weak<Content>> {
        loop {
            self.contents.changed().await.ok()?;
            let content = self.contents.borrow_and_update().as_ref().map(Arc::downgrade);
            if let Some(content) = content
                && self.has_control()
            {
                return Some(content);
            }
        }
    }

    /// True while the session has control.
    pub fn has_control(&self) -> bool {
        self.input.shared.state.lock().control.controls(self.id)
    }
}

/// Result of a step that the peer failed.
fn failed(error: &BackendError) -> ClipboardRefused {
    tracing::debug!(%error, "clipboard not taken");
    ClipboardRefused::Unavailable
}

#[cfg(test)]
mod tests;
