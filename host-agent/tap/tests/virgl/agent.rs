//! A minimal host-agent: the other end of the link.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use frame_ring::wake::{self, WakeFd};
use frame_ring::{Consumer, Ring, Slot};
use protocol::frame::{HEADER_BYTES, Header};
use protocol::link::{Context, FromTap, RingRefusal, Stats, ToTap, VERSION, from_tap_limit};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// Longest wait for any event.
pub const TIMEOUT: Duration = Duration::from_secs(20);

pub struct Agent {
    listener: UnixListener,
}

/// A connection of a tap.
pub struct Link {
    stream: UnixStream,
}

/// A session's ring and wake fd.
pub struct Session {
    pub consumer: Consumer,
    wake_fd: WakeFd,
}

impl Agent {
    /// Listens on the path that the tap connects to.
    pub fn listen() -> Self {
        let path = PathBuf::from(std::env::var_os("DESKTOPSTREAM_LINK").expect("path"));
        let _old = std::fs::remove_file(&path);
        Self { listener: UnixListener::bind(path).expect("listen") }
    }

    /// Accepts a connection; the hello is unread.
    pub fn accept_raw(&self) -> UnixStream {
        wait_readable(&self.listener);
        let (stream, _) = self.listener.accept().expect("accept");
        stream.set_read_timeout(Some(TIMEOUT)).expect("timeout");
        stream
    }

    /// Accepts a connection, checks the hello and answers it.
    pub fn accept(&self) -> Link {
        let mut link = Link { stream: self.accept_raw() };
        match link.next() {
            Some(FromTap::Hello { min, max, tap_version, pid, abi, vm, instance }) => {
                assert!(min <= VERSION && VERSION <= max);
                assert_eq!((tap_version, pid, abi), (tap::VERSION, std::process::id(), 1));
                assert_eq!(vm, "test-vm");
                assert_ne!(instance, [0; 16]);
            }
            other => unreachable!("{other:?}"),
        }
        link.send_message(&ToTap::HelloAck { version: VERSION }, &[]);
        link
    }
}

/// Waits until a descriptor is readable.
fn wait_readable(fd: &impl AsFd) {
    let mut ready = [rustix::event::PollFd::new(fd, rustix::event::PollFlags::IN)];
    let limit = TIMEOUT.try_into().expect("time");
    assert_eq!(rustix::event::poll(&mut ready, Some(&limit)), Ok(1), "not readable within {TIMEOUT:?}");
}

impl From<UnixStream> for Link {
    fn from(stream: UnixStream) -> Self {
        Self { stream }
    }
}

impl Link {
    /// The next message; `None` if the tap closed the connection.
    pub fn next(&mut self) -> Option<FromTap> {
        let mut header = [0; HEADER_BYTES];
        match self.stream.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return None,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
            Err(error) => unreachable!("{error}"),
        }
        let header = Header::decode(header, from_tap_limit).expect("header");
        let mut payload = vec![0; header.len as usize];
        self.stream.read_exact(&mut payload).expect("payload");
        Some(FromTap::decode(header, Bytes::from(payload)).expect("message"))
    }

    /// The next message other than stats.
    pub fn next_event(&mut self) -> FromTap {
        loop {
            match self.next().expect("link") {
                FromTap::Stats(_) => {}
                other => return other,
            }
        }
    }

    /// Waits for stats that satisfy `wanted`.
    pub fn stats(&mut self, wanted: impl Fn(&Stats) -> bool) -> Stats {
        let end = Instant::now() + TIMEOUT;
        loop {
            assert!(Instant::now() < end, "no such stats within {TIMEOUT:?}");
            match self.next().expect("link") {
                FromTap::Stats(stats) if wanted(&stats) => return stats,
                _ => {}
            }
        }
    }

    /// Waits for a bind with this nonce; returns the context and its name.
    pub fn bound(&mut self, nonce: [u8; 16]) -> (Context, String) {
        match self.next_event() {
            FromTap::Bind { context, nonce: heard, name } if heard == nonce => (context, name),
            other => unreachable!("{other:?}"),
        }
    }

    /// Sends bytes with descriptors.
    pub fn send(&mut self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
        }
        let sent = sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
        assert!(sent.is_ok_and(|sent| sent == bytes.len()) || bytes.is_empty());
    }

    /// Sends a message with descriptors.
    pub fn send_message(&mut self, message: &ToTap, descriptors: &[BorrowedFd<'_>]) {
        self.send(&message.encode().to_vec(), descriptors);
    }

    /// Attaches a session with a new ring to a context, and waits until the tap has mapped it.
    pub fn attach(&mut self, session: u64, context: Context, slot_bytes: usize) -> Session {
        let (consumer, memory) = Ring::create(frame_ring::SLOTS, slot_bytes).expect("ring");
        let (wake_fd, waker) = wake::pair().expect("pair");
        let waker = OwnedFd::from(waker);
        let attach = ToTap::Attach { session, ring: session + 1000, context };
        self.send_message(&attach, &[memory.as_fd(), waker.as_fd()]);
        assert_eq!(self.next_event(), FromTap::RingReady { session, ring: session + 1000 });
        Session { consumer, wake_fd }
    }

    /// Waits for the refusal of a ring.
    pub fn refusal(&mut self) -> RingRefusal {
        match self.next_event() {
            FromTap::RingRefused { refusal, .. } => refusal,
            other => unreachable!("{other:?}"),
        }
    }

    /// Sends bytes that may be malformed; the tap may close the connection meanwhile.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        let _sent = self.stream.write_all(bytes);
    }
}

impl Session {
    /// Takes the newest frame; waits for the wake fd while there is none.
    pub fn take_frame(&mut self) -> Slot {
        let end = Instant::now() + TIMEOUT;
        while Instant::now() < end {
            if let Some(slot) = self.consumer.newest() {
                return slot;
            }
            wait_readable(&self.wake_fd);
            self.wake_fd.clear();
        }
        unreachable!("no frame within {TIMEOUT:?}")
    }
}
