//! A VM with a sidecar: a fake reader, a fake clock, and mailbox pages in plain memory.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use frame_ring::wake::{self, WakeFd};
use frame_ring::{Consumer, Ring};
use protocol::link::{Context, nonce_prefix};
use protocol::mailbox::{self, Answer, FrameRequest, Operation, Request, Status};
use protocol::{PixelFormat, Rect};
use tap::abi::{CreateArgs, FORMAT_B8G8R8X8, PIPE_TEXTURE_2D};
use tap::binding::{Attachment, Ring as MappedRing};
use tap::memory::Page;
use tap::reader::{Job, ReadError, Reader};
use tap::shared::{Event, Shared};
use tap::vmm::Vmm;

pub const MAILBOX: u32 = 100;
pub const SCREEN: u32 = 200;
pub const SIDECAR: u32 = 7;
pub const WIDTH: u32 = 64;
pub const HEIGHT: u32 = 16;
pub const MS: u64 = 1_000_000;
/// Nonce of a session.
pub const NONCE: [u8; 16] = [9; 16];

thread_local! {
    /// The fake clock of this thread's VM, ns. It stands still unless a test advances it.
    static NOW: Cell<u64> = const { Cell::new(1 << 40) };
}

pub fn now() -> u64 {
    NOW.get()
}

pub fn advance(ns: u64) {
    NOW.set(NOW.get() + ns);
}

/// Fills the slot with the low byte of the resource's ID, or misbehaves.
#[derive(Debug)]
pub struct Fake {
    pub behavior: Behavior,
    /// Time that a read takes, ns.
    pub slow: u64,
}

#[derive(Debug)]
pub enum Behavior {
    Works,
    Fails,
    Panics,
}

impl Fake {
    pub fn works() -> Self {
        Self { behavior: Behavior::Works, slow: 5 }
    }

    pub fn fails() -> Self {
        Self { behavior: Behavior::Fails, slow: 0 }
    }

    pub fn panics() -> Self {
        Self { behavior: Behavior::Panics, slow: 0 }
    }
}

impl Reader for Fake {
    fn read(&mut self, job: &Job, out: &mut [u8]) -> Result<u64, ReadError> {
        advance(self.slow);
        match self.behavior {
            Behavior::Works => {
                assert_eq!(out.len(), job.bytes());
                out.fill(job.resource as u8);
                Ok(self.slow)
            }
            Behavior::Fails => Err(ReadError::Refused(22)),
            Behavior::Panics => std::panic::resume_unwind(Box::new("reader")),
        }
    }
}

pub struct Vm {
    pub vmm: Vmm<Fake>,
    pub shared: Arc<Shared>,
    pub words: &'static [AtomicU64; 512],
    pub seq: u64,
    /// Receiving ends of wake fds, kept open; the first is the link thread's.
    pub wake_fds: Vec<WakeFd>,
    /// Attachments that the link thread keeps.
    pub attachments: Vec<Arc<Attachment>>,
}

pub fn memory() -> &'static [AtomicU64; 512] {
    Box::leak(Box::new([const { AtomicU64::new(0) }; 512]))
}

pub fn mailbox(handle: u32) -> CreateArgs {
    CreateArgs {
        handle,
        target: PIPE_TEXTURE_2D,
        format: mailbox::VIRGL_FORMAT,
        width: mailbox::WIDTH,
        height: 1,
        ..CreateArgs::default()
    }
}

pub fn screen(handle: u32) -> CreateArgs {
    CreateArgs {
        handle,
        target: PIPE_TEXTURE_2D,
        format: FORMAT_B8G8R8X8,
        width: WIDTH,
        height: HEIGHT,
        ..CreateArgs::default()
    }
}

pub fn frame(resource: u32) -> FrameRequest {
    FrameRequest {
        resource,
        format: PixelFormat::Bgrx,
        width: WIDTH as u16,
        height: HEIGHT as u16,
        stride: 4 * WIDTH,
        damage: Rect::full(WIDTH, HEIGHT),
        capture_ns: 77,
    }
}

