//! The clipboard of GNOME Shell, by the input's session of `org.gnome.Mutter.RemoteDesktop`.
//!
//! ```text
//! copy:  SelectionOwnerChanged(mime-types) ─▶ SelectionRead(mime) ─▶ pipe
//! paste: SetSelection(mime-types) ─▶ SelectionTransfer(mime, serial) ─▶ SelectionWrite(serial) ─▶ pipe ─▶ SelectionWriteDone
//! ```
//!
//! Mutter has one clipboard per session, and one session has both keyboard and clipboard, so that a paste follows its content.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use desktop_session::bus::{self, Target, call};
use futures_util::StreamExt as _;
use futures_util::future::LocalBoxFuture;
use zbus::message::Type;
use zbus::{Connection, MatchRule, Message, MessageStream, OwnedObjectPath, Variant};

use super::content::{Content, Mark, OWN, Offered};
use super::driver::{Event, Paste, Peer, Selection, Source, in_time};
use super::pipe;
use crate::backend::BackendError;
use crate::mutter::{PEER, REMOTE_DESKTOP, REMOTE_DESKTOP_SESSION, disconnected, failed};

/// Largest signal that is parsed, bytes. A browser's offer of twenty MIME types has less than one KiB.
const MAX_SIGNAL: usize = 64 << 10;

/// The session's clipboard.
pub struct Mutter {
    session: Session,
    signals: MessageStream,
}

/// The remote desktop session.
#[derive(Clone)]
struct Session {
    connection: Connection,
    path: OwnedObjectPath,
}

impl Session {
    async fn call<B>(&self, method: &'static str, body: &B) -> Result<Message, BackendError>
    where
        B: zbus::export::serde::Serialize + zbus::DynamicType,
    {
        let target =
            Target { service: REMOTE_DESKTOP, path: self.path.as_str(), interface: REMOTE_DESKTOP_SESSION };
        call(&self.connection, target, method, body).await.map_err(failed(method))
    }

    /// Calls a method that replies with a pipe.
    async fn pipe<B>(&self, method: &'static str, body: &B) -> Result<OwnedFd, BackendError>
    where
        B: zbus::export::serde::Serialize + zbus::DynamicType,
    {
        let reply = self.call(method, body).await?;
        let pipe: zbus::OwnedFd = reply.body().deserialize().map_err(failed(method))?;
        Ok(pipe.into())
    }
}

impl Mutter {
    /// Enables the clipboard of a session.
    pub async fn connect(connection: &Connection, path: &OwnedObjectPath) -> Result<Self, BackendError> {
        let rule = MatchRule::builder().msg_type(Type::Signal).interface(REMOTE_DESKTOP_SESSION);
        let rule = rule.path(path.as_str()).build().map_err(failed("AddMatch"))?;
        // Subscribed before the clipboard is enabled: its present owner follows at once.
        let signals =
            MessageStream::for_match_rule(rule, connection, None).await.map_err(failed("AddMatch"))?;
        let session = Session { connection: connection.clone(), path: path.clone() };
        session.call("EnableClipboard", &(HashMap::<&str, Variant<'_>>::new(),)).await?;
        Ok(Self { session, signals })
    }
}

impl Peer for Mutter {
    async fn next(&mut self) -> Result<Event, BackendError> {
        loop {
            let message = match self.signals.next().await {
                None => return Err(disconnected("the session bus disconnected")),
                Some(message) => message.map_err(disconnected)?,
            };
            let is = |member| bus::is_signal(&message, self.session.path.as_str(), member);
            if is("SelectionOwnerChanged") {
                let offered = offer(&message);
                if offered.is_some_and(|offered| offered.mark == Mark::Own) {
                    return Ok(Event::Selected(None));
                }
                let source = Box::new(self.session.clone());
                return Ok(Event::Selected(offered.map(|offered| Selection { offered, source })));
            }
            if is("SelectionTransfer")
                && message.body().len() <= MAX_SIGNAL
                && let Ok((mime, serial)) = message.body().deserialize::<(String, u32)>()
            {
                let paste = Box::new(Transfer { session: self.session.clone(), serial });
                return Ok(Event::Pasted { mime, paste });
            }
        }
    }

    fn offer(&mut self, content: &Content) -> LocalBoxFuture<'static, Result<(), BackendError>> {
        let (session, types) = (self.session.clone(), content.mime_types());
        let taken = async move {
            let options = HashMap::from([("mime-types", Variant::from(types))]);
            session.call("SetSelection", &(options,)).await.map(drop)
        };
        in_time(taken, PEER)
    }
}

/// Offer of the new owner of the clipboard; `None` if there is no owner, or the signal is malformed.
fn offer(message: &Message) -> Option<Offered> {
    let body = message.body();
    if body.len() > MAX_SIGNAL {
        tracing::debug!(bytes = body.len(), "an offer of too many MIME types is ignored");
        return None;
    }
    let (mut options,): (HashMap<String, zbus::OwnedVariant>,) = body.deserialize().ok()?;
    let is_own = options.remove("session-is-owner").is_some_and(|own| bool::try_from(own).unwrap_or(false));
    let mut offered = Offered::default();
    if is_own {
        offered.add(OWN);
    }
    // Mutter wraps the list into a structure.
    let types = options.remove("mime-types")?;
    let types: Vec<String> = match types.try_clone().ok().map(<(Vec<String>,)>::try_from) {
        Some(Ok((types,))) => types,
        _ => types.try_into().ok()?,
    };
    for mime in &types {
        offered.add(mime);
    }
    Some(offered)
}

impl Source for Session {
    fn open(&self, mime: &'static str) -> LocalBoxFuture<'_, Result<OwnedFd, BackendError>> {
        Box::pin(async move { self.pipe("SelectionRead", &(mime,)).await })
    }
}

/// A program that pastes.
struct Transfer {
    session: Session,
    serial: u32,
}

impl Paste for Transfer {
    fn write(self: Box<Self>, content: Option<Bytes>) -> LocalBoxFuture<'static, Result<(), BackendError>> {
        Box::pin(async move {
            let Self { session, serial } = *self;
            let written = match content {
                None => Ok(false),
                Some(content) => match session.pipe("SelectionWrite", &(serial,)).await {
                    Ok(pipe) => pipe::write(pipe, &content).await.map(|()| true).map_err(BackendError::Pipe),
                    Err(error) => Err(error),
                },
            };
            let is_complete = matches!(written, Ok(true));
            session.call("SelectionWriteDone", &(serial, is_complete)).await?;
            written.map(drop)
        })
    }
}

#[cfg(test)]
mod tests;
