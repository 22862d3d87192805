//! Moves contents between viewers and a connected desktop, within limits on size, time, rate and number.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use contract::clipboard::MAX_CONTENT;
use futures_util::StreamExt as _;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::content::{Content, Mark, Offered, SECRET_HINT};
use super::{ClipboardRefused, DesktopEnd, failed, mutter, pipe, wayland};
use crate::backend::BackendError;

/// Time limit for reading one selection, all formats together.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for one program to read what it pastes.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for the compositor to take a content.
const SET_TIMEOUT: Duration = Duration::from_secs(5);
/// Programs that paste at the same time; others get nothing.
const MAX_WRITES: usize = 8;
/// Pause after a selection was read, before the next one is: this time, and that of its bytes at this rate.
const READ_PAUSE: Duration = Duration::from_millis(200);
const READ_BYTES_PER_MS: usize = (4 << 20) / 1000;
/// Largest content of a password manager's hint, bytes.
const MAX_HINT: usize = 64;

/// A connected clipboard.
pub trait Peer {
    /// Waits for the desktop. Cancel safe.
    async fn next(&mut self) -> Result<Event, BackendError>;

    /// Offers a content to the desktop's programs. The future ends when they can paste it; it needs [`Peer::next`] to be polled.
    fn offer(&mut self, content: &Content) -> LocalBoxFuture<'static, Result<(), BackendError>>;
}

/// Event of a desktop.
pub enum Event {
    /// A program copied something, or the clipboard is empty.
    Selected(Option<Selection>),
    /// A program pastes what was offered last.
    Pasted {
        /// MIME type that the program asks for.
        mime: String,
        /// Receives the content.
        paste: Box<dyn Paste>,
    },
}

/// Content that a program offers.
pub struct Selection {
    /// Formats of the content.
    pub offered: Offered,
    /// Gives the content.
    pub source: Box<dyn Source>,
}

/// A program that copied something.
pub trait Source {
    /// Asks for the content in a MIME type. The program writes to the pipe.
    fn open(&self, mime: &'static str) -> LocalBoxFuture<'_, Result<OwnedFd, BackendError>>;
}

/// A program that pastes.
pub trait Paste {
    /// Writes the content, or refuses it if there is none.
    fn write(self: Box<Self>, content: Option<Bytes>) -> LocalBoxFuture<'static, Result<(), BackendError>>;
}

/// A peer of one of the two protocols.
pub enum Either {
    /// A wlroots compositor.
    Wayland(Box<wayland::Wayland>),
    /// GNOME Shell.
    Mutter(Box<mutter::Mutter>),
}

impl Either {
    /// Name of the protocol in status and log.
    pub fn protocol(&self) -> &'static str {
        match self {
            Self::Wayland(wayland) => wayland.protocol(),
            Self::Mutter(_) => "org.gnome.Mutter.RemoteDesktop",
        }
    }
}

impl Peer for Either {
    async fn next(&mut self) -> Result<Event, BackendError> {
        match self {
            Self::Wayland(wayland) => wayland.next().await,
            Self::Mutter(mutter) => mutter.next().await,
        }
    }

    fn offer(&mut self, content: &Content) -> LocalBoxFuture<'static, Result<(), BackendError>> {
        match self {
            Self::Wayland(wayland) => wayland.offer(content),
            Self::Mutter(mutter) => mutter.offer(content),
        }
    }
}

/// The content that is being offered.
struct Offering {
    accepted: LocalBoxFuture<'static, Result<(), BackendError>>,
    done: oneshot::Sender<Result<(), ClipboardRefused>>,
}

/// Shares the clipboard until the connection ends.
pub async fn drive(mut peer: impl Peer, end: &mut DesktopEnd) -> BackendError {
    let mut reader = Reader::default();
    let mut offering: Option<Offering> = None;
    let mut content: Option<Arc<Content>> = None;
    let mut writes = FuturesUnordered::new();
    loop {
        tokio::select! {
            event = peer.next() => match event {
                Err(error) => return error,
                Ok(Event::Selected(selection)) => {
                    // Without a viewer that may have it, nothing is read.
                    let wanted = end.policy.from_desktop() && end.selection.receiver_count() > 0;
                    let selection = selection.filter(|it| wanted && it.offered.mark != Mark::Own);
                    if selection.is_none() {
                        end.selection.send_replace(None);
                    }
                    reader.replace(selection);
                }
                Ok(Event::Pasted { mime, paste }) if writes.len() < MAX_WRITES => {
                    let part = content.as_ref().and_then(|content| content.part(&mime));
                    writes.push(tokio::time::timeout(WRITE_TIMEOUT, paste.write(part)));
                }
                Ok(Event::Pasted { .. }) => tracing::debug!("too many programs paste at the same time"),
            },
            read = reader.next() => {
                end.selection.send_replace(read.map(Arc::new));
            }
            Some(request) = end.requests.recv(), if offering.is_none() => {
                if !request.done.is_closed() {
                    // Programs that paste the former content end, which frees its memory.
                    writes.clear();
                    let accepted = Box::pin(peer.offer(&request.content));
                    content = Some(request.content);
                    offering = Some(Offering { accepted, done: request.done });
                }
            }
            result = accepted(offering.as_mut()) => {
                if let Some(Offering { done, .. }) = offering.take() {
                    // The viewer may have disconnected.
                    let _ = done.send(result);
                }
            }
            Some(written) = writes.next() => match written {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "paste ended"),
                Err(_elapsed) => tracing::debug!("a program did not read what it pastes in time"),
            },
        }
    }
}

