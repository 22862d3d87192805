//! A tap without a VM: speaks the link and writes real rings. Blocking, with a bound.

use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use bytes::Bytes;
use protocol::frame::{HEADER_BYTES, Header};
use protocol::link::{Context, FromTap, Stats, ToTap, VERSION, to_tap_limit};
use protocol::{PixelFormat, Rect};
use frame_ring::wake::Waker;
use frame_ring::{Meta, Producer};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use crate::rig::PATIENCE;

pub struct Tap {
    stream: UnixStream,
}

/// What the host-agent attached.
pub struct Attached {
    pub session: u64,
    pub context: Context,
    pub producer: Producer,
    pub bell: Waker,
}

impl Tap {
    pub fn connect(link: &Path, vm: &str) -> Self {
        let mut tap = Self::silent(link);
        tap.send(&FromTap::Hello {
            min: VERSION,
            max: VERSION,
            tap_version: 3,
            instance: [vm.len() as u8; 16],
            pid: std::process::id(),
            abi: 1,
            vm: vm.to_owned(),
        });
        assert!(matches!(tap.next().0, ToTap::HelloAck { version: VERSION }));
        tap
    }

    /// Connected, and said nothing yet.
    pub fn silent(link: &Path) -> Self {
        let stream = UnixStream::connect(link).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
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

    /// The next message and the descriptors that came with its first byte.
    pub fn next(&mut self) -> (ToTap, Vec<OwnedFd>) {
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
        self.stream.read_exact(&mut header[received..]).expect("the whole header");
        let header = Header::decode(header, to_tap_limit).expect("a header");
        let mut payload = vec![0; header.len as usize];
        self.stream.read_exact(&mut payload).expect("the payload");
        (ToTap::decode(header, Bytes::from(payload)).expect("decodes"), fds)
    }

    pub fn attached(&mut self) -> Attached {
        let (message, fds) = self.next();
        let ToTap::Attach { session, context } = message else { panic!("no attach: {message:?}") };
        let [memory, bell] = <[OwnedFd; 2]>::try_from(fds).expect("two descriptors");
        let producer = Producer::map(memory).expect("a ring");
        Attached { session, context, producer, bell: Waker::new(bell).expect("a socket") }
    }

    pub fn detached(&mut self) -> u64 {
        match self.next().0 {
            ToTap::Detach { session } => session,
            other => panic!("no detach: {other:?}"),
        }
    }

    /// Whether the host-agent closed the link.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0) | Err(_))
    }
}

impl Attached {
    /// Puts a grey picture into the ring and rings.
    pub fn frame(&mut self, seq: u64, (width, height): (u32, u32), grey: u8) {
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
        assert!(slot.publish(meta), "it fits");
        self.bell.wake();
    }
}
