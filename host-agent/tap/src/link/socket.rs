//! The link's socket: framed messages with descriptors, nonblocking, bounded in both directions.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use frame_ring::wake::WakeFd;
use protocol::frame::Decoder;
use protocol::link::{ATTACH_DESCRIPTORS, FromTap, ToTap};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, ReturnFlags, SendAncillaryBuffer, SocketAddrUnix, connect,
    recvmsg, sendmsg,
};

use super::LinkError;
use crate::sys;

/// Largest number of bytes that wait to be sent.
const MAX_UNSENT: usize = 256 << 10;
/// Largest number of received descriptors that wait for their message; an attach has two.
const MAX_DESCRIPTORS: usize = 4 * ATTACH_DESCRIPTORS;
/// Size of one read in bytes.
const READ_BYTES: usize = 4 << 10;

fn system(step: &'static str) -> impl Fn(Errno) -> LinkError {
    move |errno| LinkError::System { step, source: errno.into() }
}

/// Waits until the wake fd or the link is ready, or for `timeout`. Returns true if the wake fd is ready.
pub(super) fn wait(wake_fd: &WakeFd, link: Option<&Socket>, timeout: Duration) -> Result<bool, LinkError> {
    let timeout = Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
    let mut fds = Vec::with_capacity(2);
    fds.push(PollFd::new(wake_fd, PollFlags::IN));
    if let Some(link) = link {
        let out = if link.unsent.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        fds.push(PollFd::new(&link.fd, PollFlags::IN | out));
    }
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) => Ok(fds.first().is_some_and(|wake_fd| !wake_fd.revents().is_empty())),
        Err(Errno::INTR) => Ok(false),
        Err(errno) => Err(system("wait for the link")(errno)),
    }
}

/// A connection to the host-agent.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    received: Decoder,
    descriptors: VecDeque<OwnedFd>,
    unsent: BytesMut,
}

impl Socket {
    /// Connects without waiting. The kernel attests the user of the listening process, which must be one of
    /// `trusted_users`.
    pub(super) fn connect(path: &Path, trusted_users: &[u32]) -> Result<Self, LinkError> {
        let address = SocketAddrUnix::new(path).map_err(system("use the link's path"))?;
        let fd = sys::new_socket().map_err(system("make a socket"))?;
        connect(&fd, &address).map_err(system("connect to the host-agent"))?;
        let user = sys::peer_user(&fd).map_err(system("get the host-agent's user"))?;
        if !trusted_users.contains(&user) {
            return Err(LinkError::ForeignUser(user));
        }
        Ok(Self { fd, received: Decoder::new(), descriptors: VecDeque::new(), unsent: BytesMut::new() })
    }

    /// True if at most half of the bytes that may wait do: the rest is for answers and counters.
    pub(super) fn has_space(&self) -> bool {
        self.unsent.len() <= MAX_UNSENT / 2
    }

    /// Queues a message and sends as much as the socket takes.
    pub(super) fn send(&mut self, message: &FromTap) -> Result<(), LinkError> {
        let encoded = message.encode();
        if self.unsent.len() + encoded.len() > MAX_UNSENT {
            return Err(LinkError::Overrun("the host-agent does not read"));
        }
        self.unsent.extend_from_slice(&encoded.head);
        self.unsent.extend_from_slice(&encoded.body);
        self.flush()
    }

    /// Sends as much of the queued bytes as the socket takes.
    pub(super) fn flush(&mut self) -> Result<(), LinkError> {
        while !self.unsent.is_empty() {
            let mut none = SendAncillaryBuffer::default();
            match sendmsg(&self.fd, &[IoSlice::new(&self.unsent)], &mut none, sys::SEND) {
                Ok(sent) => self.unsent.advance(sent),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(LinkError::Closed),
                Err(errno) => return Err(system("send to the host-agent")(errno)),
            }
        }
        Ok(())
    }

    /// The next message that has arrived, with its descriptors.
    pub(super) fn receive(&mut self) -> Result<Option<(ToTap, Vec<OwnedFd>)>, LinkError> {
        loop {
            if let Some(message) = self.received.next_message()? {
                return self.with_descriptors(message).map(Some);
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    fn with_descriptors(&mut self, message: ToTap) -> Result<(ToTap, Vec<OwnedFd>), LinkError> {
        let wanted = if matches!(message, ToTap::Attach { .. }) { ATTACH_DESCRIPTORS } else { 0 };
        if self.descriptors.len() < wanted {
            return Err(LinkError::Protocol("an attach without its two descriptors"));
        }
        Ok((message, self.descriptors.drain(..wanted).collect()))
    }

    /// Reads once; false if nothing has arrived. The kernel delivers descriptors with the first byte of
    /// their message or, if it joins messages, with bytes before it: never later.
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
            return Err(LinkError::Protocol("more descriptors than the messages need"));
        }
        if got.bytes == 0 {
            return Err(LinkError::Closed);
        }
        let chunk = chunk.get(..got.bytes).ok_or(LinkError::Closed)?;
        self.received.push(chunk);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listener_of_another_user_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("link.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).expect("listening");
        let user = rustix::process::getuid().as_raw();
        Socket::connect(&path, &[user]).expect("own user");
        let refused = Socket::connect(&path, &[user + 1]);
        assert!(matches!(refused, Err(LinkError::ForeignUser(peer)) if peer == user), "{refused:?}");
    }
}
