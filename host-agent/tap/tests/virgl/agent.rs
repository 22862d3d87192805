//! A host-agent of a few lines: the other end of the link.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use protocol::frame::{HEADER_BYTES, Header};
use protocol::link::{Context, FromTap, Stats, ToTap, VERSION, from_tap_limit};
use frame_ring::{Consumer, Ring, Slot, doorbell};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Agent {
    listener: UnixListener,
}

/// One tap's connection.
pub struct Link {
    stream: UnixStream,
}

/// A session's ring and bell.
pub struct Session {
    pub consumer: Consumer,
    bell: UnixStream,
}

impl Agent {
    /// Listens where the tap looks.
    pub fn listen() -> Self {
        let path = PathBuf::from(std::env::var_os("DESKTOPSTREAM_LINK").expect("path"));
        let _old = std::fs::remove_file(&path);
        Self { listener: UnixListener::bind(path).expect("listen") }
    }

    /// The next tap, before hello.
    pub fn accept_raw(&self) -> UnixStream {
        let mut ready = [rustix::event::PollFd::new(&self.listener, rustix::event::PollFlags::IN)];
        let limit = PATIENCE.try_into().expect("time");
        assert_eq!(rustix::event::poll(&mut ready, Some(&limit)), Ok(1), "no tap connects");
        let (stream, _) = self.listener.accept().expect("accept");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        stream
    }

    /// The next tap, after hello; checks what it says of itself.
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
        link.say(&ToTap::HelloAck { version: VERSION }, &[]);
        link
    }
}

impl From<UnixStream> for Link {
    fn from(stream: UnixStream) -> Self {
        Self { stream }
    }
}

impl Link {
    /// The next message; `None` when the tap hung up.
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

    /// The next message that is no statistics.
    pub fn next_event(&mut self) -> FromTap {
        loop {
            match self.next().expect("link") {
                FromTap::Stats(_) => {}
                other => return other,
            }
        }
    }

    /// Waits for statistics that are as wanted.
    pub fn stats(&mut self, wanted: impl Fn(&Stats) -> bool) -> Stats {
        let end = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < end, "no such statistics");
            match self.next().expect("link") {
                FromTap::Stats(stats) if wanted(&stats) => return stats,
                _ => {}
            }
        }
    }

    /// Waits for a bind with this nonce.
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

    pub fn say(&mut self, message: &ToTap, descriptors: &[BorrowedFd<'_>]) {
        self.send(&message.encode().to_vec(), descriptors);
    }

    /// Gives a context a ring.
    pub fn attach(&mut self, session: u64, context: Context, slot_bytes: usize) -> Session {
        let (consumer, memory) = Ring::create(frame_ring::SLOTS, slot_bytes).expect("ring");
        let (bell, ring): (_, OwnedFd) = doorbell::pair().expect("pair");
        self.say(&ToTap::Attach { session, context }, &[memory.as_fd(), ring.as_fd()]);
        bell.set_nonblocking(false).expect("blocking");
        bell.set_read_timeout(Some(PATIENCE)).expect("timeout");
        Session { consumer, bell }
    }

    /// Writes bytes that may be nonsense; the tap may hang up meanwhile.
    pub fn babble(&mut self, bytes: &[u8]) {
        let _sent = self.stream.write_all(bytes);
    }
}

impl Session {
    /// Waits for the bell, then takes the newest picture.
    pub fn picture(&mut self) -> Slot {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(slot) = self.consumer.newest() {
                return slot;
            }
            self.bell.read_exact(&mut [0]).expect("the bell rings");
        }
        unreachable!("no picture")
    }
}
