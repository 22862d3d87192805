//! The link's socket: framed messages with descriptors, nonblocking, bounded in both directions.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use protocol::frame::{HEADER_BYTES, Header};
use protocol::link::{ATTACH_DESCRIPTORS, FromTap, ToTap, to_tap_limit};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, ReturnFlags, SendAncillaryBuffer, SocketAddrUnix, connect,
    recvmsg, sendmsg,
};

use super::LinkError;
use crate::sys;

/// Bytes that may wait for a slow host-agent; a second of the fastest guest is a tenth of it.
const MAX_WAITING: usize = 256 << 10;
/// Descriptors that may wait for their message; one attach has two.
const MAX_DESCRIPTORS: usize = 4 * ATTACH_DESCRIPTORS;
const READ_BYTES: usize = 4 << 10;

fn system(step: &'static str) -> impl Fn(Errno) -> LinkError {
    move |errno| LinkError::System { step, source: errno.into() }
}

/// Waits until the wake socket or the link has something, or `timeout` is over. `Ok(true)`: the wake.
pub(super) fn wait(wake: &UnixStream, link: Option<&Socket>, timeout: Duration) -> Result<bool, LinkError> {
    let timeout = Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
    let mut fds = Vec::with_capacity(2);
    fds.push(PollFd::new(wake, PollFlags::IN));
    if let Some(link) = link {
        let out = if link.out.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        fds.push(PollFd::new(&link.fd, PollFlags::IN | out));
    }
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) => Ok(fds.first().is_some_and(|wake| !wake.revents().is_empty())),
        Err(Errno::INTR) => Ok(false),
        Err(errno) => Err(system("wait for the link")(errno)),
    }
}

/// A connection to the host-agent.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    received: BytesMut,
    descriptors: VecDeque<OwnedFd>,
    out: BytesMut,
}

impl Socket {
    /// Connects, or fails at once.
    pub(super) fn connect(path: &Path) -> Result<Self, LinkError> {
        let address = SocketAddrUnix::new(path).map_err(system("use the link's path"))?;
        let fd = sys::new_socket().map_err(system("make a socket"))?;
        connect(&fd, &address).map_err(system("connect to the host-agent"))?;
        Ok(Self { fd, received: BytesMut::new(), descriptors: VecDeque::new(), out: BytesMut::new() })
    }

    /// Queues a message and sends what goes out at once.
    pub(super) fn send(&mut self, message: &FromTap) -> Result<(), LinkError> {
        let encoded = message.encode();
        if self.out.len() + encoded.len() > MAX_WAITING {
            return Err(LinkError::Overrun("the host-agent does not read"));
        }
        self.out.extend_from_slice(&encoded.head);
        self.out.extend_from_slice(&encoded.body);
        self.flush()
    }

    /// Sends what waits, as far as it goes.
    pub(super) fn flush(&mut self) -> Result<(), LinkError> {
        while !self.out.is_empty() {
            let mut none = SendAncillaryBuffer::default();
            match sendmsg(&self.fd, &[IoSlice::new(&self.out)], &mut none, sys::SEND) {
                Ok(sent) => self.out.advance(sent),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(LinkError::Closed),
                Err(errno) => return Err(system("send to the host-agent")(errno)),
            }
        }
        Ok(())
    }

    /// The next message that is here already, with its descriptors.
    pub(super) fn receive(&mut self) -> Result<Option<(ToTap, Vec<OwnedFd>)>, LinkError> {
        loop {
            if let Some(message) = self.decode()? {
                return Ok(Some(message));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    fn decode(&mut self) -> Result<Option<(ToTap, Vec<OwnedFd>)>, LinkError> {
        let Some(header) = self.received.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let header = Header::decode(*header, to_tap_limit)?;
        let len = header.len as usize;
        if self.received.len() < HEADER_BYTES + len {
            return Ok(None);
        }
        self.received.advance(HEADER_BYTES);
        let payload: Bytes = self.received.split_to(len).freeze();
        let message = ToTap::decode(header, payload)?;
        let wanted = if matches!(message, ToTap::Attach { .. }) { ATTACH_DESCRIPTORS } else { 0 };
        if self.descriptors.len() < wanted {
            return Err(LinkError::Protocol("attach came without its two descriptors"));
        }
        Ok(Some((message, self.descriptors.drain(..wanted).collect())))
    }

    /// Reads once; `false` if there is nothing. Descriptors come with the first byte of their message
    /// or, if the kernel joined messages, with bytes before it: never later.
    fn fill(&mut self) -> Result<bool, LinkError> {
        let mut chunk = [0; READ_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(self.fd.as_fd(), &mut [IoSliceMut::new(&mut chunk)], &mut control, sys::RECEIVE);
        let got = match got {
            Ok(got) => got,
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::INTR) => return Ok(true),
            Err(Errno::CONNRESET) => return Err(LinkError::Closed),
            Err(errno) => return Err(system("receive from the host-agent")(errno)),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        if got.flags.contains(ReturnFlags::CTRUNC) || self.descriptors.len() > MAX_DESCRIPTORS {
            return Err(LinkError::Protocol("more descriptors than messages need"));
        }
        if got.bytes == 0 {
            return Err(LinkError::Closed);
        }
        let chunk = chunk.get(..got.bytes).ok_or(LinkError::Closed)?;
        self.received.extend_from_slice(chunk);
        Ok(true)
    }
}
