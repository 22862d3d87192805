//! The clipboard of Wayland compositors, by `ext_data_control_v1`, or `zwlr_data_control_v1` where it is not offered.
//!
//! The connection is separate from that of the input, so that a program that floods the clipboard delays no key. Compositors give
//! programs a clipboard only while a seat has a keyboard: that of the input exists as long as its connection.

mod objects;

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use tokio::sync::oneshot;
use wayland_client::{Connection, EventQueue};

use self::objects::{Device, Objects, Offer, Selected};
use super::content::{Content, OWN};
use super::driver::{Event, Paste, Peer, Selection, Source, in_time};
use super::pipe;
use crate::backend::BackendError;
use crate::wayland::{PEER, REPLY_TIMEOUT, disconnected, dispatch, flush, open};

/// A connection with the clipboard of its seat.
pub struct Wayland {
    queue: EventQueue<Objects>,
    connection: Connection,
    objects: Objects,
    /// The connection's socket, for its readiness.
    socket: tokio::net::UnixStream,
    device: Device,
    protocol: &'static str,
}

impl Wayland {
    /// Connects to a compositor.
    pub async fn connect(path: &Path) -> Result<Self, BackendError> {
        let (connection, socket) = open(path)?;
        let mut queue = connection.new_event_queue();
        let handle = queue.handle();
        connection.display().get_registry(&handle, ());
        connection.display().sync(&handle, ());
        let mut objects = Objects::default();
        let listed = async {
            while !objects.is_listed {
                dispatch(&mut queue, &mut objects, &socket).await?;
            }
            Ok(())
        };
        tokio::time::timeout(REPLY_TIMEOUT, listed).await.map_err(|_| BackendError::Timeout(PEER))??;
        let (device, protocol) = objects.create_device(&handle)?;
        flush(connection.flush())?;
        Ok(Self { queue, connection, objects, socket, device, protocol })
    }

    /// Name of the protocol.
    pub const fn protocol(&self) -> &'static str {
        self.protocol
    }
}

impl Drop for Wayland {
    fn drop(&mut self) {
        // Ends the offer, as its content ends with the connection.
        self.device.destroy();
        let _ = self.connection.flush();
    }
}

impl Peer for Wayland {
    async fn next(&mut self) -> Result<Event, BackendError> {
        loop {
            if let Some((mime, pipe)) = self.objects.pastes.pop_front() {
                return Ok(Event::Pasted { mime, paste: Box::new(PastePipe(pipe)) });
            }
            match std::mem::take(&mut self.objects.selected) {
                Selected::Unchanged => {}
                Selected::Empty => return Ok(Event::Selected(None)),
                Selected::Offer(offer, offered) => {
                    let source = Box::new(OfferSource { offer, connection: self.connection.clone() });
                    return Ok(Event::Selected(Some(Selection { offered, source })));
                }
            }
            if self.objects.is_finished {
                return Err(disconnected("the seat or its clipboard was removed"));
            }
            dispatch(&mut self.queue, &mut self.objects, &self.socket).await?;
        }
    }

    fn offer(&mut self, content: &Content) -> LocalBoxFuture<'static, Result<(), BackendError>> {
        let handle = self.queue.handle();
        let types = content.mime_types().into_iter().chain([OWN]);
        self.objects.offer(&self.device, types, &handle);
        let (sender, taken) = oneshot::channel();
        self.objects.taken = Some(sender);
        self.connection.display().sync(&handle, ());
        let flushed = flush(self.connection.flush());
        let taken = async move {
            flushed?;
            taken.await.map_err(|_| disconnected("another content replaced this one"))
        };
        in_time(taken, PEER)
    }
}

/// A program that copied something. Dropping it tells the compositor that its content is not needed.
struct OfferSource {
    offer: Offer,
    connection: Connection,
}

impl Source for OfferSource {
    fn open(&self, mime: &'static str) -> LocalBoxFuture<'_, Result<OwnedFd, BackendError>> {
        Box::pin(async move {
            let (reader, writer) = pipe::pair().map_err(|error| BackendError::Pipe(error.into()))?;
            self.offer.receive(mime, writer.as_fd());
            // Sends a copy of the descriptor; ours is closed, so that the pipe ends with the program's.
            flush(self.connection.flush())?;
            Ok(reader)
        })
    }
}

impl Drop for OfferSource {
    fn drop(&mut self) {
        self.offer.destroy();
        let _ = self.connection.flush();
    }
}

/// A program that pastes.
struct PastePipe(OwnedFd);

impl Paste for PastePipe {
    fn write(self: Box<Self>, content: Option<Bytes>) -> LocalBoxFuture<'static, Result<(), BackendError>> {
        // Without a content, the pipe is closed.
        Box::pin(async move {
            match content {
                Some(content) => pipe::write(self.0, &content).await.map_err(BackendError::Pipe),
                None => Ok(()),
            }
        })
    }
}

#[cfg(test)]
mod tests;
