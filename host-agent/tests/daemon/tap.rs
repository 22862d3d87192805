//! A tap without a VM: uses the link protocol and writes real rings. Blocking, with a timeout.

use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use bytes::Bytes;
use frame_ring::wake::Waker;
use frame_ring::{Meta, Producer};
use protocol::frame::{HEADER_BYTES, Header};
use protocol::link::{Context, FromTap, Stats, ToTap, VERSION, to_tap_limit};
use protocol::{PixelFormat, Rect};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use crate::rig::TIMEOUT;

pub struct Tap {
    stream: UnixStream,
}

/// A ring that the host-agent attached.
pub struct AttachedRing {
    pub session: u64,
    pub context: Context,
    pub producer: Producer,
    waker: Waker,
}

/// A `Hello` with a range of protocol versions.
pub fn hello(vm: &str, min: u16, max: u16) -> FromTap {
    FromTap::Hello {
        min,
        max,
        tap_version: 3,
        instance: [vm.len() as u8; 16],
        pid: std::process::id(),
        abi: 1,
        vm: vm.to_owned(),
    }
}

impl Tap {
    pub fn connect(link: &Path, vm: &str) -> Self {
        let mut tap = Self::connect_silently(link);
        tap.send(&hello(vm, VERSION, VERSION));
        assert!(matches!(tap.next().0, ToTap::HelloAck { version: VERSION }));
        tap
    }

    /// Connects without a `Hello`.
    pub fn connect_silently(link: &Path) -> Self {
        let stream = UnixStream::connect(link).expect("connected");
        stream.set_read_timeout(Some(TIMEOUT)).expect("timeout set");
        Self { stream }
    }

    pub fn send(&mut self, message: &FromTap) {
        self.send_bytes(&message.encode().to_vec());
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("written");
    }

    pub fn bind(&mut self, context: Context, nonce: [u8; 16]) {
        self.send(&FromTap::Bind { context, nonce, name: "sidecar".to_owned() });
    }

    pub fn stats(&mut self, stats: Stats) {
        self.send(&FromTap::Stats(stats));
    }

    /// The next message about a ring, and the descriptors that accompany its first byte.
    pub fn next(&mut self) -> (ToTap, Vec<OwnedFd>) {
        loop {
            match self.next_of_any() {
                (ToTap::Expect(_) | ToTap::Forget(_), _) => {}
                other => return other,
            }
        }
    }

    fn next_of_any(&mut self) -> (ToTap, Vec<OwnedFd>) {
        let mut header = [0; HEADER_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            &self.stream,
            &mut [IoSliceMut::new(&mut header)],
            &mut control,
            RecvFlags::empty(),
        );
        let received = received.expect("a message").bytes;
        assert!(received > 0, "the host-agent closed the link");
        let fds = control.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
            _ => Vec::new(),
        });
        let fds = fds.collect();
        self.stream.read_exact(&mut header[received..]).expect("a header");
        let header = Header::decode(header, to_tap_limit).expect("decoded");
        let mut payload = vec![0; header.len as usize];
        self.stream.read_exact(&mut payload).expect("a payload");
        (ToTap::decode(header, Bytes::from(payload)).expect("decoded"), fds)
    }

    /// Waits for `Attach`, and confirms it.
    pub fn attached(&mut self) -> AttachedRing {
        let (message, fds) = self.next();
        let ToTap::Attach { session, ring, context } = message else {
            panic!("expected Attach: {message:?}")
        };
        let [memory, waker] = <[OwnedFd; 2]>::try_from(fds).expect("two descriptors");
        let producer = Producer::map(memory).expect("mapped");
        self.send(&FromTap::RingReady { session, ring });
        AttachedRing { session, context, producer, waker: Waker::new(waker).expect("a socket") }
    }

    /// Waits for `Detach` and returns its session.
    pub fn detached(&mut self) -> u64 {
        match self.next().0 {
            ToTap::Detach { session } => session,
            other => panic!("expected Detach: {other:?}"),
        }
    }

    /// Waits until the host-agent closes the link; false if it does not in time.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = [0; 4096];
        loop {
            match self.stream.read(&mut rest) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
            }
        }
    }
}

impl AttachedRing {
    /// Publishes a grey frame and wakes the host-agent. Its capture time is `grey`.
    pub fn publish(&mut self, seq: u64, (width, height): (u32, u32), grey: u8) {
        let mut slot = self.producer.claim().expect("a slot");
        slot.bytes_mut()[..4 * (width * height) as usize].fill(grey);
        let meta = Meta {
            seq,
            format: PixelFormat::Bgrx,
            width,
            height,
            stride: 4 * width,
            damage: Rect::full(width, height),
            capture_ns: u64::from(grey),
            read_ns: 5000,
            full_at_ns: 0,
        };
        assert!(slot.publish(meta), "the description fits");
        self.waker.wake();
    }
}