/// Waits until the desktop takes the content; never without one. Cancel safe.
async fn accepted(offering: Option<&mut Offering>) -> Result<(), ClipboardRefused> {
    let Some(offering) = offering else { return std::future::pending().await };
    let failed = |error: BackendError| failed(&error);
    (&mut offering.accepted).await.map_err(failed)
}

/// Reads selections: the newest one, after a pause.
#[derive(Default)]
struct Reader {
    pending: Option<Selection>,
    reading: Option<LocalBoxFuture<'static, Option<Content>>>,
    /// Time of the next reading.
    not_before: Option<Instant>,
}

impl Reader {
    /// Ends the reading of the former selection.
    fn replace(&mut self, selection: Option<Selection>) {
        if self.reading.take().is_some() {
            self.pause(0);
        }
        self.pending = selection;
    }

    /// Waits until a selection was read: its content, or `None` if viewers get none. Cancel safe.
    async fn next(&mut self) -> Option<Content> {
        loop {
            if let Some(reading) = &mut self.reading {
                let content = reading.await;
                self.reading = None;
                let bytes = content.iter().flat_map(Content::parts).map(|(_, bytes)| bytes.len()).sum();
                self.pause(bytes);
                return content;
            }
            if self.pending.is_none() {
                std::future::pending::<()>().await;
            }
            if let Some(not_before) = self.not_before {
                tokio::time::sleep_until(not_before).await;
            }
            if let Some(selection) = self.pending.take() {
                self.reading = Some(Box::pin(read(selection)));
            }
        }
    }

    fn pause(&mut self, bytes: usize) {
        let transfer = Duration::from_millis((bytes / READ_BYTES_PER_MS) as u64);
        self.not_before = Some(Instant::now() + READ_PAUSE + transfer);
    }
}

/// Reads a selection; `None` if it is a secret, or has no content that is accepted.
async fn read(selection: Selection) -> Option<Content> {
    let Selection { offered, source } = selection;
    let mut parts = Vec::new();
    let reading = async {
        if offered.mark == Mark::Hint && is_secret(&*source).await {
            tracing::debug!("a secret of a password manager is not sent to viewers");
            return;
        }
        let mut left = MAX_CONTENT;
        for (format, mime) in offered.parts() {
            match read_part(&*source, mime, left).await {
                Ok(bytes) if !bytes.is_empty() && format.fits(&bytes) => {
                    left -= bytes.len();
                    parts.push((format, bytes));
                }
                Ok(_) => tracing::debug!(mime, "a part of the clipboard is not in its format"),
                Err(error) => tracing::debug!(mime, %error, "a part of the clipboard was not read"),
            }
        }
    };
    if tokio::time::timeout(READ_TIMEOUT, reading).await.is_err() {
        tracing::debug!("a program did not write what it copied in time");
    }
    // Parts that were read are whole.
    Content::new(parts).ok()
}

/// True unless the hint says that the content is not secret.
async fn is_secret(source: &dyn Source) -> bool {
    match read_part(source, SECRET_HINT, MAX_HINT).await {
        Ok(hint) => hint.is_empty() || hint.trim_ascii() == b"secret",
        Err(_) => true,
    }
}

async fn read_part(source: &dyn Source, mime: &'static str, limit: usize) -> Result<Bytes, BackendError> {
    let pipe = source.open(mime).await?;
    pipe::read(pipe, limit).await.map_err(BackendError::Pipe)
}

/// Limits the time in which the compositor takes a content.
pub fn in_time(
    taken: impl Future<Output = Result<(), BackendError>> + 'static,
    peer: &'static str,
) -> LocalBoxFuture<'static, Result<(), BackendError>> {
    Box::pin(async move {
        tokio::time::timeout(SET_TIMEOUT, taken).await.map_err(|_| BackendError::Timeout(peer))?
    })
}

#[cfg(test)]
mod tests;