impl Vm {
    /// A VM with a sidecar that has a mailbox and is attached to a screen.
    pub fn new(reader: Fake) -> Self {
        let (wake_fd, waker) = wake::pair().expect("pair");
        let shared = Arc::new(Shared::new(waker));
        let mut vmm = Vmm::new(Arc::clone(&shared), reader, now);
        let words = memory();
        vmm.context_create(SIDECAR, "sidecar".to_owned());
        vmm.resource_create(mailbox(MAILBOX), None);
        vmm.attach_memory(MAILBOX, Some(Page::from_static(words)));
        vmm.attach(SIDECAR, MAILBOX);
        vmm.resource_create(screen(SCREEN), None);
        vmm.attach(SIDECAR, SCREEN);
        Self { vmm, shared, words, seq: 0, wake_fds: vec![wake_fd], attachments: Vec::new() }
    }

    /// The same, with a host-agent and a session.
    pub fn bound() -> (Self, Consumer, Context) {
        let mut vm = Self::new(Fake::works());
        vm.shared.connect();
        let context = vm.announce();
        let consumer = vm.session(1, context, 4 * (WIDTH * HEIGHT) as usize);
        (vm, consumer, context)
    }

    pub fn announce(&mut self) -> Context {
        self.shared.expected.insert(nonce_prefix(&NONCE));
        assert_eq!(self.request(Operation::Bind(NONCE)).status, Status::Ok);
        match self.shared.next_event(self.shared.epoch()) {
            Some(Event::Bind { context, nonce: NONCE, .. }) => context,
            other => unreachable!("{other:?}"),
        }
    }

    pub fn session(&mut self, session: u64, context: Context, slot_bytes: usize) -> Consumer {
        let (consumer, attachment) = self.attachment(session, context, slot_bytes);
        assert!(self.shared.send_attachment(attachment));
        consumer
    }

    pub fn attachment(
        &mut self,
        session: u64,
        context: Context,
        slot_bytes: usize,
    ) -> (Consumer, Arc<Attachment>) {
        let (consumer, fd) = Ring::create(frame_ring::SLOTS, slot_bytes).expect("ring");
        let producer = frame_ring::Producer::map(fd).expect("map");
        let (wake_fd, waker) = wake::pair().expect("pair");
        self.wake_fds.push(wake_fd);
        let charge = self.shared.ring_bytes.charge(slot_bytes as u64).expect("below the limit");
        let ring = MappedRing { producer, waker, charge };
        let attachment = Attachment::new(session, self.shared.epoch(), context, ring);
        self.attachments.push(Arc::clone(&attachment));
        (consumer, attachment)
    }

    pub fn put(&self, slot: usize, bytes: &[u8; 64]) {
        for (at, bytes) in bytes.as_chunks::<8>().0.iter().enumerate() {
            let word = &self.words[mailbox::request_offset(slot) / 8 + at];
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
    }

    pub fn answer(&self, slot: usize) -> Answer {
        let mut bytes = [0; 64];
        for (bytes, word) in bytes.chunks_exact_mut(8).zip(&self.words[mailbox::answer_offset(slot) / 8..]) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        Answer::decode(&bytes).expect("answer")
    }

    /// Sends a request, stamped with `context`; `None` if it was not answered.
    pub fn request_as(&mut self, context: u32, operation: Operation) -> Option<Answer> {
        self.seq += 1;
        let slot = (self.seq as usize) % mailbox::SLOTS;
        self.put(slot, &Request { seq: self.seq, operation }.encode());
        self.vmm.transfer_write(MAILBOX, context, mailbox::request_offset(slot) as u64);
        Some(self.answer(slot)).filter(|answer| answer.seq == self.seq)
    }

    pub fn request(&mut self, operation: Operation) -> Answer {
        self.request_as(SIDECAR, operation).expect("answered")
    }

    pub fn frame(&mut self, request: FrameRequest) -> Status {
        self.request(Operation::Frame(request)).status
    }
}
